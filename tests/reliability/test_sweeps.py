"""Sweeps that fail in part, are killed, overwritten or run twice."""

import csv
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from launch import TRAIN, TWO_STEPS
from paths import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SMALL = (*TWO_STEPS, "~callbacks.dashboard", "logger=csv")


def job(*overrides):
    return Path("outputs/sweep") / ",".join(sorted((*SMALL, *overrides))).replace(
        "~callbacks.dashboard", "~callbacks.dashboard=null"
    )


def results():
    return {
        path.parent.name: path.stat().st_mtime_ns
        for path in Path("outputs/sweep").glob("*/result.json")
    }


def board():
    with open("outputs/sweep/leaderboard.csv", newline="") as file:
        return [
            {key: value for key, value in row.items() if key != "seconds"}
            for row in csv.DictReader(file)
        ]


def test_failures_of_earlier_calls_do_not_count(train, capfd):
    with pytest.raises(SystemExit, match="1 of 2 jobs failed"):
        train("-m", *SMALL, "name=sweep", "optimizer.lr=-1,0.1")
    capfd.readouterr()
    train("-m", *SMALL, "name=sweep", "optimizer.lr=0.2,0.1")
    assert "1 of 2 jobs are finished" in capfd.readouterr().out
    assert {row["overrides"] for row in board()} == {
        job(f"optimizer.lr={rate}").name for rate in (0.1, 0.2)
    }


def test_a_finished_job_is_not_trained_again_and_a_missing_one_is(train):
    train("-m", *SMALL, "name=sweep", "seed=1,2,3")
    before, table = results(), board()
    (job("seed=2") / "result.json").unlink()
    train("-m", *SMALL, "name=sweep", "seed=1,2,3")
    after = results()
    assert [name for name in before if after[name] != before[name]] == [job("seed=2").name]
    assert board() == table


def test_a_part_that_cannot_be_built_is_told_in_one_line(train, capfd):
    with pytest.raises(SystemExit, match="1 of 1 jobs failed"):
        train("-m", *SMALL, "name=sweep", "callbacks.progress._target_=no.such.Part")
    out = "".join(capfd.readouterr())
    assert "callbacks.progress: Error loading 'no.such.Part'" in out
    assert "Traceback" not in out
    assert "HYDRA_FULL_ERROR" not in out


def test_a_changed_config_is_refused_job_by_job_unless_overwritten(train):
    train("-m", *SMALL, "name=sweep", "seed=1,2")
    record = job("seed=1") / ".hydra" / "config.yaml"
    record.write_text(record.read_text().replace("lr: 0.01", "lr: 0.05"))
    os.utime(
        job("seed=1") / ".hydra" / "overrides.yaml", (0, 0)
    )  # older than the config files: composed anew
    before = results()
    with pytest.raises(SystemExit, match="1 of 2 jobs failed"):
        train("-m", *SMALL, "name=sweep", "seed=1,2")
    assert "optimizer.lr: 0.05 -> 0.01" in board()[1]["error"]
    assert results() == before
    train("-m", *SMALL, "name=sweep", "seed=1,2", "overwrite=true")
    assert all(results()[name] > before[name] for name in before)


def test_overwriting_trains_anew_and_a_mistake_overwrites_nothing(train):
    train(*SMALL, "name=run")
    kept = Path("outputs/run/result.json").read_text()
    with pytest.raises(SystemExit, match="give another name=, or overwrite=true to train anew"):
        train(*SMALL, "name=run", "seed=2")
    with pytest.raises(SystemExit, match="optimizer.foo: no such key"):
        train(*SMALL, "name=run", "seed=2", "overwrite=true", "+optimizer.foo=1")
    assert Path("outputs/run/result.json").read_text() == kept
    train(*SMALL, "name=run", "seed=2", "overwrite=true")
    assert json.loads(Path("outputs/run/result.json").read_text())["seed"] == 2
    train(*SMALL, "name=run", "seed=2")


@pytest.mark.parametrize("new", ["nothing", "a directory", "a config"])
def test_a_kill_while_a_run_is_overwritten_loses_nothing(train, new):
    train(*SMALL, "name=run")
    run = Path("outputs/run")
    kept = {path.relative_to(run) for path in run.rglob("*")}
    weights = (run / "checkpoints/last.ckpt").read_bytes()
    run.rename("outputs/.run.replaced")
    if new != "nothing":
        run.mkdir()
    if new == "a config":
        (run / ".hydra").mkdir()
        (run / ".hydra" / "config.yaml").write_text("seed: 2\n")
    with pytest.raises(SystemExit, match="was made with another config"):
        train(*SMALL, "name=run", "seed=2")
    assert {path.relative_to(run) for path in run.rglob("*")} == kept
    assert (run / "checkpoints/last.ckpt").read_bytes() == weights


