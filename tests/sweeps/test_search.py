"""Searches that are really run, on trials of a few steps."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch import TWO_STEPS
from paths import ROOT
from stopped_fleets import stopping
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

optuna = pytest.importorskip("optuna")

from cnnbp.training.callbacks.progress_bar import Progress  # noqa: E402

SMALL = (*TWO_STEPS, "search.space={data.batch_size: null}", "~callbacks.dashboard")
LONGER = (*SMALL, "trainer.max_epochs=3", "trainer.limit_train_batches=3")


def study(name="study"):
    return optuna.load_study(study_name=name, storage=f"sqlite:///outputs/{name}/study.db")


def result(trial, name="study"):
    return json.loads(Path(f"outputs/{name}/trial-{trial:04}/result.json").read_text())


def test_a_study_reaches_its_total_and_no_more(cnnbp, capsys):
    for total in (2, 2, 3):
        cnnbp("search", *SMALL, "name=study", f"search.n_trials={total}")
        assert [trial.state.name for trial in study().trials] == ["COMPLETE"] * total
    out = capsys.readouterr().out
    best = study().best_trial
    assert [result(number)["val_accuracy"] for number in range(3)] == [
        trial.value for trial in study().trials
    ]
    for key, value in best.params.items():
        assert f"{key}={value}" in out.rpartition("the best: python train.py ")[2].splitlines()[0]
    assert all(
        (Path("outputs/study") / f"{name}.png").exists()
        for name in ("history", "parallel_coordinates")
    )


def test_a_study_and_a_run_do_not_share_a_directory(train, cnnbp):
    cnnbp("search", *SMALL, "name=study", "search.n_trials=1")
    with pytest.raises(
        SystemExit, match="outputs/study is the directory of a study; give another name="
    ):
        train("trainer=smoke", "name=study")
    train("trainer=smoke", "name=run")
    with pytest.raises(
        SystemExit, match="outputs/run is the directory of a single run; give another name="
    ):
        cnnbp("search", *SMALL, "name=run", "search.n_trials=1")
    assert not Path("outputs/run/study.db").exists()


def test_the_test_set_is_never_looked_at(cnnbp, capsys):
    cnnbp("search", *SMALL, "name=study", "search.n_trials=1")
    assert not {"accuracy", "loss"} & result(0).keys()
    board = EventAccumulator("outputs/study/trial-0000")
    board.Reload()
    assert not [tag for tag in board.Tags()["scalars"] if "test" in tag]
    assert "hp/val_accuracy" in board.Tags()["scalars"]
    assert "_hparams_/session_start_info" in board.summary_metadata
    assert "Test set" not in capsys.readouterr().out


def test_a_hopeless_trial_is_pruned_and_listed_apart(cnnbp, capsys):
    pruner = ("search.pruner._target_=optuna.pruners.ThresholdPruner", "+search.pruner.lower=0.99")
    cnnbp("search", *LONGER, "name=study", "search.n_trials=2", *pruner)
    assert [trial.state.name for trial in study().trials] == ["PRUNED", "PRUNED"]
    assert [list(trial.intermediate_values) for trial in study().trials] == [[1], [1]]
    assert "0 trials complete, 2 pruned" in capsys.readouterr().out
    cnnbp("leaderboard", "outputs/study")
    assert capsys.readouterr().out.count("pruned after epoch 1 of 3") == 2


def test_a_diverged_trial_is_shown_beside_the_others(cnnbp):
    cnnbp(
        "search",
        *SMALL,
        "name=study",
        "search.n_trials=1",
        "+search.space={optimizer: [sgd], optimizer.lr: {low: 1e20, high: 1e30}}",
    )
    assert [trial.state.name for trial in study().trials] == ["FAIL"]
    assert "Diverged" in Path("outputs/study/trial-0000/error.txt").read_text()
    board = EventAccumulator("outputs/study/trial-0000")
    board.Reload()
    assert "_hparams_/session_start_info" in board.summary_metadata
    assert board.Scalars("hp/val_accuracy")


def test_a_stopped_trial_goes_on_from_its_checkpoint_and_ends_alike(cnnbp, monkeypatch, capsys):
    cnnbp("search", *LONGER, "name=whole", "search.n_trials=2")

    def stop(self, trainer, *_):
        if trainer.current_epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_train_batch_start", stop, raising=False)
        with pytest.raises(SystemExit) as exit:
            cnnbp("search", *LONGER, "name=study", "search.n_trials=2")
    assert exit.value.code == 130
    assert [trial.state.name for trial in study().trials] == ["FAIL", "WAITING"]
    assert "the same command with name=study continues" in capsys.readouterr().out
    begun, start = [], Progress.on_train_start

    def record(self, trainer, module):
        begun.append(trainer.current_epoch)
        start(self, trainer, module)

    monkeypatch.setattr(Progress, "on_train_start", record)
    cnnbp("search", *LONGER, "name=study", "search.n_trials=2")
    assert begun == [2, 0]
    failed, retried, _ = study().trials
    whole = study("whole").trials[0]
    assert failed.params == retried.params == whole.params
    assert retried.intermediate_values == whole.intermediate_values
    assert result(0) | {"train_seconds": 0, "samples_per_second": 0} == result(0, "whole") | {
        "train_seconds": 0,
        "samples_per_second": 0,
    }


def test_another_space_under_the_same_name_is_refused(cnnbp):
    cnnbp("search", *SMALL, "name=study", "search.n_trials=1")
    with pytest.raises(
        SystemExit, match="study was made with another search .*; give another name="
    ):
        cnnbp("search", *SMALL, "name=study", "search.n_trials=2", "search.space.dropout=[none]")
    assert len(study().trials) == 1


MISTAKES = {
    "+search.space.foo=[1,2]": "error: foo=1: no such key; choose data, ",
    "search.space.optimizer=[sgd,foo]": (
        "error: optimizer=foo: no such choice; choose adam, adamw, muon, rmsprop, sgd"
    ),
    "search.space.dropout=[]": (
        "error: search.space.dropout: must be a list of choices, or {low, high}"
    ),
    "+search.space.seed={low: 3, high: 3}": (
        "error: search.space.seed: low=3 must be less than high=3"
    ),
    "+search.space.seed={low: 3, up: 3}": (
        "error: search.space.seed: must be a list of choices, or {low, high}"
    ),
    "+search.space.seed={low: 0, high: 3, log: true}": (
        "error: search.space.seed: `low >= 1` must hold for `log=True`"
    ),
    "+search.space.seed={low: -3, high: 3}": "error: seed=-3: must be greater than or equal to 0",
    "search=foo": "error: search=foo: no such choice; choose default, hyperband",
    "+search.space={optimizer.lr: [0.1]}": (
        "error: search.space: does not fit what is there, a list or a group"
    ),
    "search.parallel=0": "error: search.parallel=0: must be greater than or equal to 1",
    "search.n_trials=0": "error: search.n_trials=0: must be greater than or equal to 1",
    "data.val_size=0": (
        "error: data.val_size=0: a search compares on validation images; give data.val_size=5000"
    ),
    "trainer.devices=2": "error: trainer.devices: several processes run alone",
    "search.storage=sqlite:////nowhere/study.db": (
        "error: sqlite:////nowhere/study.db: .*unable to open database file"
    ),
    "search.storage=foo": "error: foo: Could not parse SQLAlchemy URL",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line(cnnbp, capfd, mistake):
    with pytest.raises(SystemExit) as exit:
        cnnbp("search", *SMALL, "name=study", mistake)
    assert re.match(MISTAKES[mistake].replace("{", r"\{"), exit.value.code), exit.value.code
    assert "\n" not in exit.value.code
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("mark", "@=,#(%/")
def test_a_password_with_any_mark_is_never_told(cnnbp, capfd, mark):
    url = f"nothing://user:left{mark}right@host/name"
    with pytest.raises(SystemExit, match=r"nothing://user:\*\*\*@host/name") as exit:
        cnnbp("search", *SMALL, "name=study", f"search.storage={url}")
    told = "".join([exit.value.code, *capfd.readouterr()])
    assert "left" not in told
    assert "right" not in told


def test_a_locked_storage_is_told_and_keeps_what_it_has(cnnbp):
    cnnbp("search", *SMALL, "name=study", "search.n_trials=1")
    with sqlite3.connect("outputs/study/study.db") as lock:
        lock.execute("begin exclusive")
        with pytest.raises(
            SystemExit,
            match="study.db.timeout=0.1: .*database is locked; what is stored in the study",
        ):
            cnnbp(
                "search",
                *SMALL,
                "name=study",
                "search.n_trials=2",
                "search.storage='sqlite:///outputs/study/study.db?timeout=0.1'",
            )
        lock.rollback()
    assert [trial.state.name for trial in study().trials] == ["COMPLETE"]


# trials that differ by the learning rate alone
RATES = "+search.space={optimizer: null, scheduler: null, dropout: null}"
FLEET = (*LONGER, RATES, "dropout=none", "trainer.precision=32-true", "search.n_trials=3")


def test_trials_side_by_side_are_pruned_and_replaced_and_end_as_alone(cnnbp, monkeypatch):
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: trial.number == 1)
    cnnbp("search", *FLEET, "name=fleet", "search.parallel=2")
    cnnbp("search", *FLEET, "name=alone")
    first, pruned, late = study("fleet").trials
    # the third has joined the first in the middle of it
    assert late.datetime_start < first.datetime_complete < late.datetime_complete
    assert pruned.state.name == "PRUNED"
    assert list(pruned.intermediate_values) == [1]
    for number, alone in enumerate(study("alone").trials):
        assert study("fleet").trials[number].params == alone.params
        assert study("fleet").trials[number].state == alone.state
        if alone.state.name == "COMPLETE":
            losses = [result(number, name)["val_loss"] for name in ("fleet", "alone")]
            assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert not list(Path("outputs/fleet").glob("*/train.log"))


def test_trials_of_a_fleet_share_what_makes_another_network(cnnbp):
    space = "+search.space={optimizer: [sgd, adam, adamw, rmsprop], scheduler: null}"
    cnnbp("search", *SMALL, space, "name=study", "search.n_trials=6", "search.parallel=3")
    optimizers = [trial.params["optimizer"] for trial in study().trials]
    assert optimizers[:3] == [optimizers[0]] * 3
    assert optimizers[3:] == [optimizers[3]] * 3
    assert optimizers[0] != optimizers[3]
    assert len({trial.params["optimizer.lr"] for trial in study().trials}) == 6


def test_stopped_trials_of_a_fleet_go_on_together_and_end_alike(cnnbp):
    options = (*FLEET, "search.parallel=3", "search.pruner._target_=optuna.pruners.NopPruner")
    cnnbp("search", *options, "name=whole")
    with stopping(turn=5 * 3 + 2):
        cnnbp("search", *options, "name=study")
    assert [trial.state.name for trial in study().trials] == ["FAIL"] * 3 + ["WAITING"] * 3
    cnnbp("search", *options, "name=study")
    assert len(study().trials) == 6
    for trial, whole in zip(study().trials[3:], study("whole").trials, strict=True):
        assert trial.params == whole.params
        assert trial.intermediate_values == whole.intermediate_values
        number = whole.number
        assert result(number)["val_loss"] == result(number, "whole")["val_loss"]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [1, 2])
def test_the_trials_of_a_killed_worker_are_taken_over_by_another(tmp_path, monkeypatch, parallel):
    monkeypatch.chdir(tmp_path)
    options = (
        *LONGER,
        "trainer.max_epochs=20",
        "trainer.limit_train_batches=20",
        "name=study",
        "search.n_trials=2",
        "search.heartbeat=1",
        "search.pruner._target_=optuna.pruners.NopPruner",
        RATES,
        f"search.parallel={parallel}",
    )
    command = [sys.executable, "-m", "cnnbp", "search", *options]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    killed = subprocess.Popen(command)
    while not Path("outputs/study/trial-0000/checkpoints/last.ckpt").exists():
        assert killed.poll() is None
        time.sleep(0.1)
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    out, _ = other.communicate()
    assert other.returncode == 0
    assert "2 trials complete" in out
    states = [trial.state.name for trial in study().trials]
    assert states == ["FAIL"] * parallel + ["COMPLETE"] * 2
    complete = [trial.params for trial in study().trials[parallel:]]
    for trial in study().trials[:parallel]:
        assert trial.params in complete
    assert result(0)["epochs"] == 20
