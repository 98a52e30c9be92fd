"""IDX files, the format that MNIST was published in."""

import zlib
from pathlib import Path

import numpy as np

from cnnbp.data.downloads import content, find_or_download
from cnnbp.errors import UserError

# four files each: training images and labels, test images and labels
MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
QMNIST_FILES = (
    "qmnist-train-images-idx3-ubyte",
    "qmnist-train-labels-idx2-int",
    "qmnist-test-images-idx3-ubyte",
    "qmnist-test-labels-idx2-int",
)

# by the end of a file's name: its magic number, its number of dimensions and its type
KINDS = {
    "idx3-ubyte": (2051, 3, "u1"),
    "idx1-ubyte": (2049, 1, "u1"),
    "idx2-int": (3074, 2, ">i4"),
}


def read_or_download(
    name: str, choice: str, files: tuple[str, ...], root: Path
) -> list[np.ndarray]:
    """Read a data set's IDX files, downloading them where they are not there.

    Args:
        name: torchvision's class.
        choice: as in `data=CHOICE`, for error messages.

    Raises:
        UserError: damaged files, or files that are neither there nor to be had.
    """
    paths = find_or_download(name, choice, files, root, f"{name}/raw")
    return [read_idx(path) for path in paths]


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file, plain or .gz.

    Raises:
        UserError: it is damaged, or of another kind than its name says.
    """
    ending = path.name.removesuffix(".gz")
    kind = next(kind for end, kind in KINDS.items() if ending.endswith(end))
    magic, dimensions, dtype = kind
    try:
        raw = content(path)
        header = np.frombuffer(raw, ">u4", 1 + dimensions)
        if header[0] != magic:
            raise ValueError(f"its magic number is {header[0]}, not {magic}")
        shape = header[1:].tolist()
        return np.frombuffer(raw, dtype, offset=header.nbytes).reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(
            f"{path}: not a whole IDX file ({error}); replace it, or delete it to download anew"
        ) from None
