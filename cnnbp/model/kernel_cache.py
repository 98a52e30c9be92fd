"""C libraries that are compiled at their first use and kept in the user's cache directory."""

import ctypes
import hashlib
import logging
import os
import shlex
import stat
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from cnnbp.errors import UserError
from cnnbp.files import replacing

# after which the compiler is taken to hang
COMPILE_SECONDS = 300
# threads of a process would write the same temporary file
ONE_BUILDER = threading.Lock()


class BuildError(Exception):
    """The library cannot be compiled; the message gives the compiler's reason."""


def load(source: Path, flags: Sequence[str]) -> ctypes.CDLL:
    """Load the library that $CC, or cc, makes of `source`, from the cache or built anew.

    A library's name holds what it was built from and the checksum of its bytes, so that a damaged
    file is never loaded and processes that build at the same time never mix their files. Where
    there is no directory that this user alone may write to, the library is built for this process
    only.

    Raises:
        BuildError: the compiler fails.
        OSError: the compiler is missing, or the library cannot be loaded.
        ValueError: $CC has an unclosed quotation mark.
    """
    compiler = shlex.split(os.environ.get("CC") or "cc")
    built_from = source.read_bytes(), compiler, flags, torch.cpu.get_capabilities()
    name = f"{source.stem}-{_checksum(repr(built_from).encode())}"
    directory = _cache_directory()
    with ONE_BUILDER:
        return _kept(name, directory) or _built([*compiler, *flags, str(source)], name, directory)


def _kept(name: str, directory: Path | None) -> ctypes.CDLL | None:
    if directory:
        for path in sorted(directory.glob(f"{name}-*.so")):
            if _is_intact(path) and _is_private(path):
                # one that was built on another system with the same home directory may not load
                with suppress(OSError):
                    return ctypes.CDLL(str(path))
    return None


def _built(command: Sequence[str], name: str, directory: Path | None) -> ctypes.CDLL:
    # Windows does not delete a library in use
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        path = Path(temporary) / f"{name}.so"
        _compile([*command, "-o", str(path), "-lm"])
        if directory:
            path = _keep(path, directory)
        return ctypes.CDLL(str(path))


def _compile(command: Sequence[str]) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=COMPILE_SECONDS,
    )
    if done.returncode:
        words = done.stderr.strip() or f"exit status {done.returncode}"
        raise BuildError(f"{command[0]}: {words.splitlines()[0]}")


def _keep(built: Path, directory: Path) -> Path:
    """Copy `built` into the cache; return where it can be loaded from."""
    content = built.read_bytes()
    kept = directory / f"{built.stem}-{_checksum(content)}.so"
    try:
        with replacing(kept, "wb") as file:
            # also where new files are writable for a group
            os.chmod(file.name, 0o700)
            file.write(content)
    except UserError:  # a full disk
        return built
    return kept if _is_intact(kept) else built


def _is_intact(path: Path) -> bool:
    try:
        return path.stem.rpartition("-")[2] == _checksum(path.read_bytes())
    except OSError:
        return False


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _cache_directory() -> Path | None:
    """Return the cache directory, created if missing; None without one that is private."""
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        directory = Path(home) / "cnnbp"
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        if _is_private(directory):
            return directory
    except (OSError, RuntimeError):  # not writable, or no home directory
        return None
    logging.getLogger(__name__).info(
        "%s: not used, since other users may write to it; the C kernel is built at each start",
        directory,
    )
    return None


def _is_private(path: Path) -> bool:
    """Whether this user and root alone may change `path` and the directories that lead to it."""
    # Windows: access lists say so, and a profile's are private
    if not hasattr(os, "getuid"):
        return True
    path = path.resolve()
    for place in (path, *path.parents):
        status = place.stat()
        writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        # in a directory like /tmp others may create files, but not replace ours
        sticky = status.st_mode & stat.S_ISVTX and place != path
        if status.st_uid not in (0, os.getuid()) or (writable and not sticky):
            return False
    return True
