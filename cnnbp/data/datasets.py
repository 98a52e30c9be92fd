"""What each data set is, defined once, and how its images come into memory."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnnbp.data.idx_files import MNIST_FILES, QMNIST_FILES, read_or_download
from cnnbp.errors import UserError

MNIST_ARCHIVE = Path(__file__).with_name("mnist.npz")
MNIST_SHA256 = "c8ca71ad62d22263ab46d0b5a815db8a64618c94fa6e7bc9f48a2c68964b1f12"
# the first ones match MNIST's, image by image
QMNIST_TEST_IMAGES = 10_000

DIGITS = tuple("0123456789")


class Images(NamedTuple):
    """A data set in memory: images uint8 (N, H, W), labels int64 (N,) in [0, number of classes)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class DataSet:
    """The facts of a data set.

    Attributes:
        name: as in `data.dataset=NAME`, which is torchvision's name of it.
        choice: as in `data=CHOICE`.
        description: what the images show.
        notice: author and licence, as the licence asks to name them.
        class_names: by label.
        mean, std: over all training pixels, scaled to [0, 1].
        read: reads the arrays of `Images` in their order, from the folder that `data.root` names.
    """

    name: str
    choice: str
    description: str
    notice: str
    class_names: tuple[str, ...]
    mean: float
    std: float
    read: Callable[[Path], list[np.ndarray]]
    channels: int = 1
    image_size: int = 28

    def load(self, root: str | Path) -> Images:
        """Read all images into memory; what is not in `root` is downloaded there.

        Raises:
            UserError: the files are damaged, or neither there nor to be had, or of another shape.
        """
        arrays = self.read(Path(root).expanduser())
        train_images, train_labels, test_images, test_labels = arrays
        self._check(train_images, train_labels, "training")
        self._check(test_images, test_labels, "test")
        return Images(
            _tensor(train_images, np.uint8),
            _tensor(train_labels, np.int64),
            _tensor(test_images, np.uint8),
            _tensor(test_labels, np.int64),
        )

    def _check(self, images: np.ndarray, labels: np.ndarray, part: str) -> None:
        side = self.image_size
        if len(labels) == 0 or images.shape != (len(labels), side, side):
            shape = " x ".join(map(str, images.shape))
            raise UserError(
                f"data={self.choice}: {len(labels)} {part} labels for {shape} images; "
                f"must be as many images, {side} x {side}"
            )
        highest = len(self.class_names) - 1
        if labels.min() < 0 or labels.max() > highest:
            raise UserError(
                f"data={self.choice}: {part} labels from {labels.min()} to {labels.max()}; "
                f"must be within 0..{highest}"
            )


def _tensor(array: np.ndarray, dtype: type) -> Tensor:
    # torch warns about arrays over a file's bytes, which cannot be written to: those are copied
    return torch.from_numpy(array.astype(dtype, copy=not array.flags.writeable))


@cache
def _embedded_mnist() -> list[np.ndarray]:
    """Read the packaged MNIST, once for all the jobs of a sweep."""
    remedy = "reinstall cnnbp, or in a clone run: git checkout -- cnnbp/data/mnist.npz"
    try:
        raw = MNIST_ARCHIVE.read_bytes()
    except OSError as error:
        raise UserError(f"{MNIST_ARCHIVE}: cannot be read ({error.strerror}); {remedy}") from None
    if hashlib.sha256(raw).hexdigest() != MNIST_SHA256:
        raise UserError(f"{MNIST_ARCHIVE}: damaged (its SHA-256 is wrong); {remedy}")
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        return [arrays[name] for name in Images._fields]


def _mnist(root: Path) -> list[np.ndarray]:
    return _embedded_mnist()


def _fashion_mnist(root: Path) -> list[np.ndarray]:
    return read_or_download("FashionMNIST", "fashion_mnist", MNIST_FILES, root)


def _kmnist(root: Path) -> list[np.ndarray]:
    return read_or_download("KMNIST", "kmnist", MNIST_FILES, root)


def _qmnist(root: Path) -> list[np.ndarray]:
    arrays = read_or_download("QMNIST", "qmnist", QMNIST_FILES, root)
    train_images, train_labels, test_images, test_labels = arrays
    # the first column of the labels is the digit, the others say who wrote it
    return [
        train_images,
        train_labels[:, 0],
        test_images[:QMNIST_TEST_IMAGES],
        test_labels[:QMNIST_TEST_IMAGES, 0],
    ]


MNIST = DataSet(
    name="MNIST",
    choice="mnist",
    description="handwritten digits",
    notice="Yann LeCun, Corinna Cortes and Christopher J. C. Burges, CC BY-SA 3.0 "
    "(https://creativecommons.org/licenses/by-sa/3.0/)",
    class_names=DIGITS,
    mean=0.1307,
    std=0.3081,
    read=_mnist,
)
FASHION_MNIST = DataSet(
    name="FashionMNIST",
    choice="fashion_mnist",
    description="clothes",
    notice="Zalando SE, MIT (https://github.com/zalandoresearch/fashion-mnist)",
    class_names=(
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
    mean=0.2860,
    std=0.3530,
    read=_fashion_mnist,
)
KMNIST = DataSet(
    name="KMNIST",
    choice="kmnist",
    description="handwritten hiragana",
    notice='"KMNIST Dataset" (created by CODH), adapted from "Kuzushiji Dataset" (created by NIJL '
    "and others), doi:10.20676/00000341, CC BY-SA 4.0 "
    "(https://creativecommons.org/licenses/by-sa/4.0/)",
    class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    mean=0.1918,
    std=0.3483,
    read=_kmnist,
)
QMNIST = DataSet(
    name="QMNIST",
    choice="qmnist",
    description="handwritten digits",
    notice="Facebook, Inc., BSD (https://github.com/facebookresearch/qmnist)",
    class_names=DIGITS,
    mean=0.1307,
    std=0.3081,
    read=_qmnist,
)
DATASETS = {dataset.name: dataset for dataset in (MNIST, FASHION_MNIST, KMNIST, QMNIST)}