def test_a_kill_after_the_first_new_checkpoint_keeps_the_new_run(train):
    train(*SMALL, "name=run", "seed=2")
    train(*SMALL, "name=old")
    Path("outputs/old").rename("outputs/.run.replaced")
    train(*SMALL, "name=run", "seed=2")
    assert json.loads(Path("outputs/run/result.json").read_text())["seed"] == 2
    assert not Path("outputs/.run.replaced").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("optimizer=sgd,foo",), "optimizer=foo: no such choice; choose adam, adamw"),
        (("optimizer.lrr=1,2",), "optimizer.lrr=1: no such key; choose lr"),
        (("name=a,b",), "name: takes one value"),
        (("launcher=joblib", "jobs=0"), "jobs=0: must be greater than or equal to 1"),
        (("trainer=cpu,ddp",), "trainer.devices: several processes run alone"),
    ],
)
def test_what_no_job_can_run_with_leaves_nothing_behind(train, overrides, message):
    with pytest.raises(SystemExit, match=f"error: {message}"):
        train("-m", *overrides)
    assert not Path("outputs").exists()


def test_each_job_shows_the_graph_of_its_own_network(train):
    train("-m", *SMALL[:-1], "name=sweep", "seed=1,2", "model.network.activation=relu,tanh")
    ops = []
    for path in sorted(Path("outputs/sweep").glob("data*activation=*")):
        events = EventAccumulator(str(path))
        events.Reload()
        ops.append({node.op for node in events.Graph().node})
    relu, tanh = ops[0], ops[2]
    assert ops == [relu, relu, tanh, tanh]
    assert ("aten::relu" in relu, "aten::tanh" in tanh, "aten::tanh" in relu) == (True, True, False)


def test_a_run_and_a_sweep_do_not_share_a_directory(train):
    train("-m", *SMALL, "name=sweep", "seed=1")
    with pytest.raises(SystemExit, match="is the directory of a sweep; give another name="):
        train(*SMALL, "name=sweep")
    train(*SMALL, "name=run")
    with pytest.raises(SystemExit, match="is the directory of a single run; give another name="):
        train("-m", *SMALL, "name=run", "seed=1,2")


def test_a_launcher_is_for_a_multirun(train):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs cnnbp[joblib]")
    with pytest.raises(
        SystemExit, match="launcher=joblib: runs the jobs of a multirun; give -m, or leave it out"
    ):
        train(*SMALL, "launcher=joblib", "name=run")
    assert not Path("outputs").exists()
    train(*SMALL, "~launcher", "name=run")
    assert Path("outputs/run/result.json").exists()


@pytest.mark.slow
def test_a_sweep_killed_ten_times_ends_like_an_undisturbed_one(tmp_path, monkeypatch):
    """With SIGKILL, at moments drawn at random over what comes after the start.

    About one job each time.
    """
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    grid = (
        "-m",
        *SMALL,
        "trainer.max_epochs=4",
        "trainer.limit_train_batches=10",
        "seed=1,2,3",
        "optimizer=sgd,adamw",
        "dropout=none,baseline",
        "name=sweep",
    )
    command = [*TRAIN, *grid]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    undisturbed.mkdir()
    all_jobs, none = (seconds(command, undisturbed) for _ in range(2))
    killed.mkdir()
    monkeypatch.chdir(killed)
    seen, chance = {}, random.Random(0)
    for _ in range(10):
        process = subprocess.Popen(command)
        time.sleep(none + chance.uniform(0, 1.2) * (all_jobs - none) / 12)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert seen.items() <= results().items()  # what was finished stays as it was
        seen = results()
    subprocess.run(command, check=True)
    assert seen.items() <= results().items()
    rows = board()
    monkeypatch.chdir(undisturbed)
    assert rows == board()
    assert len(rows) == 12


def seconds(command, directory):
    start = time.monotonic()
    subprocess.run(command, cwd=directory, check=True)
    return time.monotonic() - start
