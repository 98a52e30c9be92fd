"""CIFAR-10's files: batches of images and labels, pickled by Python 2."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from cnnbp.data.downloads import content, find_or_download
from cnnbp.errors import UserError

TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILE = "test_batch"
# where torchvision keeps them
FOLDER = "cifar-10-batches-py"
SIDE = 32

_reconstruct = np.empty(0).__reduce__()[0]
# what a file may call: functions of NumPy and Python that make an array
ARRAY_MAKERS = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # its module has another name in each version of NumPy
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    # of bytes, where Python 3 wrote the file
    ("_codecs", "encode"): str.encode,
}


def read_or_download_cifar10(root: Path) -> list[np.ndarray]:
    """Read CIFAR-10, downloading it where it is not there.

    Returns:
        Training images uint8 (N, 3, 32, 32) and labels int64 (N,), then those of the test set.

    Raises:
        UserError: damaged files, or files that are neither there nor to be had.
    """
    files = (*TRAIN_FILES, TEST_FILE)
    *train, test = find_or_download("CIFAR10", "cifar10", files, root, FOLDER)
    images, labels = [], []
    for path in train:
        own_images, own_labels = read_batch(path)
        images.append(own_images)
        labels.append(own_labels)
    return [np.concatenate(images), np.concatenate(labels), *read_batch(test)]


def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the images uint8 (N, 3, 32, 32) and the labels int64 (N,) of one file, plain or .gz.

    Raises:
        UserError: it is damaged, or of another kind.
    """
    try:
        batch = ArrayUnpickler(io.BytesIO(content(path)), encoding="latin1").load()
        images = np.asarray(batch["data"], np.uint8).reshape(-1, 3, SIDE, SIDE)
        return images, np.asarray(batch["labels"], np.int64)
    except Exception as error:
        # a damaged pickle raises nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: not a whole batch of CIFAR-10 ({reason}); "
            "replace it, or delete it to download anew"
        ) from None


class ArrayUnpickler(pickle.Unpickler):
    """Loads plain values and arrays, and runs no other code that a file names."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAY_MAKERS:
            raise pickle.UnpicklingError(f"it would run {module}.{name}")
        return ARRAY_MAKERS[module, name]
