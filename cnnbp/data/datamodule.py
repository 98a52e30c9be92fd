"""A data set as a LightningDataModule: its splits on the device, and their preparation."""

from collections.abc import Callable

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from cnnbp.data.batches import Batches
from cnnbp.data.datasets import DATASETS
from cnnbp.errors import UserError


class DataModule(LightningDataModule):
    """Training, validation and test images of a data set, on the device of the trainer.

    Args:
        dataset: a key of `DATASETS`; MNIST is in the package, torchvision downloads the others.
        root: the folder of a data set that is not part of the package.
        batch_size: training images a step, over all processes.
        eval_batch_size: images at a time in validation and test, over all processes.
        val_size: how many training images to hold out, the last ones for every seed: MNIST is
            stored writer by writer, so that these are of other writers than the training images,
            as the test images are. With 0 the test set is evaluated after each epoch instead, and
            nothing may be selected by it.
        augment: maps training images (N, C, H, W), float32 in [0, 255], to the same.

    Raises:
        UserError: there is no such data set.
    """

    def __init__(
        self,
        dataset: str = "MNIST",
        root: str = "data",
        batch_size: int = 128,
        eval_batch_size: int = 250,
        val_size: int = 0,
        seed: int = 1,
        augment: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__()
        if dataset not in DATASETS:
            raise UserError(f"data.dataset={dataset}: must be one of {', '.join(DATASETS)}")
        self.dataset, self.root = DATASETS[dataset], root
        self.batch_size, self.eval_batch_size, self.val_size = batch_size, eval_batch_size, val_size
        self.seed, self.augment = seed, augment
        self.splits: dict[str, tuple[Tensor, Tensor]] = {}
        self.repeat_first_epoch = False

    @property
    def epoch_stage(self) -> str:
        """Which split is evaluated after each epoch, "val" or "test"."""
        return "val" if self.val_size else "test"

    def setup(self, stage: str) -> None:
        # Lightning asks before each stage, and commands ask by themselves
        if self.splits:
            return
        data = self.dataset.load(self.root)
        if self.val_size >= len(data.train_labels):
            raise UserError(
                f"data.val_size={self.val_size}: must be less than the "
                f"{len(data.train_labels)} training images"
            )
        kept = len(data.train_labels) - self.val_size
        # in place, for those who share it
        self.splits.update(
            train=(data.train_images[:kept], data.train_labels[:kept]),
            val=(data.train_images[kept:], data.train_labels[kept:]),
            test=(data.test_images, data.test_labels),
        )
        if self.trainer:
            device = self.trainer.strategy.root_device
            for name, (images, labels) in self.splits.items():
                self.splits[name] = images.to(device), labels.to(device)

    def batches(self, split: str) -> Batches:
        """The batches of "train", "val" or "test"; only the training split is shuffled."""
        size, seed = (
            (self.batch_size, self.seed) if split == "train" else (self.eval_batch_size, None)
        )
        rank, world_size = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        # a process without an image in the last batch would wait for the others for ever
        last = (len(self.splits[split][1]) - 1) % size + 1
        if last < world_size:
            key = "data.batch_size" if split == "train" else "data.eval_batch_size"
            raise UserError(
                f"{key}={size}: leaves {last} images in the last batch for {world_size} processes"
            )
        return Batches(*self.splits[split], size, seed, rank, world_size, self.repeat_first_epoch)

    def test_image(self, index: int) -> tuple[Tensor, int]:
        """The test image (28, 28), uint8, at `index`, and its label."""
        self.setup("test")
        images, labels = self.splits["test"]
        if not 0 <= index < len(labels):
            raise UserError(f"--index {index}: must be from 0 to {len(labels) - 1}, a test image")
        return images[index], int(labels[index])

    def train_dataloader(self) -> Batches:
        return self.batches("train")

    def val_dataloader(self) -> Batches:
        return self.batches(self.epoch_stage)

    def test_dataloader(self) -> Batches:
        return self.batches("test")

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor], dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        images, labels = batch
        trainer = self.trainer
        # which calls this
        assert trainer is not None
        if getattr(trainer.lightning_module, "takes_stored_images", False):
            return images, labels
        pixels = self.as_pixels(images)
        if self.augment and trainer.training:
            pixels = self.augment(pixels)
        return self.normalise(pixels), labels

    def prepare(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Turn stored images into the network's input.

        Args:
            images: (N, H, W) or (N, C, H, W), uint8.

        Returns:
            (N, C, H, W) of `dtype`; over the training images of mean 0 and standard deviation 1.
        """
        return self.normalise(self.as_pixels(images, dtype))

    def as_pixels(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Map images (N, H, W) or (N, C, H, W), uint8, to (N, C, H, W) of `dtype`, in [0, 255]."""
        if images.ndim == 3:
            images = images.unsqueeze(1)
        return images.to(dtype)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Map pixels in [0, 255] to mean 0 and standard deviation 1 over the training images."""
        return (pixels - 255 * self.dataset.mean) / (255 * self.dataset.std)
