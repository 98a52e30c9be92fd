"""What can happen to a run.

Kills, signals, damage, full disks, loads of others, all against an undisturbed run.
"""

import itertools
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from launch import TRAIN
from processes import context, differences, finish, outcome, start, wait_until
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cnnbp.data import datasets
from cnnbp.data.idx_files import MNIST_FILES
from cnnbp.errors import UserError
from cnnbp.runs.checkpoint_file import CrashSafeCheckpointIO, load, newest

SMALL = (
    *(
        "trainer=cpu",
        "name=run",
        "data.batch_size=16",
        "data.eval_batch_size=100",
        "trainer.max_epochs=3",
    ),
    *(
        "trainer.limit_train_batches=12",
        "trainer.limit_val_batches=2",
        "trainer.limit_test_batches=2",
    ),
)
EVERY_STEP = "callbacks.checkpoints.every_n_seconds=0.001"
EMA = ("average=ema", "callbacks.average.decay=0.9")
RECIPES = {
    "sgd": (),
    "adamw, one cycle, augmented": ("optimizer=adamw", "scheduler=one_cycle", "augment=affine"),
    "rmsprop, plateau, validation": (
        *("optimizer=rmsprop", "scheduler=plateau", "scheduler.patience=0", "scheduler.factor=0.5"),
        "data.val_size=5000",
    ),
    "adam, step, averaged, validation": (
        *("optimizer=adam", "scheduler=step", "scheduler.every=1", "data.val_size=5000"),
        *EMA,
    ),
    "muon, cosine, averaged, augmented": (
        "optimizer=muon",
        "scheduler=cosine",
        "augment=all",
        *EMA,
    ),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A directory with a whole run, and how many seconds it took, all modules being imported."""
    directory = tmp_path_factory.mktemp("undisturbed")
    start(directory, prepare=sys.exit).join()  # waits for the imports
    begin = time.monotonic()
    finish(directory, *SMALL)
    return directory, time.monotonic() - begin


@pytest.fixture
def seconds(undisturbed):
    return undisturbed[1]


@pytest.fixture
def trained(undisturbed):
    return undisturbed[0] / "outputs/run"


def kill_until_done(directory, rng, seconds, *overrides):
    """Start a run again and again, killing it at random, ever later, until it ends.

    Return how often it was killed.
    """
    kills = 0
    while True:
        process = start(directory, *overrides)
        process.join(
            rng.uniform(0.2, 0.7) * seconds * 1.05**kills
        )  # on a machine that became slow it would never end
        kills += process.exitcode is None
        process.kill()
        process.join()
        if process.exitcode == 0:
            return kills
        assert process.exitcode == -signal.SIGKILL, (directory / "log").read_text()


@pytest.mark.parametrize(
    ("recipe", "kills"),
    [
        ("adamw, one cycle, augmented", 2),
        *(pytest.param(name, 10, marks=pytest.mark.slow) for name in RECIPES),
    ],
)
def test_a_run_that_is_killed_ends_in_the_very_same_state(tmp_path, seconds, recipe, kills):
    options = (*SMALL, *RECIPES[recipe], EVERY_STEP)
    (tmp_path / "whole").mkdir()
    finish(tmp_path / "whole", *options)
    whole = outcome(tmp_path / "whole/outputs/run")
    for curve in "loss/train", "accuracy/train", "learning_rate":
        assert [step for step, _ in whole["curves"][curve]] == [12, 24, 36]
    rng, done = random.Random(recipe), 0
    for attempt in itertools.count():
        directory = tmp_path / str(attempt)
        directory.mkdir()
        done += kill_until_done(directory, rng, seconds, *options)
        assert differences(whole, outcome(directory / "outputs/run")) == []
        assert not list(directory.rglob("*.part"))
        # what earlier processes wrote, what the last one did, and the test
        assert len(list(directory.rglob("events.*"))) <= 3
        board = EventAccumulator(str(directory / "outputs/run"), {"tensors": 0}).Reload()
        assert len(board.Tensors("custom_scalars__config__")) == 1
        if done >= kills:
            break


def count_steps():
    from cnnbp.training.classifier import Classifier

    training_step = Classifier.training_step

    def counted(self, batch, batch_idx):
        with open("started", "a") as file:
            file.write(f"{self.global_step + 1}\n")
        return training_step(self, batch, batch_idx)

    Classifier.training_step = counted


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_signal_costs_at_most_the_running_step(tmp_path, seconds, count):
    rng, stopped = random.Random(count), 0
    for attempt in itertools.count():
        if stopped == count:
            break
        directory = tmp_path / str(attempt)
        directory.mkdir()
        number = (signal.SIGTERM, signal.SIGINT)[attempt % 2]
        begun = context.Event()
        process = start(directory, *SMALL, prepare=count_steps, begun=begun)
        begun.wait()
        process.join(rng.uniform(0.1, 0.8) * seconds)
        if process.exitcode is not None:  # faster than it was
            assert process.exitcode == 0
            continue
        stopped += 1
        os.kill(process.pid, number)
        process.join()
        assert process.exitcode == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
        log = (directory / "log").read_text()
        assert "Traceback" not in log
        started = (
            (directory / "started").read_text().split() if (directory / "started").exists() else []
        )
        if started:
            saved = load(directory / "outputs/run/checkpoints/last.ckpt")["global_step"]
            assert saved == int(started[-1])
            # in the evaluation at the end nothing is left to save, and it ends at once
            assert "the same command with name=run continues" in log or saved == 36


def never_end_a_step():
    from cnnbp.training.classifier import Classifier

    def wait(self, batch, batch_idx):
        Path("waiting").touch()
        while True:
            time.sleep(0.01)

    Classifier.training_step = wait


def test_a_second_signal_ends_it_at_once(tmp_path):
    process = start(tmp_path, *SMALL, prepare=never_end_a_step)
    wait_until((tmp_path / "waiting").exists)
    os.kill(process.pid, signal.SIGTERM)
    process.join(0.5)
    assert process.exitcode is None
    os.kill(process.pid, signal.SIGTERM)
    process.join(10)
    assert process.exitcode == 143


@pytest.mark.slow
def test_a_slurm_job_goes_back_into_the_queue(tmp_path):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\necho "$@" > asked\n')
    scontrol.chmod(0o755)
    environment = os.environ | {"SLURM_JOB_ID": "17", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    options = (*SMALL, EVERY_STEP, "trainer.limit_train_batches=1000")
    process = subprocess.Popen([*TRAIN, *options], cwd=tmp_path, env=environment)
    wait_until((tmp_path / "outputs/run/checkpoints/last.ckpt").exists)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 128 + signal.SIGUSR1
    assert (tmp_path / "asked").read_text() == "requeue 17\n"


def save_for_ever():
    """In the place of training.

    Save one checkpoint after another, with a writer that takes its time.
    """
    fsync = os.fsync

    def slow(descriptor):
        time.sleep(0.02)
        fsync(descriptor)

    os.fsync = slow
    path = Path("last.ckpt")
    for number in itertools.count():
        state = {"state_dict": {"weight": torch.full((1000,), float(number))}}
        CrashSafeCheckpointIO().save_checkpoint(state, path, storage_options=Path("previous.ckpt"))


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_a_kill_within_a_save_leaves_a_checkpoint(tmp_path, kills):
    rng, numbers = random.Random(kills), [-1.0]
    for _ in range(kills):
        process = start(tmp_path, prepare=save_for_ever)
        wait_until((tmp_path / "previous.ckpt").exists)
        process.join(rng.uniform(0, 0.2))
        process.kill()
        process.join()
        weight = load(newest(tmp_path))["state_dict"]["weight"]
        assert (weight == weight[0]).all()
        numbers.append(weight[0].item())
    assert max(numbers) > 0


def damage(rng, content: bytes) -> bytes:
    """Flip a bit, or cut the end off."""
    place = rng.randrange(len(content))
    if rng.random() < 0.3:
        return content[:place]
    flipped = bytearray(content)
    flipped[place] ^= 1 << rng.randrange(8)
    return bytes(flipped)


@pytest.mark.parametrize("count", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_damage_to_a_checkpoint_is_found_or_harmless(tmp_path, trained, count):
    content = (trained / "checkpoints/last.ckpt").read_bytes()
    good = load(trained / "checkpoints/last.ckpt")
    rng, found = random.Random(count), 0
    for _ in range(count):
        (tmp_path / "bad.ckpt").write_bytes(damage(rng, content))
        try:
            read = load(tmp_path / "bad.ckpt")
        except UserError as error:
            found += len(str(error).splitlines())
        else:
            found += 1
            assert differences(good, read) == []  # the damage is in the space between the records
    assert found == count  # one line each


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_damage_to_the_data_is_found(tmp_path, monkeypatch, count):
    content, rng = datasets.MNIST_ARCHIVE.read_bytes(), random.Random(count)
    monkeypatch.setattr(datasets, "MNIST_ARCHIVE", tmp_path / "mnist.npz")
    for _ in range(count):
        (tmp_path / "mnist.npz").write_bytes(damage(rng, content))
        with pytest.raises(UserError, match="damaged"):
            datasets._embedded_mnist.__wrapped__()


def test_the_checkpoint_before_a_damaged_one_is_used(tmp_path, undisturbed):
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    run = tmp_path / "outputs/run"
    (run / "result.json").unlink()
    last = run / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    finish(tmp_path, *SMALL)
    assert "going back to the one before it, previous.ckpt" in (tmp_path / "log").read_text()
    assert differences(outcome(undisturbed[0] / "outputs/run"), outcome(run)) == []


def test_without_a_whole_checkpoint_it_says_so(tmp_path):
    for name in ("last", "previous"):
        (tmp_path / f"{name}.ckpt").write_bytes(b"damaged")
    with pytest.raises(UserError, match="previous.ckpt: cannot be read"):
        newest(tmp_path)
    (tmp_path / "previous.ckpt").unlink()
    with pytest.raises(
        UserError, match="there is none before it: remove it to train from the beginning"
    ):
        newest(tmp_path)
    (tmp_path / "last.ckpt").unlink()
    assert newest(tmp_path) is None


def small_files():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    save, saved = CrashSafeCheckpointIO.save_checkpoint, itertools.count()

    def limited(self, *args, **options):
        if next(saved) == 2:  # from the third on the disk takes no more than 100 kB
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        save(self, *args, **options)

    CrashSafeCheckpointIO.save_checkpoint = limited


def test_a_full_disk_is_one_line_and_the_last_good_checkpoint_stays(tmp_path, seconds):
    process = start(tmp_path, *SMALL, prepare=small_files)
    process.join()
    log = (tmp_path / "log").read_text()
    assert process.exitcode == 1
    assert "Traceback" not in log
    assert log.splitlines()[-1].startswith("error: ")
    assert log.splitlines()[-1].endswith("last.ckpt: cannot be written (File too large)")
    assert load(tmp_path / "outputs/run/checkpoints/last.ckpt")["global_step"] == 24
    assert not list(tmp_path.rglob("*.part"))


def told(cnnbp, *arguments: str) -> bool:
    """Whether a command ends with an error, which must be one line."""
    try:
        cnnbp(*arguments)
    except SystemExit as exit:
        message = str(exit.code)
    else:
        return False
    assert message.startswith("error: ")
    assert len(message.splitlines()) == 1
    return True


class Malicious:
    """Whoever unpickles it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def poisoned(path: Path, form: str, mark: Path) -> None:
    bad = Malicious(mark)
    if form == "torch":
        torch.save({"state_dict": bad}, path)
    elif form == "legacy torch":
        torch.save({"state_dict": bad}, path, _use_new_zipfile_serialization=False)
    elif form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(bad))
            archive.writestr("archive/version", "3\n")
    elif form == "yaml":
        path.write_text(f"!!python/object/apply:os.mknod ['{mark}']\n")
    else:
        path.write_bytes(pickle.dumps(bad))


