"""Whole runs, as a user starts them."""

import csv
import json
import logging
import re
import subprocess
from pathlib import Path

import pytest
import torch
from launch import TRAIN, TWO_STEPS
from paths import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SMOKE = (*TWO_STEPS, "name=run")

# how the published pipeline reads its log
PUBLISHED_LINE = re.compile(
    r"Test set: Average loss: \d+\.\d{4}, Accuracy: \d+/\d+ \((\d+\.\d+)%\)"
)


def choices():
    for group in ("augment", "average", "dropout", "optimizer", "scheduler"):
        for file in sorted((ROOT / "conf" / group).glob("*.yaml")):
            yield f"{group}={file.stem}"
    yield from ("logger=csv", "logger=none", "logger=tensorboard", "trainer.accelerator=auto")
    yield from ("experiment=baseline", "experiment=best", "experiment=fast")


def result(name="run"):
    return json.loads(Path(f"outputs/{name}/result.json").read_text())


def events(name="run"):
    accumulator = EventAccumulator(f"outputs/{name}")
    accumulator.Reload()
    return accumulator


@pytest.mark.parametrize("choice", list(choices()))
def test_every_choice_trains_two_steps(train, choice):
    train(*SMOKE, "trainer.max_epochs=1", choice)
    assert result()["steps"] == 2


@pytest.fixture
def run(train, capfd):
    """Two short epochs with a validation split; what was printed."""
    train(*SMOKE, "trainer.max_epochs=2", "data.val_size=5000", "trainer.limit_train_batches=3")
    return capfd.readouterr().out


def test_the_result_holds_what_it_promises(run):
    stored = result()
    assert stored.keys() >= {
        "accuracy",
        "loss",
        "val_accuracy",
        "val_loss",
        "epochs",
        "steps",
        "train_seconds",
        "samples_per_second",
        "parameters",
        "seed",
        "versions",
    }
    assert (stored["epochs"], stored["steps"], stored["parameters"], stored["seed"]) == (
        2,
        6,
        19_866,
        1,
    )
    assert stored["samples_per_second"] == pytest.approx(6 * 16 / stored["train_seconds"])


def test_the_log_with_a_validation_split(run):
    lines = run.splitlines()
    assert lines[0] == "outputs/run"
    assert re.fullmatch(r"loss=\d\.\d{4} batch_id=2: 100%\|█+\| 3/3 \[.*(it/s|s/it)\]", lines[1])
    assert lines[2].startswith("Validation set: Average loss: ")
    assert sum(line.startswith("Validation set:") for line in lines) == 2
    assert sum(line.startswith("Test set:") for line in lines) == 1


def test_the_log_without_one_reads_like_the_published(train, capfd):
    train(*SMOKE, "trainer.max_epochs=2")
    found = PUBLISHED_LINE.findall(capfd.readouterr().out)
    assert len(found) == 2
    assert float(found[-1]) == pytest.approx(100 * result()["accuracy"], abs=0.005)


def test_tensorboard_has_every_curve_at_the_optimizer_steps(run):
    board = events()
    tags = board.Tags()
    curves = {f"{name}/{stage}" for name in ("loss", "accuracy") for stage in ("train", "val")}
    for tag in curves | {"learning_rate", "speed/epoch_seconds", "speed/samples_per_second"}:
        assert [event.step for event in board.Scalars(tag)] == [3, 6], tag
    assert [event.step for event in board.Scalars("loss/test")] == [6]
    assert {"hp/accuracy", "hp/loss"} <= set(tags["scalars"])
    assert tags["graph"]
    text = board.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "lr: 0.01" in text
    assert "_hparams_/session_start_info" in board.summary_metadata


