"""Mistakes of the user: one line, exit status 1, no directory left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from paths import ROOT

from cnnbp.data import user_pictures
from cnnbp.data.picture_files import open_picture
from cnnbp.errors import UserError
from cnnbp.runs import checkpoint_file

MISTAKES = {
    "optimiser=adam": "error: optimiser=adam: no such key; choose data, ",
    "optimizer.lrr=1": "error: optimizer.lrr=1: no such key; choose lr, momentum, weight_decay",
    "optimizer=foo": "error: optimizer=foo: no such choice; choose adam, adamw, muon, rmsprop, sgd",
    "trainer.max_epochs=0": "error: trainer.max_epochs=0: must be greater than or equal to 1",
    "trainer.max_epochs=-3": "error: trainer.max_epochs=-3: must be greater than or equal to 1",
    "dropout.rates=[2,0,0,0]": "error: dropout.rates=[2, 0, 0, 0]: must be less than 1 at index 0",
    "dropout.rates=[1,": "error: dropout.rates=[1,: is not KEY=VALUE as Hydra reads it",
    "data.batch_size=0": "error: data.batch_size=0: must be greater than or equal to 1",
    "data.val_size=60000": "error: data.val_size=60000: must be less than the 60000 training",
    "optimizer.lr=-1": "error: optimizer.lr=-1: must be greater than 0",
    "optimizer.lr=abc": "error: optimizer.lr=abc: must be a valid number",
    "ckpt_path=nowhere.ckpt": "error: checkpoint nowhere.ckpt: no such file",
    "trainer.devices=4096": "error: trainer.devices=4096: must be at most ",
    "+trainer.foo=1": "error: trainer.foo: no such key; choose accelerator, ",
    "trainer.foo=1": "error: trainer.foo=1: no such key; choose max_epochs, ",
    "trainer.fast_dev_run=maybe": "error: trainer.fast_dev_run=maybe: must be a valid boolean",
    "+optimizer.foo=1": "error: optimizer.foo: no such key; choose dampening, ",
    "optimizer._target_=torch.optim.NAdam": (
        "error: optimizer.momentum: torch.optim.NAdam takes no such key, but params, lr, betas, "
    ),
    "seed=${foo}": "error: Interpolation key 'foo' not found",
    "name=a/b": "error: name=a/b: must be a file name",
    "name=..": "error: name=..: must be a file name",
    "~callbacks": "error: callbacks=None: must be a choice of the group",
    "~callbacks=1": "error: ~callbacks=1: must be a choice, as in ",
    "~augment=[null,null]": "error: ~augment=[null,null]: must be a choice, as in ",
    "callbacks.speed=5": (
        "error: callbacks.speed=5: must be null, or a group of keys with a _target_"
    ),
    "a\nb": "error: a b: is not KEY=VALUE as Hydra reads it",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line(train, tmp_path, capfd, mistake):
    with pytest.raises(SystemExit) as exit:
        train("trainer=smoke", mistake)
    assert exit.value.code.startswith(MISTAKES[mistake])
    assert "\n" not in exit.value.code
    assert "Traceback" not in "".join(capfd.readouterr())
    assert tmp_path.exists()
    assert not [path for path in tmp_path.glob("outputs/*") if path.is_dir()]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_a_missing_gpu(train):
    with pytest.raises(
        SystemExit, match=r"trainer.accelerator=gpu: torch finds no GPU here; give trainer=auto"
    ):
        train("trainer=gpu", "name=run")
    assert not Path("outputs/run").exists()


def test_damaged_and_foreign_checkpoints(train):
    train("trainer=smoke", "name=run")
    good = Path("outputs/run/checkpoints/last.ckpt")
    Path("cut.ckpt").write_bytes(good.read_bytes()[:5000])
    Path("text.ckpt").write_text("hello")
    torch.save({"a": 1}, "other.ckpt")
    for name, reason in (
        ("cut", "cannot be read"),
        ("text", "cannot be read"),
        ("other", "holds no state_dict"),
    ):
        with pytest.raises(SystemExit, match=f"error: checkpoint {name}.ckpt: {reason}"):
            train("trainer=smoke", "name=x", f"ckpt_path={name}.ckpt")
    with pytest.raises(SystemExit, match="the checkpoint is of another architecture"):
        train("trainer=smoke", "name=x", f"ckpt_path={good}", "model.network.widths=[8,8,8,8,8]")
    assert not Path("outputs/x").exists()


def test_a_checkpoint_of_another_optimizer_or_length_is_not_continued(train):
    options = ("trainer=smoke", "data.batch_size=16", "data.eval_batch_size=100")
    train(*options, "name=run", "scheduler=one_cycle")
    torch.save(
        {"state_dict": torch.load("outputs/run/checkpoints/last.ckpt")["state_dict"]},
        "weights.ckpt",
    )
    more = (*options, "name=more", "ckpt_path=outputs/run/checkpoints/last.ckpt")
    with pytest.raises(
        SystemExit, match="trained with lr=0.01, not 0.5; resume with the optimizer"
    ):
        train(*more, "scheduler=one_cycle", "optimizer.lr=0.5")
    with pytest.raises(SystemExit, match="the checkpoint was trained with "):
        train(*more, "scheduler=one_cycle", "optimizer=adamw", "optimizer.lr=0.01")
    with pytest.raises(
        SystemExit, match="schedule is for 2 steps in all, not 4; give as many epochs"
    ):
        train(*more, "scheduler=one_cycle", "trainer.max_epochs=2")
    with pytest.raises(
        SystemExit, match="trained with another schedule; resume with the scheduler"
    ):
        train(*more, "scheduler=none")
    with pytest.raises(
        SystemExit, match="checkpoint weights.ckpt: holds weights only, nothing to continue from"
    ):
        train(*options, "name=more", "ckpt_path=weights.ckpt")
    assert not Path("outputs/more").exists()


def test_a_checkpoint_that_would_run_code_is_refused(train, tmp_path):
    class Malicious:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "was-run",))

    torch.save({"state_dict": Malicious()}, "bad.ckpt")
    with pytest.raises(SystemExit, match="error: checkpoint bad.ckpt: cannot be read"):
        train("trainer=smoke", "name=x", "ckpt_path=bad.ckpt")
    assert not (tmp_path / "was-run").exists()


def test_a_failed_run_does_not_touch_what_was_there(train):
    kept = Path("outputs/run/job/result.json")
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    with pytest.raises(SystemExit):
        train("trainer=smoke", "name=run", "optimizer.lr=-1")
    assert kept.exists()


def test_a_directory_in_use_is_refused_with_its_holder(train):
    Path("outputs").mkdir()
    Path("outputs/.run.holder").write_text("process 123 on some-host since today")
    held = "is in use by process 123 on some-host since today"
    with FileLock("outputs/.run.lock"), pytest.raises(SystemExit, match=held):
        train("trainer=smoke", "name=run")
    train("trainer=smoke", "name=run")  # a lock left by a dead process holds nobody


def test_help_names_groups_and_examples_without_heavy_imports(tmp_path):
    command = [sys.executable, "-X", "importtime", ROOT / "train.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "optimizer: adam, adamw, muon, rmsprop, sgd" in done.stdout
    assert done.stdout.count("python train.py ") == 4
    assert " torch" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [("evaluate", "nowhere"), ("predict", "nowhere", "a.png"), ("leaderboard", "x")]
)
def test_commands_on_a_directory_that_is_no_run(cnnbp, arguments):
    with pytest.raises(
        SystemExit, match="^error: .*: no runs? here; give a directory such as outputs/NAME"
    ):
        cnnbp(*arguments)


def test_a_group_without_a_choice(train, tmp_path):
    with pytest.raises(
        SystemExit, match="^error: Config group override must be .*; give a choice, as in "
    ):
        train("trainer=smoke", "name=run", "logger=null")
    assert not (tmp_path / "outputs").exists()


def test_a_reader_that_has_seen_enough_is_no_mistake():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "cnnbp", "summary"], stdout=write, stderr=subprocess.PIPE, cwd=ROOT
    )
    os.close(write)
    assert done.stderr == b""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes in folders")
@pytest.mark.parametrize("load", [user_pictures.load, open_picture, checkpoint_file.load])
def test_a_pipe_is_not_waited_for(tmp_path, load):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: is neither a file nor a directory"):
        load(tmp_path / "pipe")
