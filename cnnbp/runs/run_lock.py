"""The lock that lets one process at a time work in a run directory."""

import os
import socket
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from cnnbp.errors import UserError


class InUse(UserError):
    """Another process holds the directory."""


class RunLock:
    """A lock beside a run directory, so that it outlasts the directory itself.

    The operating system lets go of it when its process ends, however it ends.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._lock = FileLock(directory.with_name(f".{directory.name}.lock"))
        self._holder = directory.with_name(f".{directory.name}.holder")

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            InUse: names the process that has it.
        """
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise InUse(
                f"{self.directory} is in use by {self._read_holder()}; wait, or give another name="
            ) from None
        now = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        self._holder.write_text(f"process {os.getpid()} on {socket.gethostname()} since {now}")

    def release(self) -> None:
        """Let go of the lock; where the directory is gone, nothing of it stays either."""
        self._holder.unlink(missing_ok=True)
        if not self.directory.exists():
            # filelock notices a file that was removed between opening and locking it; Windows
            # removes no open file, and there this one stays
            with suppress(OSError):
                Path(self._lock.lock_file).unlink()
        self._lock.release()

    def _read_holder(self) -> str:
        for _ in range(20):  # the holder may be about to write who it is
            if self._holder.exists() and (holder := self._holder.read_text()):
                return holder
            time.sleep(0.05)
        return "another process"
