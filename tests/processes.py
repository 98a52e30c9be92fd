"""Runs in processes that can be killed, forked from one that has imported everything."""

import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from launch import train_in
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cnnbp.signals import exit_at_once, on_stop

MODULES = [
    "cnnbp.data.datamodule",
    "cnnbp.runs.metrics_csv",
    "cnnbp.runs.run_directory",
    "cnnbp.training.build",
    "cnnbp.training.callbacks.checkpoints",
    "cnnbp.training.callbacks.component_dashboard",
    "cnnbp.training.callbacks.progress_bar",
    "cnnbp.training.callbacks.tensorboard_header",
]

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(MODULES)


def start(
    directory: Path,
    *overrides: str,
    prepare: Callable[[], None] | None = None,
    begun: Any = None,
) -> multiprocessing.Process:
    """Start `train.py` with overrides in a directory; what it prints is added to `log` there.

    Args:
        prepare: called in the process before.
        begun: an event that is set once a signal to stop ends the process without a traceback.
    """
    process = context.Process(target=_train, args=(directory, overrides, prepare, begun))
    process.start()
    return process


def _train(
    directory: Path, overrides: tuple[str, ...], prepare: Callable[[], None] | None, begun: Any
) -> None:
    on_stop(exit_at_once)
    if begun:
        begun.set()
    os.chdir(directory)
    with open("log", "ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if prepare:
        prepare()
    train_in(Path.cwd(), *overrides)


def finish(directory: Path, *overrides: str, **options) -> None:
    """Run to the end."""
    process = start(directory, *overrides, **options)
    process.join()
    assert process.exitcode == 0, (directory / "log").read_text()


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what another process does; fail where it takes longer."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def outcome(run: Path) -> dict:
    """Everything that two equal runs have in common, and that is not a time."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["callbacks"].pop("Speed")
    # Lightning counts its own steps of a plateau schedule, which are not those that are taken
    checkpoint["loops"]["fit_loop"].pop("epoch_loop.scheduler_progress")
    result = json.loads((run / "result.json").read_text())
    board = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    curves = {
        tag: [(event.step, event.value) for event in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
    }
    header, *_ = lines = [
        line.split(",") for line in (run / "metrics.csv").read_text().splitlines()
    ]
    return {
        "checkpoint": checkpoint,
        "result": {
            key: value
            for key, value in result.items()
            if key not in ("train_seconds", "samples_per_second")
        },
        "curves": {tag: points for tag, points in curves.items() if not tag.startswith("speed/")},
        "speed": sorted(
            (tag, len(points)) for tag, points in curves.items() if tag.startswith("speed/")
        ),
        "csv": [
            [cell for name, cell in zip(header, row, strict=True) if "speed/" not in name]
            for row in lines
        ],
    }


def differences(a, b, where: str = "") -> list[str]:
    """Where two nested values differ, bit for bit."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [line for key in a for line in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [
            line
            for i, (x, y) in enumerate(zip(a, b, strict=True))
            for line in differences(x, y, f"{where}/{i}")
        ]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [where]
    return (
        [] if type(a) is type(b) and (a == b or (a != a and b != b)) else [f"{where}: {a} and {b}"]
    )
