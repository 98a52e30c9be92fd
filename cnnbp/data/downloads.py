"""The files of a data set: found where a user has put them, or downloaded by torchvision."""

import gzip
import os
import shutil
import socket
from http.client import HTTPException
from pathlib import Path

from cnnbp.errors import UserError

# without a byte for so long a download is given up; torchvision itself would wait for ever
TIMEOUT_SECONDS = 30


def find_or_download(
    name: str, choice: str, files: tuple[str, ...], root: Path, folder: str
) -> list[Path]:
    """Find a data set's files, downloading them where they are not there.

    The files, plain or .gz, are looked for in `root/FOLDER`, where torchvision keeps them, then in
    `root` itself.

    Args:
        name: torchvision's class.
        choice: as in `data=CHOICE`, for error messages.
        folder: below the folder that torchvision's class is given.

    Raises:
        UserError: files that are neither there nor to be had.
    """
    folders = (root / folder, root)
    return _find(files, folders) or _download(name, choice, files, root, folder)


def content(path: Path) -> bytes:
    """What a file holds, decompressed where its name ends in .gz.

    Raises:
        OSError, EOFError, zlib.error: it cannot be read, or decompressed.
    """
    raw = path.read_bytes()
    return gzip.decompress(raw) if path.suffix == ".gz" else raw


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


def _download(
    name: str, choice: str, files: tuple[str, ...], root: Path, folder: str
) -> list[Path]:
    """Download the files into `root/FOLDER`, or wait for the process that does."""
    # only here, where a download takes far longer than the import
    from filelock import FileLock

    place = root / folder
    try:
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock"):
            # another process may have been first
            if not _find(files, (place,)):
                _fetch(name, files, root / f".{name}.partial", folder, place)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
        reason = reason.removeprefix("<urlopen error ").removesuffix(">")
        by_hand = f"by hand: put {', '.join(files)} (plain or .gz) into {place}"
        raise UserError(
            f"data={choice}: {name} could not be downloaded ({reason}); {by_hand}"
        ) from None
    return [place / file for file in files]


def _fetch(name: str, files: tuple[str, ...], partial: Path, folder: str, place: Path) -> None:
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
            os.replace(partial / folder / file, place / file)
    finally:
        socket.setdefaulttimeout(timeout)
        shutil.rmtree(partial, ignore_errors=True)
