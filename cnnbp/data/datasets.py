"""Where images come from: the embedded MNIST, or a data set that torchvision knows, on disk or downloaded."""

import gzip
import hashlib
import io
import os
import shutil
import socket
import zlib
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnnbp.errors import UserError

MNIST_FILE = Path(__file__).with_name("mnist.npz")
MNIST_SHA256 = "c8ca71ad62d22263ab46d0b5a815db8a64618c94fa6e7bc9f48a2c68964b1f12"

# torchvision's class: the name as in data=..., and its four files in the order of Images
MNIST_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
QMNIST_NAMES = (
    "qmnist-train-images-idx3-ubyte",
    "qmnist-train-labels-idx2-int",
    "qmnist-test-images-idx3-ubyte",
    "qmnist-test-labels-idx2-int",
)
DATASETS = {
    "FashionMNIST": ("fashion_mnist", MNIST_NAMES),
    "KMNIST": ("kmnist", MNIST_NAMES),
    "QMNIST": ("qmnist", QMNIST_NAMES),
}

# how a file's name ends: its magic number, dimensions and type
IDX_KINDS = {
    "idx3-ubyte": (2051, 3, "u1"),
    "idx1-ubyte": (2049, 1, "u1"),
    "idx2-int": (3074, 2, ">i4"),
}

TIMEOUT = 30  # seconds without a byte after which a download is given up; torchvision itself would wait for ever


class Images(NamedTuple):
    """A data set in memory: images uint8 (N, 28, 28), labels int64 (N,) in 0..9."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@cache
def embedded_mnist() -> Images:
    """Read the packaged MNIST, once for all the jobs of a sweep: 60,000 training and 10,000 test images.

    Raises:
        UserError: the file is missing or its SHA-256 is wrong.
    """
    remedy = "reinstall cnnbp, or in a clone run: git checkout -- cnnbp/data/mnist.npz"
    try:
        raw = MNIST_FILE.read_bytes()
    except OSError as error:
        raise UserError(f"{MNIST_FILE}: cannot be read ({error.strerror}); {remedy}") from None
    if hashlib.sha256(raw).hexdigest() != MNIST_SHA256:
        raise UserError(f"{MNIST_FILE}: damaged (its SHA-256 is wrong); {remedy}")
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        return _images("data=mnist", [arrays[name] for name in Images._fields])


def torchvision_images(dataset: str, root: str | Path) -> Images:
    """Read a key of `DATASETS` from its four IDX files, downloading them when they are not there.

    The files, plain or .gz, are looked for in `root/<dataset>/raw` (torchvision's place), then in `root` itself.
    QMNIST gives the 10,000 test images that match MNIST's.

    Raises:
        UserError: unknown data set, damaged files, or files that are neither there nor to be had.
    """
    if dataset not in DATASETS:
        raise UserError(f"data.dataset={dataset}: must be one of {', '.join(DATASETS)}")
    root = Path(root).expanduser()
    arrays = [_read_idx(path) for path in _find(dataset, root) or _download(dataset, root)]
    if dataset == "QMNIST":  # column 0 is the digit, the others say who wrote it
        arrays = [arrays[0], arrays[1][:, 0], arrays[2][:10_000], arrays[3][:10_000, 0]]
    return _images(f"data={DATASETS[dataset][0]}", arrays)


def _images(data: str, arrays: list[np.ndarray]) -> Images:
    for images, labels, part in (*arrays[:2], "training"), (*arrays[2:], "test"):
        if images.shape != (len(labels), 28, 28) or not len(labels):
            shape = " x ".join(map(str, images.shape))
            raise UserError(
                f"{data}: {len(labels)} {part} labels for {shape} images; must be as many images, 28 x 28"
            )
        if labels.min() < 0 or labels.max() > 9:
            raise UserError(
                f"{data}: {part} labels from {labels.min()} to {labels.max()}; must be within 0..9"
            )
    # copies, because arrays over a file's bytes cannot be written to, which torch warns about
    return Images(
        *(torch.from_numpy(a.astype(np.uint8 if a.ndim == 3 else np.int64)) for a in arrays)
    )


def _read_idx(path: Path) -> np.ndarray:
    magic, dimensions, dtype = next(
        kind for end, kind in IDX_KINDS.items() if path.name.removesuffix(".gz").endswith(end)
    )
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            raw = file.read()
        header = np.frombuffer(raw, ">u4", 1 + dimensions)
        if header[0] != magic:
            raise ValueError(f"its magic number is {header[0]}, not {magic}")
        shape = header[1:].tolist()
        return np.frombuffer(raw, dtype, offset=header.nbytes).reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(
            f"{path}: not a whole IDX file ({error}); replace it, or delete it to download anew"
        ) from None


def _find(dataset: str, root: Path) -> list[Path] | None:
    """Return the four files, plain rather than .gz, of the first folder that has them all."""
    for folder in (root / dataset / "raw", root):
        plain = [folder / name for name in DATASETS[dataset][1]]
        files = [
            path if os.path.isfile(path) else path.with_name(f"{path.name}.gz") for path in plain
        ]
        if all(map(os.path.isfile, files)):
            return files
    return None


def _download(dataset: str, root: Path) -> list[Path]:
    """Download the four files, or wait for the process that does; return them."""
    import fcntl  # not on Windows, where the embedded data and files at hand still work

    data, names = DATASETS[dataset]
    folder = root / dataset / "raw"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(root / ".download.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the process ends, however it ends
            if not _find(dataset, root):  # another process may have been first
                _fetch(dataset, root / f".{dataset}.partial", folder)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
        reason = reason.removeprefix("<urlopen error ").removesuffix(">")
        by_hand = f"by hand: put {', '.join(names)} (plain or .gz) into {folder}"
        raise UserError(
            f"data={data}: {dataset} could not be downloaded ({reason}); {by_hand}"
        ) from None
    return _find(dataset, root)


def _fetch(dataset: str, partial: Path, folder: Path) -> None:
    from torchvision import datasets  # slow to import

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        shutil.rmtree(partial, ignore_errors=True)  # what a killed process left
        for train in (True, False):
            getattr(datasets, dataset)(partial, train=train, download=True)
        for name in DATASETS[dataset][
            1
        ]:  # each appears whole or not at all; torchvision trusts a file that exists
            os.replace(partial / dataset / "raw" / name, folder / name)
    finally:
        socket.setdefaulttimeout(timeout)
        shutil.rmtree(partial, ignore_errors=True)