@pytest.mark.parametrize(
    ("file", "form"),
    [
        *itertools.product(
            ["checkpoints/last.ckpt", "checkpoints/best.ckpt"],
            ["torch", "legacy torch", "zip", "pickle"],
        ),
        *itertools.product([".hydra/config.yaml"], ["yaml", "pickle"]),
        ("result.json", "pickle"),
    ],
)
def test_a_malicious_file_is_refused_and_runs_nothing(tmp_path, trained, cnnbp, capsys, file, form):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    mark = tmp_path / "was-run"
    poisoned(run / file, form, mark)
    checkpoint = "best" if "best" in file else "last"
    for command in (
        ["evaluate", "--checkpoint", checkpoint],
        ["export", "--format", "torch"],
        ["report"],
        ["leaderboard"],
    ):
        if file == "checkpoints/last.ckpt":
            (run / "checkpoints/previous.ckpt").unlink(missing_ok=True)
        if file == "result.json" and command[0] in ("evaluate", "export"):
            continue  # does not read it
        if "best" in file and command[0] != "evaluate":
            continue
        refused = told(cnnbp, command[0], str(run), *command[1:])
        assert refused or command[0] in (
            "report",
            "leaderboard",
        )  # these tell of it on the page or in the table
        assert not mark.exists()