def test_the_csv_file_holds_the_same_curves(run):
    with open("outputs/run/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [3, 6]
    losses = [event.value for event in events().Scalars("loss/train")]
    assert [float(row["loss/train"]) for row in rows] == pytest.approx(losses)


def test_checkpoints_load_as_plain_data(run):
    for name in ("last", "best"):
        checkpoint = torch.load(f"outputs/run/checkpoints/{name}.ckpt", weights_only=True)
        assert checkpoint["state_dict"]["network.conv5.weight"].shape == (10, 16, 3, 3)


def test_a_finished_run_is_returned_not_repeated(run, train):
    before = Path("outputs/run/result.json").stat().st_mtime_ns
    train(*SMOKE, "trainer.max_epochs=2", "data.val_size=5000", "trainer.limit_train_batches=3")
    assert Path("outputs/run/result.json").stat().st_mtime_ns == before


def test_another_config_under_the_same_name_is_refused(run, train):
    with pytest.raises(
        SystemExit, match=r"made with another config \(.*trainer.max_epochs: 2 -> 3"
    ):
        train(*SMOKE, "trainer.max_epochs=3", "data.val_size=5000", "trainer.limit_train_batches=3")
    assert result()["epochs"] == 2


@pytest.mark.parametrize(
    "recipe",
    [
        ("optimizer=adamw", "scheduler=one_cycle", "augment=affine"),
        ("optimizer=muon", "scheduler=linear", "augment=all", "average=ema"),
    ],
)
def test_an_interrupted_run_continues_to_the_same_weights(train, monkeypatch, recipe):
    options = (*TWO_STEPS, "trainer.max_epochs=3", *recipe)
    train(*options, "name=whole")

    from cnnbp.training.callbacks.progress_bar import Progress

    def stop(self, trainer, module):
        if trainer.current_epoch == 1:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_validation_end", stop)
        with pytest.raises(RuntimeError, match="power cut"):
            train(*options, "name=cut")
    train(*options, "name=cut")
    whole, cut = (
        torch.load(f"outputs/{name}/checkpoints/last.ckpt", weights_only=True)
        for name in ("whole", "cut")
    )
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, cut["state_dict"][name]), name


def test_training_by_hand_ends_near_autograd(train):
    """In float32, after three steps: exactness is shown in float64 in test_backprop.py."""
    options = (
        *TWO_STEPS,
        "trainer.limit_train_batches=3",
        "model.channels_last=false",
        "trainer.precision=32-true",
    )
    for way in ("autograd", "by_hand"):
        train(*options, f"name={way}", f"model.backprop={way}")
    a, b = (
        torch.load(f"outputs/{way}/checkpoints/last.ckpt", weights_only=True)
        for way in ("autograd", "by_hand")
    )
    for name, value in a["state_dict"].items():
        torch.testing.assert_close(b["state_dict"][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_two_processes_share_a_run(tmp_path):
    command = [
        *TRAIN,
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "name=run",
        *TWO_STEPS[1:],
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=2",
        "trainer.limit_val_batches=1",
        "~logger.csv",
        "trainer.limit_test_batches=1",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "outputs/run/result.json").read_text())["steps"] == 2
    assert done.stdout.count("Test set:") == 1


def test_two_processes_in_a_multirun_are_refused(train):
    with pytest.raises(SystemExit, match="trainer.devices: several processes run alone"):
        train("-m", "trainer=ddp", "name=sweep", "seed=1,2")


def test_ckpt_path_continues_in_a_new_directory(run, train):
    train(
        *TWO_STEPS,
        "name=more",
        "trainer.max_epochs=3",
        "data.val_size=5000",
        "trainer.limit_train_batches=3",
        "ckpt_path=outputs/run/checkpoints/last.ckpt",
    )
    assert result("more")["steps"] == 9


def test_the_same_seed_gives_the_same_weights_and_another_does_not(train):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(*TWO_STEPS, f"name={name}", f"seed={seed}")
    a, b, c = (
        torch.load(f"outputs/{name}/checkpoints/last.ckpt", weights_only=True)["state_dict"][
            "network.conv5.weight"
        ]
        for name in "abc"
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_sweep_ends_with_a_leaderboard(train, capfd):
    train("-m", *TWO_STEPS, "name=sweep", "dropout=none,baseline", "optimizer=sgd,adamw")
    out = capfd.readouterr().out
    with open("outputs/sweep/leaderboard.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert {row["overrides"] for row in rows} == {
        f"data.batch_size=16,data.eval_batch_size=100,dropout={dropout},optimizer={optimizer},trainer=smoke"
        for dropout in ("none", "baseline")
        for optimizer in ("sgd", "adamw")
    }
    accuracies = [float(row["accuracy"]) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert rows[0]["overrides"] in out
    assert Path("outputs/sweep/leaderboard.png").read_bytes().startswith(b"\x89PNG")


def test_a_failing_job_is_reported_and_stops_no_other(train, capfd):
    with pytest.raises(SystemExit, match="1 of 2 jobs failed"):
        train("-m", *TWO_STEPS, "name=sweep", "optimizer.lr=-1,0.1")
    assert "optimizer.lr=-1: must be greater than 0" in capfd.readouterr().out
    assert (
        result("sweep/data.batch_size=16,data.eval_batch_size=100,optimizer.lr=0.1,trainer=smoke")[
            "steps"
        ]
        == 2
    )


@pytest.fixture(autouse=True)
def _logging_is_put_back():
    """Hydra configures logging for a whole process; here many runs share one."""
    handlers = logging.root.handlers[:]
    yield
    logging.root.handlers[:] = handlers
