"""The real step, captured and replayed by the stand-in for CUDA graphs, against the eager one."""

import json
from copy import deepcopy
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from launch import TWO_STEPS
from recorded_graphs import Cuda
from torch.nn import functional as F

from cnnbp.data.augment import Augment
from cnnbp.data.datamodule import DataModule
from cnnbp.errors import UserError
from cnnbp.model.network import Network
from cnnbp.training import schedules
from cnnbp.training.capture import WARM_UP_STEPS, CapturedEvaluation, CapturedStep, DeviceStep
from cnnbp.training.classifier import Classifier, parameter_groups
from cnnbp.training.moving_average import MovingAverage
from cnnbp.training.muon import Muon
from cnnbp.training.step import EvaluationStep, TrainingStep

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3, fused=True),
    "adam": partial(torch.optim.Adam, lr=1e-3, fused=True),
    "adamw": partial(torch.optim.AdamW, lr=1e-3, betas=[0.9, 0.99], fused=True),
    # as torch chooses by itself on a GPU
    "rmsprop": partial(torch.optim.RMSprop, lr=1e-3, momentum=0.5, foreach=True),
    "muon": partial(Muon, lr=1e-2, momentum=0.95, weight_decay=0.01),
}
ALL = Augment(degrees=10, shift=2, scale=0.1, shear=5, elastic=1, erase=8)
SCHEDULES = {
    "linear": partial(schedules.linear, warmup=0.3, final_lr=1e-4),
    "cosine": partial(schedules.cosine, warmup=0.3, final_lr=1e-4),
    "one_cycle": partial(schedules.one_cycle, warmup=0.3),
    "step": partial(schedules.step, every=1, gamma=0.5),
}


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """No kernel of ours, which hides from the recording; capturable optimizers on the CPU too."""
    for module in ("dropout", "fused"):
        monkeypatch.setattr(f"cnnbp.model.{module}.runs_eagerly", lambda: False)
    for name in ("adam", "rmsprop"):
        module = import_module(f"torch.optim.{name}")
        monkeypatch.setattr(module, "_get_capturable_supported_devices", lambda *_, **__: ["cpu"])


def batch(number, size=6):
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(0, 256, (size, 28, 28), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 10, (size,), generator=generator)


def values(network):
    return list(network.state_dict().values())


class Run:
    """Steps of the published network, small, by a runner."""

    def __init__(self, make_runner, optimizer="sgd", schedule=None, network=(), **options):
        torch.manual_seed(2)
        net = Network(widths=(8, 6, 4, 6, 4), **dict(network))
        self.network = net.to(memory_format=torch.channels_last).train()
        self.optimizer = OPTIMIZERS[optimizer](parameter_groups(self.network))
        self.schedule = SCHEDULES[schedule](self.optimizer, 3, 4) if schedule else None
        data = DataModule()
        parts = (self.network, self.optimizer, data.as_pixels, data.normalise)
        self.averaged = deepcopy(self.network)
        self.average = MovingAverage(values(self.averaged), values(self.network))
        self.step = TrainingStep(*parts, average=self.average, **options)
        self.runner = make_runner(self.step)
        self.trace = []

    def take(self, number, first=True, last=True, size=6):
        """Take a step by its number, which seeds it, and keep all that it leaves."""
        torch.manual_seed(1000 + number)
        self.average.set_share(1 / (1 + number // 2))
        loss = self.runner(*batch(number, size), first, last)
        gradients = [parameter.grad.clone() for parameter in self.step.parameters]
        state = [value.clone() for value in values(self.network)]
        averages = [value.clone() for value in values(self.averaged)]
        sums = [value.clone() for value in self.step.sums().values()]
        self.trace.append([loss.clone(), *gradients, *state, *averages, *sums])
        if self.schedule and last:
            self.schedule["scheduler"].step()


def runs(cuda=None, **options):
    """The same run eagerly and captured."""
    cuda = cuda or Cuda()
    return Run(DeviceStep, **options), Run(partial(CapturedStep, cuda=cuda), **options), cuda


def assert_same_bits(eager, captured):
    assert len(eager.trace) == len(captured.trace)
    for number, (expected, found) in enumerate(zip(eager.trace, captured.trace, strict=True)):
        for value, other in zip(expected, found, strict=True):
            assert torch.equal(value, other), number
            assert value.isfinite().all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_with_augmentation_and_dropout(name):
    eager, captured, cuda = runs(
        optimizer=name, schedule="one_cycle", augment=ALL, label_smoothing=0.1
    )
    for number in range(7):
        eager.take(number)
        captured.take(number)
    assert_same_bits(eager, captured)
    assert (cuda.captures, cuda.replays) == (1, 4)


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"one_cycle"}))
def test_every_schedule_reaches_the_replays(name):
    eager, captured, cuda = runs(schedule=name)
    for number in range(7):
        eager.take(number)
        captured.take(number)
    assert_same_bits(eager, captured)
    assert cuda.replays == 4
    # a number for checkpoints and logs, not the tensor that the graph reads
    rates = [group["lr"] for group in captured.optimizer.param_groups]
    assert all(isinstance(rate, float) for rate in rates)
    assert rates == [group["lr"] for group in eager.optimizer.param_groups]


