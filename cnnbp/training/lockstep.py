"""Trainings that run side by side, one at a time, and meet at each step to take it together."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cnnbp.errors import UserError
from cnnbp.training.capture import CapturedStep, DeviceStep
from cnnbp.training.mapped_step import MappedStep
from cnnbp.training.step import TrainingStep


class Member:
    """A training in a thread of its own.

    It runs only while `go_on` waits for it, so that no two trainings ever compute at a time, and
    torch's generators and all else that a process has once are used as by one training alone.

    Args:
        train: trains; it calls `take_step` of this member for each step.
    """

    def __init__(self, train: Callable[[], Any]):
        self.train = train
        self.step: Any = None
        self.on_moved: Callable[[], None] = lambda: None
        self.request: tuple[Tensor, Tensor, bool, bool] | None = None
        self.seed = 0
        self.answer: Tensor | BaseException | None = None
        self.error: BaseException | None = None
        self.returned: Any = None
        self.has_ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        # both are locks that one thread waits for until the other lets go
        self._turn, self._turn_ended = threading.Lock(), threading.Lock()
        self._turn.acquire()
        self._turn_ended.acquire()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Member":
        # a model that is averaged is copied, with what it calls
        return self

    def go_on(self) -> None:
        """Let the training run to its next step, or to its end."""
        self.request = None
        if self._thread.ident is None:
            self._thread.start()
        self._turn.release()
        self._turn_ended.acquire()

    def join(self, step: TrainingStep, on_moved: Callable[[], None]) -> Callable[..., Tensor]:
        """Bring the step of this training; what is returned takes it together with the others.

        Args:
            on_moved: called when the weights have been given other memory.
        """
        self.step, self.on_moved = step, on_moved
        return self._take_step

    def _take_step(
        self, images: Tensor, labels: Tensor, first: bool = True, last: bool = True
    ) -> Tensor:
        """Wait until the step has been taken; return this training's loss ()."""
        self.request = images, labels, first, last
        # the loader has just set it
        self.seed = torch.default_generator.initial_seed()
        self._turn_ended.release()
        self._turn.acquire()
        if isinstance(self.answer, BaseException):
            raise self.answer
        assert self.answer is not None
        return self.answer

    def _run(self) -> None:
        self._turn.acquire()
        try:
            self.returned = self.train()
        except BaseException as error:  # of the member alone; the fleet reads it
            self.error = error
        self.has_ended = True
        self._turn_ended.release()


class Lockstep:
    """Runs members side by side and takes their steps as one, until all have ended.

    A member that ends, by an error too, leaves the others to go on without it. All have to be at
    the same batch of an epoch, so that their batches have the same size.

    Args:
        members: at least one.
        precision: makes the context that a step computes in, as for a training alone.
        graph: on a GPU, "auto" captures the step, True requires that, False runs it eagerly.
        before_step: called before each step with the living members and the images of each.
        newcomers: called before each step with the living members; returns members that join them.
    """

    def __init__(
        self,
        members: Sequence[Member],
        precision: Callable[[], Any],
        graph: bool | str,
        before_step: Callable[[Sequence[Member], int], None],
        newcomers: Callable[[Sequence[Member]], Sequence[Member]],
    ):
        self.members, self.precision, self.graph = list(members), precision, graph
        self.before_step, self.newcomers = before_step, newcomers
        self.mapped: list[Member] = []
        self.step: MappedStep | None = None
        self.take_step: Callable[..., Tensor] | None = None

    def run(self) -> None:
        """Train all members; what became of each stands in its `returned` and `error`."""
        living = _go_on(self.members)
        while living:
            living += _go_on(self.newcomers(living))
            self.before_step(living, len(living[0].request[1]))
            self._take_step(living)
            living = _go_on(living)

    def _take_step(self, living: list[Member]) -> None:
        """Take the step that all living members wait for, and give each its loss."""
        try:
            losses = self._losses(living)
        except torch.OutOfMemoryError:
            losses = [
                UserError(
                    f"{len(living)} networks do not fit into the memory side by side; "
                    "give a smaller jobs=, or search.parallel="
                )
            ] * len(living)
        except Exception as error:  # each member ends with it, as if its own step had failed
            losses = [error] * len(living)
        for member, loss in zip(living, losses, strict=True):
            member.answer = loss

    def _losses(self, living: list[Member]) -> Sequence[Tensor]:
        if living != self.mapped:
            self._map(living)
        images, labels = [], []
        for member in living:
            assert member.request is not None
            images.append(member.request[0])
            labels.append(member.request[1])
        first, last = living[0].request[2:]
        if images[0].device.type == "cpu":
            self.step.seeds = [member.seed for member in living]
        with self.precision():
            losses = self.take_step(torch.stack(images), torch.stack(labels), first, last)
        # which a captured step leaves where they are
        self.step.attach_gradients()
        return losses.unbind()

    def _map(self, living: list[Member]) -> None:
        """Lay the networks of the living members side by side."""
        self.mapped = living
        self.step = MappedStep([member.step for member in living])
        for member in living:
            member.on_moved()
        if living[0].request[0].device.type != "cuda":
            self.take_step = self.step
        elif self.graph is False or torch.is_anomaly_enabled():
            self.take_step = DeviceStep(self.step)
        else:
            self.take_step = CapturedStep(self.step, required=self.graph is True)


def _go_on(members: Sequence[Member]) -> list[Member]:
    """Let each member run to its next step; return those that have not come to their end."""
    for member in members:
        member.go_on()
    return [member for member in members if not member.has_ended]
