"""The graph runner, with a stand-in for CUDA graphs that records a step and replays it."""

from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from cnnbp.errors import UserError
from cnnbp.training.capture import WARM_UP_STEPS, CapturedStep


class Stream:
    def wait_stream(self, stream):
        pass


class Cuda:
    """Records the step that is taken while it captures, and takes it again at each replay.

    As on a GPU a capture computes nothing: what the recorded step has changed is put back.
    """

    def __init__(self, fails=False):
        self.fails, self.step, self.captures, self.seeds = fails, None, 0, []

    Stream = Stream

    def current_stream(self):
        return Stream()

    @contextmanager
    def stream(self, stream):
        yield

    def initial_seed(self):
        return torch.initial_seed()

    def manual_seed(self, seed):
        self.seeds.append(seed)
        torch.manual_seed(seed)

    def CUDAGraph(self):
        return Recording(self)

    @contextmanager
    def graph(self, graph, stream):
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        self.captures += 1
        self.step.capturing = graph
        yield
        self.step.capturing = None


class Recording:
    def __init__(self, cuda):
        self.cuda, self.arguments, self.loss = cuda, None, None

    def replay(self):
        self.loss.copy_(self.cuda.step.take(*self.arguments))


class Step:
    """A step of linear regression with noise, as TrainingStep is one of a network."""

    def __init__(self, cuda):
        torch.manual_seed(0)
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.parameters = [self.weight]
        self.optimizer = torch.optim.SGD([self.weight], lr=0.1)
        self.cuda, self.capturing, self.rates = cuda, None, []
        cuda.step = self

    def __call__(self, images, labels, first=True, last=True):
        if self.capturing is not None:
            self.capturing.arguments = (images, labels)
            self.capturing.loss = torch.zeros(())
            # the rate that a graph would keep is a tensor, which it reads at each replay
            self.capturing.rate = self.optimizer.param_groups[0]["lr"]
            assert torch.is_tensor(self.capturing.rate)
            return self.capturing.loss
        return self.take(images, labels)

    def take(self, images, labels):
        noisy = images + torch.randn(images.shape)
        loss = F.mse_loss(noisy @ self.weight, labels)
        (gradient,) = torch.autograd.grad(loss, [self.weight])
        rate = self.optimizer.param_groups[0]["lr"]
        self.rates.append(float(rate))
        with torch.no_grad():
            self.weight -= rate * gradient
        return loss.detach()


def batch(number, size=4):
    generator = torch.Generator().manual_seed(number)
    return torch.rand(size, 3, generator=generator), torch.rand(size, generator=generator)


def run(call, step, sizes, rates=None):
    losses = []
    for number, size in enumerate(sizes):
        torch.manual_seed(100 + number)
        if rates:
            step.optimizer.param_groups[0]["lr"] = rates[number]
        losses.append(call(*batch(number, size)))
    return losses


def both(sizes, rates=None):
    cuda = Cuda()
    eager, captured = Step(Cuda()), Step(cuda)
    expected = run(eager, eager, sizes, rates)
    runner = CapturedStep(captured, cuda=cuda)
    found = run(runner, captured, sizes, rates)
    assert torch.equal(captured.weight, eager.weight)
    assert [loss.item() for loss in found] == [loss.item() for loss in expected]
    return cuda, captured


def test_replays_take_the_very_steps_of_the_eager_loop():
    cuda, step = both([4] * 10)
    assert cuda.captures == 1
    assert len(step.rates) == 10  # the warm-up steps are real ones, and the capture is none


def test_each_size_of_a_batch_has_a_graph_of_its_own():
    cuda, _ = both([4, 4, 2] * 6)
    assert cuda.captures == 2


def test_a_size_that_is_seldom_runs_eagerly():
    cuda, _ = both([4] * 6 + [2] * WARM_UP_STEPS)
    assert cuda.captures == 1


def test_a_schedule_reaches_the_replays():
    rates = [0.1 / (1 + number) for number in range(8)]
    cuda = Cuda()
    step = Step(cuda)
    runner = CapturedStep(step, cuda=cuda)
    run(runner, step, [4] * 8, rates)
    (graph,) = runner.graphs.values()
    assert graph.graph.rate.item() == pytest.approx(rates[-1])
    assert step.optimizer.param_groups[0]["lr"] == rates[-1]  # a number again, for checkpoints


def test_another_momentum_is_captured_anew():
    cuda = Cuda()
    step = Step(cuda)
    runner = CapturedStep(step, cuda=cuda)
    run(runner, step, [4] * 5)
    step.optimizer.param_groups[0]["momentum"] = 0.5
    run(runner, step, [4] * 5)
    assert cuda.captures == 2


def test_the_loss_that_is_returned_is_kept():
    cuda = Cuda()
    step = Step(cuda)
    losses = run(CapturedStep(step, cuda=cuda), step, [4] * 8)
    assert len({loss.item() for loss in losses}) == 8


def test_a_capture_that_fails_goes_on_eagerly_with_one_line(caplog):
    caplog.set_level("INFO")
    eager, cuda = Step(Cuda()), Cuda(fails=True)
    step = Step(cuda)
    expected = run(eager, eager, [4] * 6)
    found = run(CapturedStep(step, cuda=cuda), step, [4] * 6)
    assert torch.equal(step.weight, eager.weight)
    assert [loss.item() for loss in found] == [loss.item() for loss in expected]
    (record,) = [record for record in caplog.records if "CUDA graph" in record.message]
    assert record.message.endswith("operation not permitted when stream is capturing")


def test_a_required_capture_that_fails_is_an_error():
    cuda = Cuda(fails=True)
    step = Step(cuda)
    runner = CapturedStep(step, required=True, cuda=cuda)
    with pytest.raises(UserError, match=r"trainer.graph=true: .*not permitted .*graph=auto"):
        run(partial(runner), step, [4] * 6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_gpu_graph_and_eager_have_the_same_bits():
    from benchmarks.gpu_parts import parity

    for answer in parity("gpu", quick=False).values():
        assert answer == "graph same bits, eager again same bits"