@pytest.mark.parametrize(("clip", "clip_by"), [(0.1, "norm"), (0.01, "value")])
def test_clipping(clip, clip_by):
    eager, captured, cuda = runs(clip=clip, clip_by=clip_by)
    for number in range(6):
        eager.take(number)
        captured.take(number)
    assert_same_bits(eager, captured)
    assert cuda.replays == 3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_loss_scaling(name):
    """From a scale at which float16 overflows in the warm-up and in replays."""
    traces = []
    for make_runner in (DeviceStep, partial(CapturedStep, cuda=Cuda())):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=1)
        run = Run(make_runner, optimizer=name, scaler=scaler, clip=1.0)
        trace = []
        for number in range(10):
            with torch.autocast("cpu", torch.float16):
                run.take(number)
            weights = [value.clone() for value in values(run.network)]
            trace.append([torch.tensor(scaler.get_scale()), *weights])
        traces.append(trace)
    for expected, found in zip(*traces, strict=True):
        for value, other in zip(expected, found, strict=True):
            assert torch.equal(value, other)
    later = [found[0] for found in traces[1][WARM_UP_STEPS:]]
    assert any(after < before for before, after in pairwise(later))
    assert any(after > before for before, after in pairwise(later))


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_accumulation(count):
    """First, middle and last batches are graphs of their own, and share the gradients' sums."""
    eager, captured, cuda = runs(accumulate=count, clip=0.1)
    for number in range(6 * count):
        position = number % count
        for run in (eager, captured):
            run.take(number, first=position == 0, last=position == count - 1)
    assert_same_bits(eager, captured)
    assert cuda.captures == min(count, 3)


def test_the_sums_of_gradients_are_those_of_one_graph():
    """Against one backward pass over all the batches, for the batches between first and last."""
    network = (("norm", "none"), ("dropout", (0, 0, 0, 0)))
    _, captured, _ = runs(accumulate=4, network=network)
    for number in range(20):
        captured.take(number, first=number % 4 == 0, last=False)
    images = torch.cat([batch(number)[0] for number in range(16, 20)])
    labels = torch.cat([batch(number)[1] for number in range(16, 20)])
    loss, _ = captured.step.forward(images, labels)
    expected = torch.autograd.grad(loss, captured.step.parameters)
    for parameter, gradient in zip(captured.step.parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_a_smaller_last_batch():
    eager, captured, cuda = runs(augment=ALL)
    for number in range(10):
        for run in (eager, captured):
            run.take(number, size=6 if number % 2 else 4)
    assert_same_bits(eager, captured)
    assert cuda.captures == 2


def test_another_number_of_the_optimizer_is_captured_anew():
    eager, captured, cuda = runs()
    for number in range(10):
        for run in (eager, captured):
            if number == 5:
                run.optimizer.param_groups[0]["momentum"] = 0.5
            run.take(number)
    assert_same_bits(eager, captured)
    assert cuda.captures == 2


@pytest.mark.parametrize("cause", ["driver", "part"])
def test_what_cannot_be_captured_goes_on_eagerly_with_one_line(cause, caplog):
    caplog.set_level("INFO")
    words = "the driver is too old"

    def looks_at_a_value(pixels):
        return pixels * (1.5 if pixels.mean().item() > 1 else 1)

    options = {"augment": looks_at_a_value} if cause == "part" else {}
    eager, captured, _ = runs(cuda=Cuda(fails=words if cause == "driver" else ""), **options)
    for number in range(6):
        eager.take(number)
        captured.take(number)
    assert_same_bits(eager, captured)
    (record,) = [record for record in caplog.records if "CUDA graph" in record.message]
    expected = words if cause == "driver" else "not permitted when stream is capturing"
    assert record.message.endswith(expected)


def test_a_required_capture_that_fails_is_an_error():
    cuda = Cuda(fails="operation not permitted when stream is capturing\nmore")
    run = Run(partial(CapturedStep, cuda=cuda, required=True))
    for number in range(WARM_UP_STEPS):
        run.take(number)
    with pytest.raises(UserError, match=r"trainer.graph=true: .*not permitted .*graph=auto"):
        run.take(WARM_UP_STEPS)


def test_the_loss_that_is_returned_is_kept():
    _, captured, _ = runs()
    losses = [captured.runner(*batch(number)) for number in range(7)]
    assert len({loss.item() for loss in losses}) == 7


def test_a_size_that_is_seldom_runs_eagerly():
    _, captured, cuda = runs()
    for number in range(8):
        captured.take(number, size=6 if number < 5 else 2)
    assert cuda.captures == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_evaluation(mode):
    """Each size of a batch by its own graph, also after the weights have moved in place."""
    torch.manual_seed(2)
    network, cuda = Network(widths=(8, 6, 4, 6, 4)).eval(), Cuda()
    device = torch.device("cpu")
    eager, step = (
        EvaluationStep(network, DataModule().prepare, F.cross_entropy, device) for _ in range(2)
    )
    captured = CapturedEvaluation(step, cuda=cuda)
    expected, found = [], []
    for _ in range(2):
        eager.reset_sums()
        step.reset_sums()
        with mode():
            for number in range(10):
                images = batch(number, size=4 if number % 2 else 6)
                expected.append(eager(*images))
                found.append(captured(*images))
        assert step.sums() == eager.sums()
        for parameter in network.parameters():
            parameter.data.mul_(1.1)
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)
    assert (cuda.captures, cuda.replays) == (2, 14)


