"""Files that are whole at every instant, also when the process is killed while it writes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Write beside `path`, flush to disk, then rename: a reader sees the old file or the new one, never a part."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open(mode, newline="" if mode == "w" else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