def test_a_malicious_data_file_is_refused(tmp_path):
    for name in MNIST_FILES:
        poisoned(tmp_path / name, "pickle", tmp_path / "was-run")
    with pytest.raises(UserError, match="not a whole IDX file"):
        datasets.KMNIST.load(tmp_path)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    "ours", ["cnnbp.model.network.Network", "torch.optim.SGD"]
)  # the optimizer is interpolated
@pytest.mark.parametrize(
    "theirs",
    [
        "os.getcwd",
        "cnnbp.runs.run_directory.shutil.rmtree",
        "cnnbp.files.remove_parts",
        "cnnbp.data.augment.torch.load",
    ],
)
def test_a_config_that_would_call_something_else_is_refused(tmp_path, trained, cnnbp, ours, theirs):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    record = run / ".hydra/config.yaml"
    assert ours in record.read_text()
    record.write_text(record.read_text().replace(ours, theirs))
    with pytest.raises(SystemExit, match=f"would run {theirs}, which is not allowed here"):
        cnnbp("evaluate", str(run))


@pytest.mark.parametrize("name", ["config.yaml", "result.json"])
@pytest.mark.parametrize("content", ["", "[1]", "{", "a: [", "\0", "{}", "trainer: 5"])
def test_damaged_records_are_one_line(tmp_path, trained, cnnbp, capsys, name, content):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    next(run.rglob(name)).write_text(content)
    if name == "result.json":
        assert not told(cnnbp, "leaderboard", str(run))
        assert "result.json cannot be read" in capsys.readouterr().out
        return
    told(cnnbp, "leaderboard", str(run))
    assert told(cnnbp, "evaluate", str(run))
    told(cnnbp, "report", str(run))  # shows what does not need the config, if it can be read


