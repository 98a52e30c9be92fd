"""How far the jobs of a parallel multirun are, read from their directories by the process that launched them."""

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
from cnnbp.runs.run_record import read_metrics

REFRESH_SECONDS = 1
MOST_SHOWN = 16


class State(NamedTuple):
    """The directories of the jobs that have finished, that failed and that run, of those started."""

    done: list[Path]
    failed: list[Path]
    running: list[Path]


@contextmanager
def overview(directory: Path, jobs: int) -> Iterator[None]:
    """Show the jobs below a sweep's directory until the block ends: moving lines on a terminal, elsewhere a log."""
    stop = threading.Event()
    thread = threading.Thread(target=_show, args=(directory, jobs, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _show(directory: Path, jobs: int, stop: threading.Event) -> None:
    start, told, lines = time.monotonic(), 0, []
    bar = tqdm(
        total=jobs, unit="job", leave=False, dynamic_ncols=True, disable=not sys.stderr.isatty()
    )
    while not stop.wait(REFRESH_SECONDS):
        now = state(directory)
        ended = len(now.done) + len(now.failed)
        counts = f"{len(now.running)} running, {jobs - sum(map(len, now))} waiting, {len(now.failed)} failed"
        if not bar.disable:
            bar.n = ended
            bar.set_description_str(counts)
            while len(lines) < min(len(now.running), MOST_SHOWN):
                lines.append(tqdm(bar_format="{desc}", leave=False, dynamic_ncols=True))
            for line, run in zip_longest(lines, now.running[: len(lines)]):
                line.set_description_str(progress(run) if run else "")
        elif ended > told:
            told = ended
            print(
                tqdm.format_meter(ended, jobs, time.monotonic() - start, unit="job", prefix=counts),
                file=sys.stderr,
            )
            for run in now.running:
                print(f"  {progress(run)}", file=sys.stderr)
    for line in (*lines[::-1], bar):
        line.close()


def state(directory: Path) -> State:
    """Sort the jobs that have started since `multirun.yaml` was written, by the clock of the file system."""
    since, found = (directory / "multirun.yaml").stat().st_mtime, State([], [], [])
    for path in sorted(directory.iterdir()):
        if _newer(path / "error.txt", since):
            found.failed.append(path)
        elif _newer(path / ".hydra" / "config.yaml", since):
            (found.done if (path / "result.json").exists() else found.running).append(path)
    return found


def _newer(path: Path, since: float) -> bool:
    try:
        return path.stat().st_mtime >= since
    except (FileNotFoundError, NotADirectoryError):
        return False


def progress(run: Path) -> str:
    """Name a running job, its finished epochs and its latest accuracy."""
    try:
        rows = [row for row in read_metrics(run / "metrics.csv") if row.get("accuracy/train")]
    except UserError:
        rows = []
    accuracies = [row.get("accuracy/val") or row.get("accuracy/test") for row in rows]
    latest = f", accuracy {float(accuracies[-1]):.2%}" if accuracies and accuracies[-1] else ""
    when = f"after epoch {len(rows)}" if rows else "in its first epoch"
    return f"{when}{latest}: {run.name}"
