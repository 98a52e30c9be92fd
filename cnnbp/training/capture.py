"""Steps as CUDA graphs: captured once for each kind of batch, then replayed.

A step of a small network is a few hundred kernels, and starting them from Python takes ten times as
long as running them. A replay starts them all at once.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnbp.errors import UserError
from cnnbp.training.step import EvaluationStep, TrainingStep

log = logging.getLogger(__name__)

# calls of a kind that run eagerly before it is captured: kernels choose their algorithms, and the
# optimizer makes its state
WARM_UP_STEPS = 3
# above these something that a graph keeps changes all the time, and nothing would be replayed
MOST_KINDS = 64


class Graph:
    """A captured function with the tensors that it reads and returns."""

    def __init__(self, graph: Any, images: Tensor, labels: Tensor, result: Tensor):
        self.graph, self.images, self.labels, self.result = graph, images, labels, result


class Graphs:
    """Calls a function of a batch in its first calls, then captures and replays it.

    The calls before are real ones, and a capture computes nothing, so that nothing has to be
    restored. The random numbers of a replay follow from the seed that torch's generator has at
    that time, as those of an eager call do.

    Args:
        name: of the function, for messages.
        required: raise a UserError where it cannot be captured, instead of going on eagerly.
        cuda: torch.cuda, or a stand-in for tests.
    """

    def __init__(self, name: str, required: bool, cuda: Any):
        self.name, self.required, self.cuda = name, required, cuda
        self.graphs: dict[tuple, Graph] = {}
        self.eager_calls: dict[tuple, int] = {}
        self.failed = False
        self.stream = cuda.Stream()

    def __contains__(self, kind: tuple) -> bool:
        return kind in self.graphs

    def run(
        self,
        kind: tuple,
        function: Callable[[Tensor, Tensor], Tensor],
        images: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Call the function of this kind on a batch; the result of a replay is a copy.

        Args:
            kind: all that a graph keeps, beside the memory that it reads and writes.
        """
        if self.failed:
            return function(images, labels)
        if kind not in self.graphs:
            if not self._is_due(kind):
                return self._warm_up(function, images, labels)
            if not self._capture(kind, function, images, labels):
                return function(images, labels)
        graph = self.graphs[kind]
        graph.images.copy_(images)
        graph.labels.copy_(labels)
        graph.graph.replay()
        return graph.result.clone()

    def _is_due(self, kind: tuple) -> bool:
        """Count an eager call; say whether there were enough of them."""
        calls = self.eager_calls.get(kind, 0)
        self.eager_calls[kind] = calls + 1
        if len(self.eager_calls) > MOST_KINDS:
            self._give_up("batch sizes or numbers of the optimizer change all the time")
        return calls >= WARM_UP_STEPS and not self.failed

    def _warm_up(self, function: Callable, images: Tensor, labels: Tensor) -> Tensor:
        """Call the function on the stream that it will be captured on."""
        self.stream.wait_stream(self.cuda.current_stream())
        with self.cuda.stream(self.stream):
            result = function(images, labels)
        self.cuda.current_stream().wait_stream(self.stream)
        return result

    def _capture(self, kind: tuple, function: Callable, images: Tensor, labels: Tensor) -> bool:
        """Capture the function; return whether that went well."""
        seed = self.cuda.initial_seed()
        inputs = images.clone(), labels.clone()
        graph = self.cuda.CUDAGraph()
        try:
            with self.cuda.graph(graph, stream=self.stream):
                result = function(*inputs)
        except Exception as error:  # torch raises errors of many kinds here
            self._give_up(str(error).splitlines()[0])
            _repair_generator(images.device)
            self.cuda.manual_seed(seed)
            return False
        # which the capture has moved on
        self.cuda.manual_seed(seed)
        self.graphs[kind] = Graph(graph, *inputs, result)
        return True

    def _give_up(self, reason: str) -> None:
        if self.required:
            raise UserError(
                f"trainer.graph=true: {self.name} cannot be captured ({reason}); "
                "give trainer.graph=auto"
            ) from None
        log.info("%s is not captured as a CUDA graph, which is slower: %s", self.name, reason)
        self.failed = True


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
    """A TrainingStep that is captured and replayed, by `Graphs`."""

    def __init__(self, step: TrainingStep, required: bool = False, cuda: Any = torch.cuda):
        super().__init__(step)
        self.graphs = Graphs("the training step", required, cuda)
        self.gradients: dict[tuple, list[Tensor | None]] = {}

    def __call__(
        self, images: Tensor, labels: Tensor, first: bool = True, last: bool = True
    ) -> Tensor:
        """Take a step as `TrainingStep` does; the loss that is returned is a copy."""

        def take(images: Tensor, labels: Tensor) -> Tensor:
            return self.step(images, labels, first, last)

        kind = (tuple(images.shape), first, last, _numbers(self.step.optimizer))
        with self.rates:
            loss = self.graphs.run(kind, take, images, labels)
        if kind in self.graphs:
            self._show_gradients(kind)
        return loss

    def _show_gradients(self, kind: tuple) -> None:
        """Let the parameters have the gradients of this graph, for whoever looks at them."""
        parameters = self.step.parameters
        if kind not in self.gradients:
            self.gradients[kind] = [parameter.grad for parameter in parameters]
        for parameter, gradient in zip(parameters, self.gradients[kind], strict=True):
            parameter.grad = gradient


class CapturedEvaluation:
    """An EvaluationStep that is captured and replayed, by `Graphs`."""

    def __init__(self, step: EvaluationStep, required: bool = False, cuda: Any = torch.cuda):
        self.step = step
        self.graphs = Graphs("the evaluation", required, cuda)

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Evaluate a batch as `EvaluationStep` does; the logits that are returned are a copy."""
        return self.graphs.run(tuple(images.shape), self.step, images, labels)


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
    """The options of the optimizer that a graph keeps: all but the rate."""
    numbers: list[Any] = []
    for group in optimizer.param_groups:
        for key, value in group.items():
            if key not in ("params", "lr"):
                # a list from a config has no hash
                numbers.append(tuple(value) if isinstance(value, list) else value)
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
