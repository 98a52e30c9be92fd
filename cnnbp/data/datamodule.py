"""A data set as a LightningDataModule: its splits on the device, and their preparation."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import LightningDataModule
from torch import Tensor

from cnnbp.data import user_pictures
from cnnbp.data.batches import Batches
from cnnbp.data.datasets import DATASETS, DataSet
from cnnbp.data.picture_files import as_image, open_picture
from cnnbp.errors import UserError

# maps the folder or file that `data.root` names to a data set
Source = Callable[[Path], DataSet]
# labels that are not in order by chance
FEWEST_SORTED = 20
# facts that a run relies on; the others are words about them
MEASURED = ("class_names", "mean", "std", "channels", "image_size")


class DataModule(LightningDataModule):
    """Training, validation and test images of a data set, on the device of the trainer.

    Args:
        dataset: a key of `DATASETS`, of which MNIST is in the package and torchvision downloads the
            others; or a function that maps `root` to a data set of your own, or that data set.
        root: the folder or file of a data set that is not part of the package.
        batch_size: training images a step, over all processes.
        eval_batch_size: images at a time in validation and test, over all processes.
        val_size: how many training images to hold out, the last ones for every seed: MNIST is
            stored writer by writer, so that these are of other writers than the training images,
            as the test images are. With 0 the test set is evaluated after each epoch instead, and
            nothing may be selected by it.
        folds, fold: cut the training images into so many parts, in their stored order, and hold
            out the part with this number, from 0, in the place of the last ones.
        augment: maps training images (N, C, H, W), float32 in [0, 255], to the same.

    Raises:
        UserError: there is no such data set.
    """

    def __init__(
        self,
        dataset: str | DataSet | Source = "MNIST",
        root: str = "data",
        batch_size: int = 128,
        eval_batch_size: int = 250,
        val_size: int = 0,
        folds: int | None = None,
        fold: int | None = None,
        seed: int = 1,
        augment: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__()
        if isinstance(dataset, str) and dataset not in DATASETS:
            raise UserError(f"data.dataset={dataset}: must be one of {', '.join(DATASETS)}")
        self.source = DATASETS[dataset] if isinstance(dataset, str) else dataset
        self.root = root
        self.batch_size, self.eval_batch_size, self.val_size = batch_size, eval_batch_size, val_size
        self.folds, self.fold = folds, fold
        self.seed, self.augment = seed, augment
        self.splits: dict[str, tuple[Tensor, Tensor]] = {}
        self.repeat_first_epoch = False

    @property
    def epoch_stage(self) -> str:
        """Which split is evaluated after each epoch, "val" or "test"."""
        return "val" if self.val_size or self.folds else "test"

    @cached_property
    def dataset(self) -> DataSet:
        """The facts of the data set; of a restored run those that it was trained with."""
        return self._open()

    def _open(self) -> DataSet:
        if isinstance(self.source, DataSet):
            return self.source
        dataset = self.source(Path(self.root).expanduser())
        if not isinstance(dataset, DataSet):
            raise UserError(
                f"data.dataset={self.source}: gave {type(dataset).__name__}; "
                "must be a function that maps a path to a cnnbp.data.datasets.DataSet"
            )
        return dataset

    def state_dict(self) -> dict[str, Any]:
        """The facts of the data set, for a checkpoint."""
        return {"dataset": self.dataset.facts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the facts of a checkpoint.

        Raises:
            UserError: the data set that is there has other ones.
        """
        stored = state.get("dataset")
        # written before checkpoints had them
        if stored is None:
            return
        if "dataset" not in vars(self):
            self.dataset = DataSet.from_facts(stored, self._read_as_trained)
            return
        for name, value in self.dataset.facts.items():
            if name in MEASURED and stored.get(name) != value:
                raise UserError(
                    f"data.root={self.root}: has changed since this run began "
                    f"({name}: {stored.get(name)} -> {value}); give another name="
                )

    def _read_as_trained(self, root: Path) -> list[np.ndarray]:
        """Read the images of a restored run, whose classes may be others by now."""
        dataset = self._open()
        if dataset.class_names != self.dataset.class_names:
            raise UserError(
                f"data.root={self.root}: has the classes {', '.join(dataset.class_names)}; "
                f"the run was trained on {', '.join(self.dataset.class_names)}"
            )
        return dataset.read(root)

    def setup(self, stage: str) -> None:
        # Lightning asks before each stage, and commands ask by themselves
        if not self.splits:
            # in place, for those who share it
            self.splits.update(self._split())
        if self.trainer:
            device = self.trainer.strategy.root_device
            for name, (images, labels) in self.splits.items():
                self.splits[name] = images.to(device), labels.to(device)

    def _split(self) -> dict[str, tuple[Tensor, Tensor]]:
        data = self.dataset.load(self.root)
        images, labels = data.train_images, data.train_labels
        held_out = self._held_out(len(labels))
        if held_out.start < held_out.stop and _is_sorted(labels):
            raise UserError(
                f"data.root={self.root}: the training images are stored class by class, so that "
                "those held out would be of few classes; store them shuffled"
            )
        return {
            "train": (_without(images, held_out), _without(labels, held_out)),
            "val": (images[held_out], labels[held_out]),
            "test": (data.test_images, data.test_labels),
        }

    def _held_out(self, images: int) -> slice:
        """Which of so many training images are held out."""
        if self.folds is None:
            if self.fold is not None:
                raise UserError(f"data.fold={self.fold}: give data.folds=N, of which it is one")
            if self.val_size >= images:
                raise UserError(
                    f"data.val_size={self.val_size}: must be less than the {images} training images"
                )
            return slice(images - self.val_size, images)
        if self.val_size:
            raise UserError(
                f"data.val_size={self.val_size}: data.folds says what is held out; "
                "give data.val_size=0"
            )
        if self.folds > images:
            raise UserError(
                f"data.folds={self.folds}: must be at most the {images} training images"
            )
        if self.fold is None or not 0 <= self.fold < self.folds:
            raise UserError(f"data.fold={self.fold}: must be from 0 to {self.folds - 1}")
        return slice(
            self.fold * images // self.folds,
            (self.fold + 1) * images // self.folds,
        )

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
        """The test image (H, W) or (C, H, W), uint8, at `index`, and its label."""
        self.setup("test")
        images, labels = self.splits["test"]
        if not 0 <= index < len(labels):
            raise UserError(f"--index {index}: must be from 0 to {len(labels) - 1}, a test image")
        return images[index], int(labels[index])

    def read_picture(self, path: str | Path) -> Tensor:
        """Read a user's picture as an image like those of the data set.

        Returns:
            (H, W) or (C, H, W), uint8.

        Raises:
            UserError: names the file that cannot be read as such an image.
        """
        if self.dataset.is_ink_on_paper:
            return user_pictures.load(path)
        picture = open_picture(path)
        try:
            return self.as_stored(picture)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def read_places(self, path: str | Path) -> list[tuple[Tensor, user_pictures.Box | None]]:
        """Read what is on a user's picture: each digit, or all of it as one image.

        Returns:
            images as from `read_picture`, in the order of reading, each with its box where there
            is one.

        Raises:
            UserError: names the file that cannot be read.
        """
        if self.dataset.is_ink_on_paper:
            return [(digit.pixels, digit.box) for digit in user_pictures.load_digits(path)]
        return [(self.read_picture(path), None)]

    def as_stored(self, picture: Image.Image) -> Tensor:
        """Turn a picture into an image like those of the data set.

        Returns:
            (H, W) or (C, H, W), uint8.

        Raises:
            UserError: there is no digit on it, or its values cannot be those of such an image.
        """
        if self.dataset.is_ink_on_paper:
            return user_pictures.prepare(picture)
        channels = self.dataset.channels
        if channels not in (1, 3):
            raise UserError(f"a picture has 1 or 3 channels, an image of this data set {channels}")
        return torch.from_numpy(as_image(picture, channels, self.dataset.image_size))

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
        # the project's own model has these steps within its own: `TrainingStep.inputs`
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
        """Map pixels (N, C, H, W) in [0, 255] to mean 0 and standard deviation 1.

        These are the mean and the deviation of each channel over the training images.
        """
        mean, std = self.dataset.mean, self.dataset.std
        if len(mean) == 1:
            return (pixels - 255 * mean[0]) / (255 * std[0])
        # by numbers alone: a tensor would have to follow the images to their device and dtype
        channels = []
        for channel, (own_mean, own_std) in enumerate(zip(mean, std, strict=True)):
            channels.append((pixels[:, channel] - 255 * own_mean) / (255 * own_std))
        return torch.stack(channels, 1)


def _is_sorted(labels: Tensor) -> bool:
    """Whether images are stored class by class; a few may be so by chance."""
    return len(labels) >= FEWEST_SORTED and bool((labels.diff() >= 0).all())


def _without(values: Tensor, held_out: slice) -> Tensor:
    """The values before and after those that are held out."""
    if held_out.stop == len(values):
        # no copy
        return values[: held_out.start]
    return torch.cat([values[: held_out.start], values[held_out.stop :]])
