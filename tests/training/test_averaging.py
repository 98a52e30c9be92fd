"""Averaged weights against the closed form and an undisturbed run."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from launch import TWO_STEPS
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from cnnbp.training.callbacks.averaging import Average
from cnnbp.training.callbacks.checkpoints import Checkpoints
from cnnbp.training.moving_average import MovingAverage
from cnnbp.training.restore import restore

DECAY = 0.3
SMALL = (
    *TWO_STEPS,
    "trainer.limit_train_batches=3",
    "trainer.max_epochs=3",
    "~callbacks.dashboard",
    "logger=none",
    "optimizer.lr=0.1",
    "trainer.precision=32-true",
    "average=ema",
    f"callbacks.average.decay={DECAY}",
)


def checkpoint(name):
    return torch.load(f"outputs/{name}/checkpoints/last.ckpt", weights_only=True)


def result(name):
    return json.loads(Path(f"outputs/{name}/result.json").read_text())


def test_the_average_has_the_bits_of_torch_s_averaged_model():
    """Which moves each tensor by a Python number; weights, statistics and their counter."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)).to(memory_format=torch.channels_last)
    shares = iter([min(0.6, (1 + steps) / (10 + steps)) for steps in range(1, 12)])

    def move(averages, values, count):
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, 1 - share)
        else:
            torch._foreach_copy_(averages, values)

    expected = AveragedModel(net, multi_avg_fn=move, use_buffers=True)
    callback = Average(0.6)
    callback._average_model = AveragedModel(net, use_buffers=True)
    callback.on_train_start(None, net)
    average = callback.for_step()
    for step in range(12):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += torch.randn_like(parameter)
            net(torch.randn(4, 3, 6, 6))
        share = next(shares) if step else None
        expected.update_parameters(net)
        callback.prepare()
        average.move()
        callback._latest_update_step += 1
        for name, value in callback._average_model.module.state_dict().items():
            assert torch.equal(value, expected.module.state_dict()[name]), (step, name)


@pytest.fixture
def steps(train, monkeypatch):
    """A run under the name "whole".

    The state of the network after each of its nine steps, in float64.
    """
    from cnnbp.training.callbacks.throughput import Speed

    states, original = [], Speed.on_train_batch_end

    def keep(self, trainer, module, *arguments):
        states.append({name: value.clone().double() for name, value in module.state_dict().items()})
        original(self, trainer, module, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Speed, "on_train_batch_end", keep)
        train(*SMALL, "name=whole")
    return states


def test_weights_and_statistics_follow_the_closed_form(steps):
    average = steps[0]
    for taken, state in enumerate(steps[1:], 1):
        share = min(DECAY, (1 + taken) / (10 + taken))
        average = {
            name: share * average[name] + (1 - share) * value for name, value in state.items()
        }
    saved = checkpoint("whole")
    assert saved["averaging_state"]["n_averaged"] == 9
    for name, value in saved["state_dict"].items():
        expected = steps[-1][name] if "num_batches" in name else average[name]
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(saved["current_model_state"][name].double(), steps[-1][name])


def test_what_is_reported_and_restored_is_the_average(steps):
    _, data, model = restore("outputs/whole")
    data.setup("test")
    images, labels = (tensor[:100] for tensor in data.splits["test"])

    def loss():
        with torch.inference_mode():
            return F.cross_entropy(model(data.normalise(images[:, None].float())), labels).item()

    assert loss() == pytest.approx(result("whole")["loss"])
    model.load_state_dict(checkpoint("whole")["current_model_state"])
    assert loss() != pytest.approx(result("whole")["loss"], rel=1e-4)


@pytest.mark.parametrize("epoch", [1, 2], ids=["midway", "after the last epoch"])
def test_an_interrupted_run_ends_in_the_same_averages(steps, train, monkeypatch, epoch):
    save = Checkpoints.on_train_epoch_end

    def stop(self, trainer, module):
        save(self, trainer, module)
        if trainer.current_epoch == epoch:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_epoch_end", stop)
        with pytest.raises(RuntimeError, match="power cut"):
            train(*SMALL, "name=cut")
    train(*SMALL, "name=cut")
    whole, cut = checkpoint("whole"), checkpoint("cut")
    for part in ("state_dict", "current_model_state"):
        for name, value in whole[part].items():
            assert torch.equal(value, cut[part][name]), (part, name)
    assert result("cut")["loss"] == result("whole")["loss"]


def test_a_checkpoint_of_the_other_kind_is_refused(steps, train):
    with pytest.raises(SystemExit, match="trained with averaged weights; resume with the average="):
        train(
            *SMALL[:-2],
            "name=more",
            "trainer.max_epochs=4",
            "ckpt_path=outputs/whole/checkpoints/last.ckpt",
        )


def callback_of(module):
    callback = Average(0.6)
    callback._average_model = AveragedModel(module, use_buffers=True)
    return callback


def test_a_step_that_leaves_the_average_alone_has_it_moved_once_a_step():
    module = nn.Linear(1, 1, bias=False)
    callback = callback_of(module)
    callback.on_train_start(None, module)
    callback.for_step()
    # the next training begins with a module that has not taken it
    callback.on_train_start(None, module)
    expected = 0.0
    for step in range(4):
        nn.init.constant_(module.weight, 10.0 + step)
        trainer = SimpleNamespace(global_step=step + 1)
        for batch in range(2):
            callback.on_train_batch_end(trainer, module, None, None, batch)
        kept = min(0.6, (1 + step) / (10 + step)) if step else 0
        expected = kept * expected + (1 - kept) * (10.0 + step)
        assert callback._averages().weight.item() == pytest.approx(expected)


def test_the_average_is_what_a_finished_training_leaves():
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 3.0)
    callback = callback_of(module)
    nn.init.constant_(module.weight, 5.0)
    callback.on_fit_end(None, module)
    assert module.weight.item() == 3.0


def test_a_checkpoint_before_training_has_no_average():
    checkpoint = {}
    Average(0.6).on_save_checkpoint(None, nn.Linear(1, 1), checkpoint)
    assert checkpoint == {}


def test_the_average_follows_the_module_to_its_device():
    callback = callback_of(nn.Linear(1, 1))
    callback.on_fit_start(None, SimpleNamespace(device=torch.device("meta")))
    assert callback._averages().weight.is_meta


def test_autograd_records_nothing_of_a_move():
    kept = []
    moving = MovingAverage([torch.zeros(2)], [nn.Parameter(torch.ones(2))])
    moving.set_share(0.5)
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: None):
        moving.move()
    assert kept == []


def test_averages_are_one_for_one_with_values():
    average = torch.zeros(2, 3)
    moving = MovingAverage([average], [torch.ones(2, 3)])
    moving.set_share(0.25)
    moving.move()
    assert torch.equal(average, torch.full((2, 3), 0.25))
    with pytest.raises(ValueError, match="shorter"):
        MovingAverage([average, average], [average])
