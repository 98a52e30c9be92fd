"""Processes that take turns: each holds one variant, and only one computes at a time."""

import json
import os
import pty
import struct
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

from tqdm import tqdm

from benchmarks import VARIANTS
from cnnbp.errors import UserError

ROOT = Path(__file__).parents[1]


class Worker:
    """The process of one variant."""

    def __init__(self, name: str, process: subprocess.Popen):
        self.name, self.process = name, process

    def answer(self) -> dict:
        """Wait for its next answer.

        Raises:
            UserError: it has ended instead.
        """
        line = self.process.stdout.readline()
        if not line:
            raise UserError(
                f"variant {self.name} ended with status {self.process.wait()}; "
                "its last words are above"
            )
        return json.loads(line)

    def run(self, steps: int) -> dict:
        """Let it take some steps and wait for the answer."""
        with suppress(BrokenPipeError):  # then there is no answer either
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
        return self.answer()


@contextmanager
def workers(names: list[str], accelerator: str, threads: int | None) -> Iterator[dict[str, Worker]]:
    """Start a worker for each name, yield them before their first step, and end them."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        screen = stack.enter_context(_screen())
        started = {}
        for name in names:
            command = [
                sys.executable,
                "-m",
                "benchmarks.worker",
                name,
                f"{directory}/{name}",
                accelerator,
            ]
            own = environment | dict(VARIANTS[name].environment)
            streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": screen}
            process = stack.enter_context(subprocess.Popen(command, **streams, text=True, env=own))
            stack.callback(process.kill)  # nothing that it has is kept
            started[name] = Worker(name, process)
        for worker in started.values():
            worker.answer()
        yield started


def measure(started: dict[str, Worker], steps: int, rounds: int) -> dict[str, list[dict]]:
    """Let each worker take some steps in turn, in a rotating order; the first round warms up."""
    names, answers = list(started), {name: [] for name in started}
    with tqdm(total=(rounds + 1) * len(names), unit="turn") as bar:
        for number in range(rounds + 1):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                bar.set_description(name)
                answers[name].append(started[name].run(steps))
                bar.update()
    return {name: given[1:] for name, given in answers.items()}


@contextmanager
def _screen() -> Iterator[int]:
    """Yield a terminal for the workers' progress bars; nobody sees it unless a worker fails."""
    reader, writer = pty.openpty()
    ioctl(writer, TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
    shown = deque(maxlen=60)

    def read():
        with suppress(OSError):  # the last writer is gone
            while True:
                shown.append(os.read(reader, 4096))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield writer
    except UserError:
        os.close(writer)
        thread.join(timeout=5)
        sys.stderr.write(b"".join(shown).decode(errors="replace"))
        raise
