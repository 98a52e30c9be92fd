"""Signals that ask a process to stop; in training, `Checkpoints` saves before it does."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPPING = [signal.SIGTERM, signal.SIGINT]
# Slurm sends SIGUSR1, which Windows lacks, ahead of time where a job asks for it:
# sbatch --signal=USR1@90
REQUEUE = getattr(signal, "SIGUSR1", None) if "SLURM_JOB_ID" in os.environ else None
if REQUEUE is not None:
    STOPPING.append(REQUEUE)

# whether `exit_at_once` raises instead, because the process is not ours alone
_raises = False


def on_stop(handler: Callable[[int, FrameType | None], None]) -> None:
    """Call `handler` for each signal to stop; Python allows it in the main thread alone."""
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            signal.signal(number, handler)


def exit_at_once(number: int, frame: FrameType | None = None) -> None:
    """End the process with the usual exit status: 143 after SIGTERM, 130 after SIGINT."""
    if _raises:
        interrupt(number)
    # an exception would end in a crash where C++ has called Python, as in torch's import
    os._exit(128 + number)


def interrupt(number: int, frame: FrameType | None = None) -> None:
    """Raise KeyboardInterrupt, on which a launcher ends the processes of its jobs."""
    raise KeyboardInterrupt(128 + number)


@contextmanager
def raising() -> Iterator[None]:
    """Let signals to stop raise KeyboardInterrupt, for a program that goes on: a notebook."""
    global _raises
    before = _handlers()
    _raises = True
    on_stop(interrupt)
    try:
        yield
    finally:
        _raises = False
        _restore(before)


@contextmanager
def exiting() -> Iterator[None]:
    """Let signals to stop end the process without a traceback."""
    before = _handlers()
    on_stop(exit_at_once)
    try:
        yield
    finally:
        _restore(before)


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in STOPPING}


def _restore(handlers: dict[int, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)
