"""Arrays that take long to make, kept in the user's cache directory."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from cnnbp.errors import UserError
from cnnbp.files import replacing


def cached(source: Path, fingerprint: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array that was made before, or is made now and kept.

    Of each source one array is kept. A cache that is missing, damaged or not writable costs time
    alone.

    Args:
        source: what the array is made of.
        fingerprint: changes with whatever the array depends on.
    """
    path = _cache_file(source)
    # NumPy and zipfile raise nearly anything on a damaged file
    with suppress(Exception), path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
        if str(kept["fingerprint"]) == fingerprint:
            return kept["array"]
    array = make()
    with suppress(OSError, UserError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(path, "wb") as file:
            np.savez(file, fingerprint=np.array(fingerprint), array=array)
    return array


def fingerprint_of(files: list[Path], *options: object) -> str:
    """A checksum of files, by their names, sizes and times of change, and of options."""
    checksum = hashlib.sha256(repr(options).encode())
    for file in files:
        status = file.stat()
        checksum.update(repr((str(file), status.st_size, status.st_mtime_ns)).encode())
    return checksum.hexdigest()


def _cache_file(source: Path) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:32]
    return Path(home) / "cnnbp" / f"pictures-{name}.npz"
