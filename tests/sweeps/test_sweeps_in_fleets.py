"""Sweeps trained in fleets: each member a run as if it had been trained alone."""

import csv
import json
import random
import shutil
import time

import pytest
import torch
from launch import TWO_STEPS, train_in
from omegaconf import OmegaConf
from processes import differences, finish, outcome, start
from stopped_fleets import stopping

from cnnbp.sweeps.fleet_jobs import by_position, in_parts, kind

SMALL = (*TWO_STEPS, "~callbacks.dashboard", "dropout=none", "trainer.precision=32-true")
TWO_EPOCHS = (
    "average=ema",
    "augment=affine",
    "data.val_size=5000",
    "trainer.max_epochs=2",
    "seed=1,2",
    "optimizer.lr=0.001,0.003",
)
FLEET = "launcher=fleet"


def runs(directory):
    return sorted(path.parent for path in directory.glob("outputs/sweep/*/.hydra"))


def weights(run, checkpoint="last"):
    state = torch.load(run / f"checkpoints/{checkpoint}.ckpt", weights_only=True)
    return state["current_model_state"] if "current_model_state" in state else state["state_dict"]


def board(directory):
    with open(directory / "outputs/sweep/leaderboard.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The directories of one sweep by two launchers."""
    directories = []
    for launcher in ("fleet", "serial"):
        directory = tmp_path_factory.mktemp(launcher)
        train_in(directory, "-m", *SMALL, *TWO_EPOCHS, "name=sweep", f"launcher={launcher}")
        directories.append(directory)
    return directories


def test_a_member_ends_as_its_job_does_alone(both):
    fleet, serial = (runs(directory) for directory in both)
    assert [run.name for run in fleet] == [run.name for run in serial]
    assert len(fleet) == 4
    for member, alone in zip(fleet, serial, strict=True):
        for name, expected in weights(alone).items():
            difference = (weights(member)[name] - expected).abs().max()
            # a lost epoch makes 5e-4
            assert difference < 1e-4, name
        results = [json.loads((run / "result.json").read_text()) for run in (member, alone)]
        for key in ("loss", "val_loss"):
            assert results[0][key] == pytest.approx(results[1][key], rel=1e-4)
        same = ("epochs", "steps", "parameters", "seed", "precision")
        assert [results[0][key] for key in same] == [results[1][key] for key in same]


def test_a_member_leaves_the_files_of_a_run_alone(both):
    for member, alone in zip(*map(runs, both), strict=True):
        files = []
        for run in (member, alone):
            found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
            files.append({name for name in found if "tfevents" not in name})
        assert files[0] | {"train.log"} == files[1] | {"train.log"}
        assert len(list(member.glob("events*"))) == len(list(alone.glob("events*")))
        configs = []
        for run in (member, alone):
            config = OmegaConf.to_container(OmegaConf.load(run / ".hydra/config.yaml"))
            config.pop("jobs", None)
            configs.append(config)
        assert configs[0] == configs[1]
        with (member / "metrics.csv").open() as one, (alone / "metrics.csv").open() as other:
            assert one.readline() == other.readline()
        assert "validation accuracy" in (member / "train.log").read_text()


def test_the_leaderboard_is_that_of_the_serial_sweep(both):
    for member, alone in zip(*map(board, both), strict=True):
        assert member["overrides"] == alone["overrides"]
        assert float(member["val_accuracy"]) == pytest.approx(float(alone["val_accuracy"]))


def test_finished_members_are_left_out(both, capfd):
    (runs(both[0])[0] / "result.json").unlink()
    train_in(both[0], "-m", *SMALL, *TWO_EPOCHS, "name=sweep", FLEET)
    printed = capfd.readouterr().out
    assert "3 of 4 jobs are finished" in printed
    assert "jobs: 1, in fleets of 1" in printed


LONGER = (
    *(option for option in SMALL if not option.startswith("dropout")),
    "trainer.limit_train_batches=4",
    "trainer.max_epochs=2",
    "optimizer=adamw",
    "augment=affine",
    "seed=1,2,3",
    "name=sweep",
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed")
    train_in(directory, "-m", *LONGER, FLEET)
    return [weights(run) for run in runs(directory)]


@pytest.fixture
def stopped(tmp_path):
    """A fleet of three that was told to stop while its second member ran, after the fifth step."""
    with stopping(turn=5 * 3 + 2):
        train_in(tmp_path, "-m", *LONGER, FLEET)
    return tmp_path


def test_all_members_stop_after_one_step_and_continue_bit_for_bit(stopped, undisturbed):
    found = runs(stopped)
    saved = [run / "checkpoints/last.ckpt" for run in found]
    assert [torch.load(file, weights_only=True)["global_step"] for file in saved] == [6, 6, 6]
    # as if killed between two saves: the first step that is left to all is the fourth
    saved[0].unlink()
    train_in(stopped, "-m", *LONGER, FLEET)
    for run, expected in zip(found, undisturbed, strict=True):
        for name, value in weights(run).items():
            assert torch.equal(value, expected[name]), name


def test_a_member_is_continued_alone(stopped):
    train_in(stopped, "-m", *LONGER, "launcher=serial")
    for run in runs(stopped):
        assert json.loads((run / "result.json").read_text())["steps"] == 8


@pytest.mark.slow
def test_a_fleet_killed_again_and_again_ends_as_an_undisturbed_one(tmp_path):
    options = ("-m", *LONGER, FLEET, "average=ema", "data.val_size=5000")
    options += ("trainer.limit_train_batches=12", "callbacks.checkpoints.every_n_seconds=0.001")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for directory in (whole, killed):
        directory.mkdir()
    begin = time.monotonic()
    finish(whole, *options)
    seconds = time.monotonic() - begin
    chance, kills = random.Random(3), 0
    while kills < 10:
        process = start(killed, *options)
        process.join(chance.uniform(0.3, 0.9) * seconds)
        if process.exitcode is not None:
            # it has come to its end before: once more from the beginning
            assert process.exitcode == 0
            shutil.rmtree(killed / "outputs")
            continue
        process.kill()
        process.join()
        kills += 1
    finish(killed, *options)
    for run, expected in zip(runs(killed), runs(whole), strict=True):
        assert differences(outcome(run), outcome(expected)) == []


def test_a_member_that_diverges_fails_alone(tmp_path):
    with pytest.raises(SystemExit, match="1 of 2 jobs failed"):
        train_in(tmp_path, "-m", *SMALL, "optimizer.lr=1e30,0.01", "name=sweep", FLEET)
    good, bad = board(tmp_path)
    assert float(good["accuracy"]) > 0
    assert "give a lower optimizer.lr" in bad["error"]
    assert not list(tmp_path.glob("outputs/sweep/*lr=1e30*/result.json"))


def test_a_wrong_job_fails_alone_and_another_architecture_is_another_fleet(tmp_path, capfd):
    jobs = ("optimizer.lr=-1,0.01", "model.network.norm=batch,none", "name=sweep")
    with pytest.raises(SystemExit, match="2 of 4 jobs failed"):
        train_in(tmp_path, "-m", *SMALL, *jobs, FLEET)
    assert "jobs: 2, in fleets of 1, 1" in capfd.readouterr().out
    assert "optimizer.lr=-1" in board(tmp_path)[-1]["error"]


def test_what_cannot_be_mapped_runs_one_after_the_other(tmp_path, capfd):
    own = ("~model.network", "+model.network._target_=unmappable_network.Looks")
    options = [option for option in SMALL if not option.startswith("dropout")]
    train_in(tmp_path, "-m", *options, *own, "seed=1,2", "name=sweep", FLEET)
    printed = capfd.readouterr().out
    assert ".item()" in printed
    assert "jobs that run one after the other: 2" in printed
    assert len(board(tmp_path)) == 2


def config(**changes):
    base = {
        "seed": 1,
        "data": {"seed": "${seed}", "batch_size": 128},
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1},
        "dropout": {"rates": [0.1, 0, 0, 0]},
    }
    return kind(
        OmegaConf.merge(base, OmegaConf.from_dotlist([f"{k}={v}" for k, v in changes.items()]))
    )


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({"seed": 2}, True),
        ({"optimizer.lr": 0.2}, True),
        ({"dropout.rates": "[0.3,0,0,0]"}, True),
        ({"dropout.rates": "[0.3,0.1,0,0]"}, False),
        ({"data.batch_size": 64}, False),
        ({"optimizer._target_": "torch.optim.Adam"}, False),
    ],
)
def test_jobs_of_a_fleet_differ_by_numbers_alone(change, is_same):
    assert (config(**change) == config()) == is_same


def test_jobs_continue_from_a_step_that_they_have_in_common():
    saved = {0: None}, {4: "a", 8: "b"}, {8: "c", 12: "d"}, {0: None, 4: "e"}
    groups = by_position(list(zip("pqrs", saved, strict=True)))
    assert groups == [(0, ["p", "s"]), (8, ["q", "r"])]


def test_fleets_are_as_few_and_as_equal_as_can_be():
    assert [len(part) for part in in_parts("abcdefg", 3)] == [2, 2, 3]
    assert [len(part) for part in in_parts("abc", 5)] == [3]
