"""A data set as a LightningDataModule: its splits on the trainer's device, and their preparation."""

from collections.abc import Callable

from pytorch_lightning import LightningDataModule
from torch import Tensor

from cnnbp.data import datasets
from cnnbp.data.batches import Batches
from cnnbp.errors import UserError


class DataModule(LightningDataModule):
    """Ten classes of 28 x 28 images: training, validation and test splits on the device of the trainer.

    Args:
        dataset: MNIST (embedded in the package) or FashionMNIST, KMNIST, QMNIST (by torchvision, under `root`).
        mean, std: of the training pixels, scaled to [0, 1].
        batch_size: training images a step, over all processes.
        val_size: how many training images to hold out, the last ones for every seed: MNIST is stored writer by
            writer, so that these are of other writers than the training images, as the test images are. With 0 the
            test set is evaluated after each epoch instead, and nothing may be selected by it.
        augment: maps training images (N, 1, 28, 28), float32 in [0, 255], to the same.
    """

    def __init__(
        self,
        dataset: str = "MNIST",
        root: str = "data",
        mean: float = 0.1307,
        std: float = 0.3081,
        batch_size: int = 128,
        eval_batch_size: int = 250,
        val_size: int = 0,
        seed: int = 1,
        augment: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__()
        self.dataset, self.root, self.mean, self.std = dataset, root, mean, std
        self.batch_size, self.eval_batch_size, self.val_size = batch_size, eval_batch_size, val_size
        self.seed, self.augment = seed, augment
        self.splits = {}

    @property
    def epoch_stage(self) -> str:
        """Which split is evaluated after each epoch, "val" or "test"."""
        return "val" if self.val_size else "test"

    def setup(self, stage: str) -> None:
        if self.splits:
            return
        embedded = self.dataset == "MNIST"
        data = (
            datasets.embedded_mnist()
            if embedded
            else datasets.torchvision_images(self.dataset, self.root)
        )
        if self.val_size >= len(data.train_labels):
            raise UserError(
                f"data.val_size={self.val_size}: must be less than the {len(data.train_labels)} training images"
            )
        kept = len(data.train_labels) - self.val_size
        self.splits = {
            "train": (data.train_images[:kept], data.train_labels[:kept]),
            "val": (data.train_images[kept:], data.train_labels[kept:]),
            "test": (data.test_images, data.test_labels),
        }
        if self.trainer:
            device = self.trainer.strategy.root_device
            self.splits = {
                name: tuple(tensor.to(device) for tensor in split)
                for name, split in self.splits.items()
            }

    def batches(self, split: str) -> Batches:
        """The batches of "train", "val" or "test"; only the training split is shuffled."""
        size, seed = (
            (self.batch_size, self.seed) if split == "train" else (self.eval_batch_size, None)
        )
        rank, world_size = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        last = (len(self.splits[split][1]) - 1) % size + 1
        if last < world_size:
            key = "data.batch_size" if split == "train" else "data.eval_batch_size"
            raise UserError(
                f"{key}={size}: leaves {last} images in the last batch for {world_size} processes"
            )
        return Batches(*self.splits[split], size, seed, rank, world_size)

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
        images = images.unsqueeze(1).float()
        if self.augment and self.trainer.training:
            images = self.augment(images)
        return self.normalise(images), labels

    def normalise(self, images: Tensor) -> Tensor:
        """Map pixels in [0, 255] to mean 0 and standard deviation 1 over the training set."""
        return (images - 255 * self.mean) / (255 * self.std)
