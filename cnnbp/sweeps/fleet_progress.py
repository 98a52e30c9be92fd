"""How far a fleet is, in one line for all its members."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

REFRESH_SECONDS = 0.5


class FleetProgress:
    """A line that moves in place on a terminal; elsewhere a line an epoch.

    Args:
        title: the beginning of the line.
    """

    def __init__(self, title: str):
        self.title = title
        self.images, self.steps, self.epoch = 0, 0, 0
        self.accuracies = ""

    def __enter__(self) -> "FleetProgress":
        self.start = self.shown = time.monotonic()
        is_terminal = sys.stderr.isatty()
        self.line = tqdm(bar_format="{desc}", leave=False, disable=not is_terminal)
        return self

    def __exit__(self, *error: object) -> None:
        self.line.close()

    def step(self, trainers: Sequence[Any], images: int) -> None:
        """Note that the members of a fleet take a step.

        Args:
            trainers: Lightning's, of the living members.
            images: of each member.
        """
        trainer, now = trainers[0], time.monotonic()
        if not self.steps:
            # what came before the first step is not training
            self.start, self.epoch = now, trainer.current_epoch
        is_new_epoch = trainer.current_epoch != self.epoch
        self.epoch = trainer.current_epoch
        if is_new_epoch:
            self._read_accuracies(trainers)
        if self.steps and (is_new_epoch or now - self.shown >= REFRESH_SECONDS):
            self.shown = now
            # of those that joined later, which have the longest way to go
            self._show(trainers[-1], now - self.start, is_new_epoch)
        self.steps += 1
        self.images += images * len(trainers)

    def _read_accuracies(self, trainers: Sequence[Any]) -> None:
        values = []
        for trainer in trainers:
            key = f"accuracy/{trainer.datamodule.epoch_stage}"
            if key in trainer.callback_metrics:
                values.append(trainer.callback_metrics[key].item())
        if values:
            self.accuracies = accuracies(values) + ", "

    def _show(self, newest: Any, seconds: float, is_new_epoch: bool) -> None:
        batches, epochs = newest.num_training_batches, newest.max_epochs
        left = epochs * batches - newest.fit_loop.total_batch_idx - 1
        remaining = tqdm.format_interval(left * seconds / self.steps)
        text = (
            f"{self.title}: {self.epoch} of {epochs} epochs, {self.accuracies}"
            f"{self.images / seconds:,.0f} images/s, {remaining} left"
        )
        if not self.line.disable:
            self.line.set_description_str(text)
        elif is_new_epoch:
            print(text, file=sys.stderr, flush=True)


def accuracies(values: Sequence[float]) -> str:
    """The best, the mean and the worst of accuracies, for people."""
    mean = sum(values) / len(values)
    return f"accuracy best {max(values):.2%}, mean {mean:.2%}, worst {min(values):.2%}"
