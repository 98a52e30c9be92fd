"""IDX files, the format that MNIST was published in: found on disk, or downloaded."""

import gzip
import os
import shutil
import socket
import zlib
from http.client import HTTPException
from pathlib import Path

import numpy as np

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

# without a byte for so long a download is given up; torchvision itself would wait for ever
TIMEOUT_SECONDS = 30


def read_or_download(
    name: str, choice: str, files: tuple[str, ...], root: Path
) -> list[np.ndarray]:
    """Read a data set's IDX files, downloading them where they are not there.

    The files, plain or .gz, are looked for in `root/NAME/raw`, where torchvision keeps them, then
    in `root` itself.

    Args:
        name: torchvision's class.
        choice: as in `data=CHOICE`, for error messages.

    Raises:
        UserError: damaged files, or files that are neither there nor to be had.
    """
    folders = (root / name / "raw", root)
    paths = _find(files, folders) or _download(name, choice, files, root)
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
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        header = np.frombuffer(raw, ">u4", 1 + dimensions)
        if header[0] != magic:
            raise ValueError(f"its magic number is {header[0]}, not {magic}")
        shape = header[1:].tolist()
        return np.frombuffer(raw, dtype, offset=header.nbytes).reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(
            f"{path}: not a whole IDX file ({error}); replace it, or delete it to download anew"
        ) from None


def _find(files: tuple[str, ...], folders: tuple[Path, ...]) -> list[Path] | None:
    """The files, plain rather than .gz, of the first folder that has them all."""
    for folder in folders:
        found = []
        for name in files:
            for path in (folder / name, folder / f"{name}.gz"):
                if path.is_file():
                    found.append(path)
                    break
        if len(found) == len(files):
            return found
    return None


def _download(name: str, choice: str, files: tuple[str, ...], root: Path) -> list[Path]:
    """Download the files into `root/NAME/raw`, or wait for the process that does."""
    # only here, where a download takes far longer than the import
    from filelock import FileLock

    folder = root / name / "raw"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock"):
            # another process may have been first
            if not _find(files, (folder,)):
                _fetch(name, files, root / f".{name}.partial", folder)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
        reason = reason.removeprefix("<urlopen error ").removesuffix(">")
        by_hand = f"by hand: put {', '.join(files)} (plain or .gz) into {folder}"
        raise UserError(
            f"data={choice}: {name} could not be downloaded ({reason}); {by_hand}"
        ) from None
    return [folder / file for file in files]


def _fetch(name: str, files: tuple[str, ...], partial: Path, folder: Path) -> None:
    # slow to import
    from torchvision import datasets

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        # left by a killed process
        shutil.rmtree(partial, ignore_errors=True)
        for train in (True, False):
            getattr(datasets, name)(partial, train=train, download=True)
        # each file appears whole or not at all, because torchvision trusts a file that exists
        for file in files:
            os.replace(partial / name / "raw" / file, folder / file)
    finally:
        socket.setdefaulttimeout(timeout)
        shutil.rmtree(partial, ignore_errors=True)
