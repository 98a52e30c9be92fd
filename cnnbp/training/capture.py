"""A training step as a CUDA graph: captured once for each kind of batch, then replayed.

A step of a small network is a few hundred kernels, and starting them from Python takes ten times as
long as running them. A replay starts them all at once.
"""

import logging
from typing import Any

import torch
from torch import Tensor

from cnnbp.errors import UserError
from cnnbp.training.step import TrainingStep

log = logging.getLogger(__name__)

# steps of a kind that run eagerly before it is captured: kernels choose their algorithms, and the
# optimizer makes its state
WARM_UP_STEPS = 3


class Graph:
    """A captured step with the tensors that it reads and writes."""

    def __init__(
        self, graph: Any, images: Tensor, labels: Tensor, loss: Tensor, gradients: list[Any]
    ):
        self.graph, self.images, self.labels, self.loss = graph, images, labels, loss
        self.gradients = gradients


class DeviceStep:
    """A TrainingStep on a GPU, by the same kernels whether it is captured or not.

    The learning rates are tensors on the device while the optimizer runs.
    """

    def __init__(self, step: TrainingStep):
        make_capturable(step.optimizer)
        self.step = step
        self.rates = _DeviceRates(step.optimizer)

    def __call__(
        self, images: Tensor, labels: Tensor, first: bool = True, last: bool = True
    ) -> Tensor:
        """Take a step as `TrainingStep` does."""
        with self.rates:
            return self.step(images, labels, first, last)


class CapturedStep(DeviceStep):
    """Calls a TrainingStep in its first steps, then captures and replays it.

    The warm-up steps are real steps, and a capture computes nothing, so that nothing has to be
    restored. The random numbers of a replay follow from the seed that torch's generator has at
    that time, as those of an eager step do.

    Args:
        required: raise a UserError where the step cannot be captured, instead of going on eagerly.
        cuda: torch.cuda, or a stand-in for tests.
    """

    def __init__(self, step: TrainingStep, required: bool = False, cuda: Any = torch.cuda):
        super().__init__(step)
        self.required, self.cuda = required, cuda
        self.graphs: dict[tuple, Graph] = {}
        self.eager_steps: dict[tuple, int] = {}
        self.failed = False
        self.stream = cuda.Stream()

    def __call__(
        self, images: Tensor, labels: Tensor, first: bool = True, last: bool = True
    ) -> Tensor:
        """Take a step as `TrainingStep` does; the loss that is returned is a copy."""
        if self.failed:
            return super().__call__(images, labels, first, last)
        # numbers of the optimizer other than the rate are part of a graph
        kind = (tuple(images.shape), first, last, _numbers(self.step.optimizer))
        if kind not in self.graphs:
            eager_steps = self.eager_steps.get(kind, 0)
            self.eager_steps[kind] = eager_steps + 1
            if eager_steps < WARM_UP_STEPS:
                return self._warm_up(images, labels, first, last)
            if not self._capture(kind, images, labels, first, last):
                return super().__call__(images, labels, first, last)
        graph = self.graphs[kind]
        graph.images.copy_(images)
        graph.labels.copy_(labels)
        self.rates.refresh()
        graph.graph.replay()
        # for whoever looks at the gradients of the last step
        for parameter, gradient in zip(self.step.parameters, graph.gradients, strict=True):
            parameter.grad = gradient
        return graph.loss.clone()

    def _warm_up(self, images: Tensor, labels: Tensor, first: bool, last: bool) -> Tensor:
        """Take the step on the stream that it will be captured on."""
        self.stream.wait_stream(self.cuda.current_stream())
        with self.cuda.stream(self.stream), self.rates:
            loss = self.step(images, labels, first, last)
        self.cuda.current_stream().wait_stream(self.stream)
        return loss

    def _capture(
        self, kind: tuple, images: Tensor, labels: Tensor, first: bool, last: bool
    ) -> bool:
        """Capture the step; where that fails, log the reason and return False."""
        seed = self.cuda.initial_seed()
        inputs = images.clone(), labels.clone()
        graph = self.cuda.CUDAGraph()
        try:
            with self.rates, self.cuda.graph(graph, stream=self.stream):
                loss = self.step(*inputs, first, last)
        except Exception as error:  # torch raises errors of many kinds here
            reason = str(error).splitlines()[0]
            if self.required:
                raise UserError(
                    f"trainer.graph=true: the step cannot be captured ({reason}); "
                    "give trainer.graph=auto"
                ) from None
            log.info("the step is not captured as a CUDA graph, which is slower: %s", reason)
            self.failed = True
            _repair_generator(images.device)
            self.cuda.manual_seed(seed)
            return False
        # which the capture has moved on
        self.cuda.manual_seed(seed)
        gradients = [parameter.grad for parameter in self.step.parameters]
        self.graphs[kind] = Graph(graph, *inputs, loss, gradients)
        return True


class _DeviceRates:
    """The learning rates as tensors on the device, while the optimizer runs or is captured.

    A rate that is a Python number would be part of the graph, and the schedule would do nothing.
    Outside the steps it stays a number, for schedules, checkpoints and logs.
    """

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.groups = optimizer.param_groups
        device = self.groups[0]["params"][0].device
        self.numbers = [float(group["lr"]) for group in self.groups]
        self.tensors = [torch.tensor(rate, device=device) for rate in self.numbers]

    def refresh(self) -> None:
        """Fill the tensors whose rate has changed."""
        for index, group in enumerate(self.groups):
            if group["lr"] != self.numbers[index]:
                self.numbers[index] = group["lr"]
                self.tensors[index].fill_(group["lr"])

    def __enter__(self) -> None:
        self.refresh()
        for group, tensor in zip(self.groups, self.tensors, strict=True):
            group["lr"] = tensor

    def __exit__(self, *error: object) -> None:
        for group, number in zip(self.groups, self.numbers, strict=True):
            group["lr"] = number


def _numbers(optimizer: torch.optim.Optimizer) -> tuple:
    """The numbers of the optimizer that a graph keeps, less those of the schedules."""
    numbers: list[Any] = []
    for group in optimizer.param_groups:
        for key in ("momentum", "weight_decay", "betas", "eps", "alpha", "dampening"):
            numbers.append(group.get(key))
    return tuple(numbers)


def _repair_generator(device: torch.device) -> None:
    """Give the default generator a new state; a capture that failed leaves it unusable."""
    if device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        fresh = torch.Generator(device)
        torch.cuda.default_generators[index].graphsafe_set_state(fresh.graphsafe_get_state())


def make_capturable(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer keep its counters on the device, where it can."""
    parts = [optimizer, *getattr(optimizer, "parts", ())]
    for part in parts:
        for group in part.param_groups:
            if "capturable" in group:
                group["capturable"] = True
        for state in part.state.values():
            device = next((v.device for v in state.values() if torch.is_tensor(v) and v.ndim), None)
            if device is not None and torch.is_tensor(state.get("step")):
                state["step"] = state["step"].to(device)
