"""The progress of a multirun whose jobs run in other processes."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from cnnbp.errors import UserError
from cnnbp.runs.run_lock import RunLock
from cnnbp.runs.run_record import CONFIG, ERROR, RESULT, RunRecord

REFRESH_SECONDS = 1
# running jobs with a line of their own
MOST_SHOWN = 16


class JobStates(NamedTuple):
    """The directories of the jobs that have started, by what became of them."""

    done: list[Path]
    failed: list[Path]
    running: list[Path]


@contextmanager
def job_progress(directory: Path, jobs: int, since: float) -> Iterator[None]:
    """Show how far the jobs of a sweep are until the block ends.

    On a terminal these are lines that move in place, elsewhere a line whenever a job ends.

    Args:
        directory: the sweep's.
        jobs: how many there are.
        since: when the sweep was started, in seconds by the clock of the file system.
    """
    stop = threading.Event()
    thread = threading.Thread(target=_show, args=(directory, jobs, since, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _show(directory: Path, jobs: int, since: float, stop: threading.Event) -> None:
    display = _Terminal(jobs) if sys.stderr.isatty() else _Log(jobs)
    while not stop.wait(REFRESH_SECONDS):
        display.show(read_states(directory, since))
    display.close()


class _Terminal:
    """A bar over all jobs, with a line for each running one below it."""

    def __init__(self, jobs: int):
        self.bar = tqdm(total=jobs, unit="job", leave=False, dynamic_ncols=True)
        self.lines: list[tqdm] = []

    def show(self, states: JobStates) -> None:
        self.bar.n = len(states.done) + len(states.failed)
        self.bar.set_description_str(_counts(states, self.bar.total))
        while len(self.lines) < min(len(states.running), MOST_SHOWN):
            self.lines.append(tqdm(bar_format="{desc}", leave=False, dynamic_ncols=True))
        shown = states.running[: len(self.lines)]
        for line, run in zip_longest(self.lines, shown):
            line.set_description_str(describe(run) if run else "")

    def close(self) -> None:
        for line in (*self.lines[::-1], self.bar):
            line.close()


class _Log:
    """A line for all jobs and one for each running job, whenever a job has ended."""

    def __init__(self, jobs: int):
        self.jobs, self.ended = jobs, 0
        self.start = time.monotonic()

    def show(self, states: JobStates) -> None:
        ended = len(states.done) + len(states.failed)
        if ended <= self.ended:
            return
        self.ended = ended
        seconds = time.monotonic() - self.start
        counts = _counts(states, self.jobs)
        line = tqdm.format_meter(ended, self.jobs, seconds, unit="job", prefix=counts)
        print(line, file=sys.stderr)
        for run in states.running:
            print(f"  {describe(run)}", file=sys.stderr)

    def close(self) -> None:
        return


def _counts(states: JobStates, jobs: int) -> str:
    running, failed = len(states.running), len(states.failed)
    waiting = jobs - running - failed - len(states.done)
    return f"{running} running, {waiting} waiting, {failed} failed"


def read_states(directory: Path, since: float) -> JobStates:
    """Sort the jobs that run, or have ended since the sweep was started."""
    states = JobStates([], [], [])
    for path in sorted(directory.iterdir()):
        if is_newer(path / ERROR, since):
            states.failed.append(path)
        elif is_newer(path / RESULT, since):
            states.done.append(path)
        elif (path / CONFIG).exists() and RunLock(path).is_held():
            states.running.append(path)
    return states


def is_newer(path: Path, since: float) -> bool:
    """Whether a file exists, and was written since that second."""
    try:
        return path.stat().st_mtime >= since
    except (FileNotFoundError, NotADirectoryError):
        return False


def describe(run: Path) -> str:
    """Name a running job, its finished epochs and its latest accuracy."""
    try:
        rows = RunRecord(run).metrics
    except UserError:
        rows = []
    epochs = [row for row in rows if row.get("accuracy/train")]
    if not epochs:
        return f"in its first epoch: {run.name}"
    accuracy = epochs[-1].get("accuracy/val") or epochs[-1].get("accuracy/test")
    latest = f", accuracy {float(accuracy):.2%}" if accuracy else ""
    return f"after epoch {len(epochs)}{latest}: {run.name}"
