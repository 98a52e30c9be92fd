"""The lock that lets one process at a time work in a run directory."""

import os
import socket
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from cnnbp.errors import UserError

# how long to try: a process that is about to end removes the file that it has locked
ENDING_SECONDS = 0.2


class InUse(UserError):
    """Another process holds the directory."""


class RunLock:
    """A lock beside a run directory, so that it outlasts the directory itself.

    The operating system lets go of it when its process ends, however it ends.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        # the thread that lets go of it may be another one than has taken it
        self._lock = FileLock(directory.with_name(f".{directory.name}.lock"), thread_local=False)
        self._holder = directory.with_name(f".{directory.name}.holder")

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            InUse: names the process that has it.
        """
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=ENDING_SECONDS)
        except Timeout:
            raise InUse(
                f"{self.directory} is in use by {self._read_holder()}; wait, or give another name="
            ) from None
        now = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        self._holder.write_text(f"process {os.getpid()} on {socket.gethostname()} since {now}")

    def is_held(self) -> bool:
        """Whether a living process has the lock; what a dead one left of it is removed."""
        if not Path(self._lock.lock_file).exists():
            return False
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return True
        self.release()
        return False

    def release(self) -> None:
        """Let go of the lock, and leave nothing of it."""
        self._holder.unlink(missing_ok=True)
        # While the lock is held: who has opened the file just before finds out that it is gone,
        # and takes the next one. Windows removes no open file; there it stays, and holds nobody.
        with suppress(OSError):
            Path(self._lock.lock_file).unlink()
        self._lock.release()

    def _read_holder(self) -> str:
        # the holder may be about to write who it is
        for _ in range(20):
            if self._holder.exists() and (holder := self._holder.read_text()):
                return holder
            time.sleep(0.05)
        return "another process"
