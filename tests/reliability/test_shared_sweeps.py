"""One sweep in several processes: each job is trained once, and a dead process's by another."""

import os
import random
import re
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from launch import TWO_STEPS
from processes import start, wait_until

from cnnbp.runs.run_lock import RunLock
from cnnbp.sweeps import multirun
from cnnbp.sweeps.multirun import JobsOfOthers

SMALL = (*TWO_STEPS, "~callbacks.dashboard", "logger=csv", "name=sweep")
EVERY_STEP = "callbacks.checkpoints.every_n_seconds=0.001"


def job(seed):
    options = [option for option in SMALL if option != "name=sweep"]
    name = ",".join(sorted((*options, f"seed={seed}")))
    return Path("outputs/sweep") / name.replace("dashboard", "dashboard=null")


def in_a_thread(function, after):
    """Call a function once something is seen."""

    def wait():
        wait_until(after)
        function()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.fixture
def others(tmp_path, monkeypatch):
    """A job that another process holds."""
    monkeypatch.setattr(multirun, "WAIT_SECONDS", 0.01)
    lock = RunLock(tmp_path / "job")
    lock.acquire()
    lock.directory.mkdir()
    others = JobsOfOthers(since=time.time() - 10)
    others.jobs[lock.directory] = ["seed=1"]
    return others, lock


@pytest.mark.parametrize(
    ("left", "abandoned", "failures"),
    [
        ({"result.json": "{}"}, [], []),
        ({"error.txt": "UserError: why\n"}, [], ["UserError: why"]),
        ({}, [["seed=1"]], []),
    ],
)
def test_a_job_of_another_process_is_waited_for(others, left, abandoned, failures):
    others, lock = others

    def end():
        for name, text in left.items():
            (lock.directory / name).write_text(text)
        lock.release()

    start = time.monotonic()
    thread = in_a_thread(end, lambda: time.monotonic() > start + 0.2)
    assert others.wait() == abandoned
    thread.join()
    assert time.monotonic() > start + 0.2
    assert list(others.failures.values()) == failures
    assert others.jobs == {}


def test_what_was_there_before_the_sweep_is_no_end_of_a_job(others):
    others, lock = others
    for name in ("result.json", "error.txt"):
        (lock.directory / name).touch()
        os.utime(lock.directory / name, (0, 0))
    lock.release()
    assert others.wait() == [["seed=1"]]


def test_a_job_that_another_process_holds_comes_last_and_is_taken_over(train, capfd):
    """The other process dies, or is stopped, when this one has trained all other jobs."""
    held = RunLock(job(1))
    held.acquire()
    thread = in_a_thread(held.release, (job(2) / "result.json").exists)
    train("-m", *SMALL, "seed=1,2")
    thread.join()
    out = capfd.readouterr().out
    assert re.search(r"seed=2\S+\n(?s:.*)seed=1(?s:.*)\nrank ", out)
    assert (job(1) / "result.json").exists()


def test_what_fails_in_another_process_is_not_tried_again(train, capfd):
    error = job(1) / "error.txt"
    error.parent.mkdir(parents=True)

    def fail():
        error.write_text("UserError: in the other process\n")

    # the sweep writes this file when it starts
    thread = in_a_thread(fail, Path("outputs/sweep/multirun.yaml").exists)
    with pytest.raises(SystemExit, match="1 of 2 jobs failed"):
        train("-m", *SMALL, "seed=2,1")
    thread.join()
    out = capfd.readouterr().out
    assert re.search(r"seed=1\S* .*UserError: in the other process", out)
    assert not (job(1) / ".hydra").exists()


def log_to(name):
    """What a process prints goes into a file of its own."""
    with open(name, "ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def worker(directory, name, *overrides):
    prepare = partial(log_to, directory / f"{name}.log")
    return start(directory, "-m", *SMALL, *overrides, prepare=prepare)


def table_of(log):
    return re.findall(r"^\d+ +.*seed=.*", log, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_three_processes_share_a_sweep_and_two_are_killed(tmp_path, seed):
    """At any moment at which they hold a job; the third ends it, and trains the rest."""
    chance = random.Random(seed)
    grid = ("seed=range(1,13)", "trainer.limit_train_batches=6", EVERY_STEP)
    sweep = tmp_path / "outputs/sweep"
    workers = {name: worker(tmp_path, name, *grid) for name in "abc"}

    def holds_a_job(process):
        for path in sweep.glob(".*.holder"):
            if path.exists() and path.read_text().startswith(f"process {process.pid} "):
                return True
        return False

    for name in "bc":
        wait_until(partial(holds_a_job, workers[name]))
        time.sleep(chance.uniform(0, 0.5))
        workers[name].kill()
    late = worker(tmp_path, "late", *grid)
    for process in (workers["a"], late):
        process.join()
    logs = {name: (tmp_path / f"{name}.log").read_text() for name in ("a", "b", "c", "late")}
    assert (workers["a"].exitcode, late.exitcode) == (0, 0), logs
    assert len(table_of(logs["a"])) == 12
    assert table_of(logs["late"]) == table_of(logs["a"])
    trained = re.findall(r"everything of this run is in \S+seed=(\d+)", "".join(logs.values()))
    assert len(trained) == len(set(trained))
    assert len(list(sweep.glob("*/result.json"))) == 12
    assert not list(sweep.glob(".*"))
