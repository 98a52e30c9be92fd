"""A split in memory, given out in whole batches, in an order that depends on the seed and the epoch alone."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


class Batches:
    """Batches (images, labels) of one split; without a seed in the stored order, with one shuffled each epoch.

    A batch is cut from the whole data by index, so that no work is done per sample; the last one may be smaller.
    With a seed, torch's generators are set before each batch: dropout and augmentation become functions of
    (seed, epoch, batch, rank), and a run continued in the middle of an epoch draws what it would have drawn.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        size: int,
        seed: int | None = None,
        rank=0,
        world_size=1,
    ):
        self.images, self.labels, self.size, self.seed = images, labels, size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.position = {"epoch": 0, "batch": 0}
        if seed is not None:
            self.sampler = self  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        return dict(self.position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = dict(state)

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first = (
            self.position["batch"]
            if self.seed is not None and self.position["epoch"] == self.epoch
            else 0
        )
        order = self._order()
        for batch in range(first, len(self)):
            index = order[batch * self.size : (batch + 1) * self.size][self.rank :: self.world_size]
            self.position = {"epoch": self.epoch, "batch": batch + 1}
            if self.seed is not None:
                seed_generators(self.images.device, mix(self.seed, self.epoch, batch, self.rank))
            yield self.images[index], self.labels[index]
        self.position = {"epoch": self.epoch + 1, "batch": 0}

    def _order(self) -> Tensor:
        if self.seed is None:
            return torch.arange(len(self.images), device=self.images.device)
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.images))
        return torch.from_numpy(order).to(self.images.device)


def seed_generators(device: torch.device, seed: int) -> None:
    """Seed torch's generators of the CPU and of `device`; `torch.manual_seed` takes a millisecond for those of all."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def mix(*numbers: int) -> int:
    """Hash non-negative numbers into one seed of 64 bits."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
