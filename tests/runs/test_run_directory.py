"""The run directory: overwrite at any moment of a crash, its lock, and who leaves what there."""

import json
import os
import shutil
from pathlib import Path

import pytest
from launch import TWO_STEPS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cnnbp.config.compose import compose
from cnnbp.runs.run_directory import RunDirectory
from cnnbp.runs.run_lock import InUse, RunLock

OLD = {"result.json": '{"accuracy": 0.5}', "checkpoints/last.ckpt": "old", ".hydra/x": "x"}


def write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


def read(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_text() for path in files}


def run_directory(path: Path, *overrides: str) -> RunDirectory:
    return RunDirectory(compose([*overrides, f"name={path.name}"], path))


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the product runs after it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, operation: str, count: int) -> None:
    """Let the process die in the place of the `count`-th rename, mkdir or removal."""
    owner = shutil if operation == "rmtree" else Path
    original, calls = getattr(owner, operation), []

    def dying(path, *args, **options):
        calls.append(path)
        if len(calls) == count:
            raise Killed
        return original(path, *args, **options)

    monkeypatch.setattr(owner, operation, dying)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("operation", ["rename", "mkdir", "rmtree"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_overwrite_survives_a_kill_at_any_of_its_steps(
    tmp_path, monkeypatch, operation, count, trained
):
    """Whole old run or whole new run, never a mixture and never nothing."""
    path, new = tmp_path / "run", {"checkpoints/last.ckpt": "new"}
    write(path, OLD)
    with monkeypatch.context() as patch:
        kill_at(patch, operation, count)
        run = run_directory(path, "overwrite=true")
        try:
            run.__enter__()
            if trained:
                write(path, new)
            run.__exit__(None, None, None)
        except Killed:
            run._lock._lock.release()  # as the operating system does
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "_refuse_another_config", lambda self: None)
        with run_directory(path):
            found = read(path)
    assert found in (OLD, new)
    if not trained:
        assert found == OLD
    assert not list(tmp_path.glob(".run.replaced*"))


def test_an_error_before_the_first_checkpoint_puts_the_replaced_run_back(tmp_path):
    path = tmp_path / "run"
    write(path, OLD)
    with pytest.raises(ArithmeticError), run_directory(path, "overwrite=true"):
        raise ArithmeticError(os.listdir(path))
    assert read(path) == OLD | {"error.txt": "ArithmeticError: []\n"}  # as a job's


def test_a_held_lock_names_its_holder_and_a_released_one_leaves_nothing(tmp_path):
    lock, other = RunLock(tmp_path / "run"), RunLock(tmp_path / "run")
    lock.acquire()
    with pytest.raises(InUse, match=f"run is in use by process {os.getpid()} on .* since 2"):
        other.acquire()
    lock.release()
    assert list(tmp_path.iterdir()) == []
    other.acquire()
    other.release()


def test_a_lock_file_that_is_removed_between_opening_and_locking_holds_nobody(
    tmp_path, monkeypatch
):
    """Else a third process would make a new file and lock that one, beside the second."""
    fcntl = pytest.importorskip("fcntl")
    flock, path, removed = fcntl.flock, tmp_path / ".run.lock", []

    def late(descriptor, operation):
        if not removed:
            removed.append(path.unlink())
        flock(descriptor, operation)

    lock, third = RunLock(tmp_path / "run"), RunLock(tmp_path / "run")
    monkeypatch.setattr(fcntl, "flock", late)
    lock.acquire()
    assert removed
    with pytest.raises(InUse):
        third.acquire()


def test_a_fast_dev_run_leaves_no_result(train, tmp_path, capfd):
    train(*TWO_STEPS, "debug=fast_dev_run", "name=run")
    assert not Path("outputs/run/result.json").exists()
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("overwrite", ["false", "true"])
def test_a_job_may_change_its_folder(train, tmp_path, capfd, overwrite):
    train(*TWO_STEPS, "name=run")
    capfd.readouterr()
    train(*TWO_STEPS, "name=run", "hydra.job.chdir=true", f"overwrite={overwrite}")
    out = capfd.readouterr().out
    last = out.splitlines()[-1]
    if overwrite == "true":
        assert last.endswith("everything of this run is in outputs/run")
    else:
        assert last.startswith("outputs/run is finished: test accuracy ")
    assert json.loads(Path("outputs/run/result.json").read_text())["steps"] == 2
    assert Path.cwd() == tmp_path


def test_a_run_directory_as_checkpoint_takes_its_newest(train):
    train(*TWO_STEPS, "name=a")
    train(*TWO_STEPS, "name=b=c,d", "trainer.max_epochs=2", "ckpt_path=outputs/a")
    assert json.loads(Path("outputs/b=c,d/result.json").read_text())["steps"] == 4
    train(*TWO_STEPS, "name=e", "trainer.max_epochs=3", "ckpt_path=outputs/b=c,d")
    assert json.loads(Path("outputs/e/result.json").read_text())["steps"] == 6


def test_what_was_drawn_before_a_kill_without_a_save_is_dropped(train, tmp_path):
    train(*TWO_STEPS, "name=run")
    run = tmp_path / "outputs/run"
    shutil.rmtree(run / "checkpoints")
    (run / "result.json").unlink()
    train(*TWO_STEPS, "name=run")
    board = EventAccumulator(str(run), {"tensors": 0}).Reload()
    assert len(board.Tensors("custom_scalars__config__")) == 1
    assert [event.step for event in board.Scalars("loss/train")] == [2]


def test_a_key_that_is_taken_away_leaves_no_directory(train):
    with pytest.raises(SystemExit, match="error: .*overwrite"):
        train(*TWO_STEPS, "name=run", "~overwrite")
    assert not Path("outputs/run").exists()
