"""Files that are whole at every instant, also when the process is killed while it writes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from cnnbp.errors import UserError


@contextmanager
def replacing(path: str | Path, mode: str = "w", keep: Path | None = None) -> Iterator[IO]:
    """Write beside `path`, flush to disk, then rename: a reader sees the old file or the new one.

    Args:
        keep: where the file that was at `path` goes, instead of being replaced.

    Raises:
        UserError: the file cannot be written, for instance because the disk is full; the old
            file is still there.
    """
    path = Path(path)
    # with the process's number, so that two that write the same file do not share a part
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # the csv module ends lines itself
        with part.open(mode, newline="" if mode == "w" else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            path.replace(keep)
        part.replace(path)
        _flush_directory(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            part.unlink()


def refuse_pipe(path: str | Path) -> None:
    """Raise a UserError for a pipe or a device: reading it could wait without end."""
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: is neither a file nor a directory")


def remove_parts(directory: Path) -> None:
    """Remove unfinished files of killed processes; nobody else may write to the directory."""
    for part in directory.glob(".*.part"):
        part.unlink(missing_ok=True)


def _flush_directory(directory: Path) -> None:
    """Put a new name on the disk too, without which it would not outlive a power cut."""
    # Windows opens no directories
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