def test_a_loss_that_is_no_number_stops_the_run(train):
    with pytest.raises(SystemExit) as exit:
        train(*SMALL, "optimizer.lr=1e20", "callbacks.finite.every_n_steps=4")
    assert exit.value.code.startswith(
        "error: the loss is nan at step 2, with learning rate 1e+20; the last good "
        "checkpoint: none; give a lower"
    )


def test_the_same_command_twice_gives_the_same(tmp_path, trained):
    finish(tmp_path, *SMALL)
    assert differences(outcome(trained), outcome(tmp_path / "outputs/run")) == []


@pytest.mark.slow
def test_the_same_command_twice_gives_the_same_in_bfloat16(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        finish(tmp_path / name, *SMALL, "trainer.precision=bf16-mixed", "augment=affine")
    first, second = (outcome(tmp_path / name / "outputs/run") for name in ("first", "second"))
    assert differences(first, second) == []


@pytest.mark.slow
def test_eight_runs_at_once_in_one_folder(tmp_path, seconds):
    (tmp_path / "alone").mkdir()
    finish(tmp_path / "alone", *SMALL, "name=0", "seed=0")
    running = [start(tmp_path, *SMALL, f"name={seed}", f"seed={seed}") for seed in range(8)]
    for process in running:
        process.join()
        assert process.exitcode == 0, (tmp_path / "log").read_text()
    assert differences(outcome(tmp_path / "alone/outputs/0"), outcome(tmp_path / "outputs/0")) == []
    losses = {
        json.loads((tmp_path / f"outputs/{seed}/result.json").read_text())["loss"]
        for seed in range(8)
    }
    assert len(losses) == 8


@pytest.mark.parametrize("count", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_of_several_with_one_name_one_runs_and_the_others_are_told(tmp_path, seconds, count):
    running = [start(tmp_path, *SMALL) for _ in range(count)]
    for process in running:
        process.join()
    assert sorted(process.exitcode for process in running) == [0] + [1] * (count - 1)
    winner = next(process for process in running if process.exitcode == 0)
    told = [
        line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("error: ")
    ]
    assert len(told) == count - 1
    assert all(
        f"outputs/run is in use by process {winner.pid} on " in line and " since 2" in line
        for line in told
    )
    assert (tmp_path / "outputs/run/result.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_two_processes_of_a_run_continue_to_the_same_state(tmp_path, number):
    options = (
        *SMALL,
        *RECIPES["adamw, one cycle, augmented"],
        EVERY_STEP,
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.limit_train_batches=40",
    )
    command = [
        *TRAIN,
        *(option for option in options if option != "trainer=cpu"),
    ]
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    subprocess.run(command, cwd=tmp_path / "whole", check=True)
    process = subprocess.Popen(command, cwd=tmp_path / "cut")
    wait_until((tmp_path / "cut/outputs/run/checkpoints/previous.ckpt").exists, seconds=120)
    process.send_signal(number)
    assert process.wait(60) == {signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert not (tmp_path / "cut/outputs/run/result.json").exists()
    subprocess.run(command, cwd=tmp_path / "cut", check=True)
    assert (
        differences(outcome(tmp_path / "whole/outputs/run"), outcome(tmp_path / "cut/outputs/run"))
        == []
    )


def test_two_processes_need_two_images_in_each_batch():
    from cnnbp.data.datamodule import DataModule

    class Two:
        global_rank, world_size = 1, 2

        class strategy:
            root_device = torch.device("cpu")

    data = DataModule(batch_size=59_999)
    data.trainer = Two
    data.setup("fit")
    with pytest.raises(
        UserError, match="data.batch_size=59999: leaves 1 images in the last batch for 2 processes"
    ):
        data.train_dataloader()
