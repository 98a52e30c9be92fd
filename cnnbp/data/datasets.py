"""What each data set is, defined once, and how its images come into memory."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnnbp.data.cifar_files import read_or_download_cifar10
from cnnbp.data.idx_files import MNIST_FILES, QMNIST_FILES, read_or_download
from cnnbp.errors import UserError

MNIST_ARCHIVE = Path(__file__).with_name("mnist.npz")
MNIST_SHA256 = "c8ca71ad62d22263ab46d0b5a815db8a64618c94fa6e7bc9f48a2c68964b1f12"
# the first ones match MNIST's, image by image
QMNIST_TEST_IMAGES = 10_000

DIGITS = tuple("0123456789")


class Images(NamedTuple):
    """A data set in memory: images uint8 and labels int64 (N,) in [0, number of classes).

    Grey images are (N, S, S), others (N, C, S, S).
    """

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
        mean, std: of each channel, over all training pixels, scaled to [0, 1].
        read: reads the arrays of `Images` in their order, from the folder that `data.root` names.
        image_size: height and width of the images, in pixels.
        is_ink_on_paper: whether a user's picture is searched for ink, as digits are; else it is
            taken as it is, and only scaled.
    """

    name: str
    choice: str
    description: str
    notice: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    read: Callable[[Path], list[np.ndarray]]
    channels: int = 1
    image_size: int = 28
    is_ink_on_paper: bool = False

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of an image (C, S, S)."""
        return self.channels, self.image_size, self.image_size

    @property
    def facts(self) -> dict[str, Any]:
        """All but `read`, as plain data that a checkpoint can hold."""
        facts = {}
        for field in fields(self):
            if field.name != "read":
                value = getattr(self, field.name)
                facts[field.name] = list(value) if isinstance(value, tuple) else value
        return facts

    @classmethod
    def from_facts(
        cls, facts: dict[str, Any], read: Callable[[Path], list[np.ndarray]]
    ) -> "DataSet":
        """The data set that `facts` describe.

        Raises:
            UserError: they are not the facts of a data set.
        """
        values: dict[str, Any] = {}
        for name, value in facts.items():
            values[name] = tuple(value) if isinstance(value, list) else value
        try:
            return cls(**values, read=read)
        except TypeError as error:
            raise UserError(f"the checkpoint's data set cannot be read ({error})") from None

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
        wanted = self.image_shape[1:] if self.channels == 1 else self.image_shape
        if len(labels) == 0 or images.shape != (len(labels), *wanted):
            shape = " x ".join(map(str, images.shape))
            raise UserError(
                f"data={self.choice}: {len(labels)} {part} labels for {shape} images; "
                f"must be as many images, {' x '.join(map(str, wanted))}"
            )
        highest = self.classes - 1
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
    mean=(0.1307,),
    std=(0.3081,),
    read=_mnist,
    is_ink_on_paper=True,
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
    mean=(0.2860,),
    std=(0.3530,),
    read=_fashion_mnist,
    is_ink_on_paper=True,
)
KMNIST = DataSet(
    name="KMNIST",
    choice="kmnist",
    description="handwritten hiragana",
    notice='"KMNIST Dataset" (created by CODH), adapted from "Kuzushiji Dataset" (created by NIJL '
    "and others), doi:10.20676/00000341, CC BY-SA 4.0 "
    "(https://creativecommons.org/licenses/by-sa/4.0/)",
    class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    mean=(0.1918,),
    std=(0.3483,),
    read=_kmnist,
    is_ink_on_paper=True,
)
QMNIST = DataSet(
    name="QMNIST",
    choice="qmnist",
    description="handwritten digits",
    notice="Facebook, Inc., BSD (https://github.com/facebookresearch/qmnist)",
    class_names=DIGITS,
    mean=(0.1307,),
    std=(0.3081,),
    read=_qmnist,
    is_ink_on_paper=True,
)
CIFAR10 = DataSet(
    name="CIFAR10",
    choice="cifar10",
    description="photographs of vehicles and animals",
    notice="Alex Krizhevsky, Vinod Nair and Geoffrey Hinton, without a licence "
    "(https://www.cs.toronto.edu/~kriz/cifar.html)",
    class_names=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    read=read_or_download_cifar10,
    channels=3,
    image_size=32,
)
DATASETS = {dataset.name: dataset for dataset in (MNIST, FASHION_MNIST, KMNIST, QMNIST, CIFAR10)}