def test_a_run_ends_in_the_same_bits(train, monkeypatch):
    """Through Lightning: averages are swapped in for each evaluation, and saved."""
    cuda, options = Cuda(), ("average=ema", "augment=all", "optimizer=muon", "scheduler=one_cycle")
    sizes = ("trainer.limit_train_batches=9", "trainer.limit_val_batches=5", "data.val_size=500")
    kinds = {
        "eager": (DeviceStep, lambda step: step),
        "captured": (partial(CapturedStep, cuda=cuda), partial(CapturedEvaluation, cuda=cuda)),
    }
    for name, (runner, evaluation) in kinds.items():
        monkeypatch.setattr(Classifier, "_on_device", lambda self, _, r=runner: r(self.step))
        monkeypatch.setattr(
            Classifier, "_evaluation_on_device", lambda _, step, e=evaluation: e(step)
        )
        accumulate = "trainer.accumulate_grad_batches=2"
        common = (*TWO_STEPS, "trainer.max_epochs=2", "logger=none", "~callbacks.dashboard")
        train(*common, *sizes, *options, accumulate, f"name={name}")
    eager, captured = (
        torch.load(f"outputs/{name}/checkpoints/last.ckpt", weights_only=True) for name in kinds
    )
    for part in ("state_dict", "current_model_state", "train_sums"):
        for name, value in eager[part].items():
            assert torch.equal(value, captured[part][name]), (part, name)
    results = [json.loads(Path(f"outputs/{name}/result.json").read_text()) for name in kinds]
    for key in ("accuracy", "loss", "val_accuracy", "val_loss"):
        assert results[0][key] == results[1][key]
    # first and second batches of a step, and evaluation
    assert cuda.captures == 3
    assert cuda.replays == 5 + 5 + 7


def test_an_evaluation_that_cannot_be_captured_goes_on_eagerly(caplog):
    caplog.set_level("INFO")
    network, device = Network().eval(), torch.device("cpu")
    eager, step = (
        EvaluationStep(network, DataModule().prepare, F.cross_entropy, device) for _ in range(2)
    )
    evaluation = CapturedEvaluation(step, cuda=Cuda(fails="no memory"))
    with torch.inference_mode():
        for number in range(6):
            assert torch.equal(evaluation(*batch(number)), eager(*batch(number)))
    line = "the evaluation is not captured as a CUDA graph, which is slower: no memory"
    assert [record.message for record in caplog.records].count(line) == 1
    assert step.sums() == eager.sums()


def test_an_optimizer_whose_numbers_always_change_runs_eagerly_with_one_line(caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setattr("cnnbp.training.capture.MOST_KINDS", 5)
    eager, captured, cuda = runs()
    for number in range(9):
        for run in (eager, captured):
            run.optimizer.param_groups[0]["momentum"] = 0.9 - 0.01 * number
            run.take(number)
    assert_same_bits(eager, captured)
    assert cuda.captures == 0
    (record,) = [record for record in caplog.records if "CUDA graph" in record.message]
    assert record.message.endswith("numbers of the optimizer change all the time")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_gpu_graph_and_eager_have_the_same_bits():
    from benchmarks.gpu_parts import parity

    for answer in parity("gpu", quick=False).values():
        assert answer == "graph same bits, eager again same bits"
