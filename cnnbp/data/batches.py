"""A split in memory, given out in whole batches, in an order that the seed and the epoch fix."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


class Batches:
    """Batches (images, labels) of one split, cut from the whole data by index.

    No work is done per sample; the last batch may be smaller. With a seed the order is a shuffled
    one, and torch's generators are set before each batch: dropout and augmentation become functions
    of (seed, epoch, batch, rank), and a run continued in the middle of an epoch draws what it would
    have drawn.

    Args:
        images: (N, H, W) or (N, C, H, W), uint8.
        labels: (N,), whole numbers.
        size: images a batch, over all processes.
        seed: of the order; without one it is the stored order.
        rank, world_size: each process gets every `world_size`-th image of a batch.
        repeat_first_epoch: every epoch has the order of the first one.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        size: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        repeat_first_epoch: bool = False,
    ):
        self.images, self.labels, self.size, self.seed = images, labels, size, seed
        self.rank, self.world_size = rank, world_size
        self.repeat_first_epoch = repeat_first_epoch
        self.epoch = 0
        self.position = {"epoch": 0, "batch": 0}
        if seed is not None:
            # where Lightning looks for set_epoch
            self.sampler = self

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch comes next."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Where the loader is, for a checkpoint."""
        return dict(self.position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from where a loader was."""
        self.position = dict(state)

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        is_continued = self.seed is not None and self.position["epoch"] == self.epoch
        first = self.position["batch"] if is_continued else 0
        order = self._order()
        for batch in range(first, len(self)):
            start = batch * self.size
            # in turn, so that the shares of the processes differ by one image at most
            index = order[start : start + self.size][self.rank :: self.world_size]
            self.position = {"epoch": self.epoch, "batch": batch + 1}
            if self.seed is not None:
                seed = mix(self.seed, self.epoch, batch, self.rank)
                seed_generators(self.images.device, seed)
            yield self.images[index], self.labels[index]
        self.position = {"epoch": self.epoch + 1, "batch": 0}

    def _order(self) -> Tensor:
        if self.seed is None:
            return torch.arange(len(self.images), device=self.images.device)
        epoch = 0 if self.repeat_first_epoch else self.epoch
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.images))
        return torch.from_numpy(order).to(self.images.device)


def seed_generators(device: torch.device, seed: int) -> None:
    """Seed torch's generators of the CPU and of a device.

    `torch.manual_seed` seeds those of all devices, which takes a millisecond.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def mix(*numbers: int) -> int:
    """Hash non-negative numbers into one seed of 64 bits."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
