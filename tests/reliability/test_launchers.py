"""Two jobs on every launcher, one run in two processes, and what is shown of them meanwhile."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from hydra.errors import MissingConfigException
from launch import TRAIN, TWO_STEPS
from paths import ROOT

from cnnbp.config.hydra_errors import explain
from cnnbp.runs.run_lock import RunLock
from cnnbp.sweeps import job_progress

SMALL = (*TWO_STEPS, "~callbacks.dashboard", "logger=csv")
PLUGINS = {"joblib": "joblib", "slurm_local": "submitit", "ray": "ray"}


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def outcome(path):
    result = json.loads((path / "result.json").read_text())
    weights = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {"accuracy": result["accuracy"], "loss": result["loss"]}, weights


def assert_alike(path, other):
    (result, weights), (wanted, others) = outcome(path), outcome(other)
    assert result == wanted
    for name, value in others.items():
        assert torch.equal(value, weights[name]), name


SLOW = ("slurm_local", "ray")


@pytest.mark.parametrize(
    "launcher",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in PLUGINS],
)
def test_two_jobs_end_as_one_after_the_other(train, launcher):
    pytest.importorskip(
        f"hydra_plugins.hydra_{PLUGINS[launcher]}_launcher",
        reason=f"needs cnnbp[{PLUGINS[launcher]}]",
    )
    train("-m", *SMALL, "name=serial", "seed=1,2")
    command = [
        *TRAIN,
        "-m",
        *SMALL,
        "name=parallel",
        "seed=1,2",
        f"launcher={launcher}",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^[12]  +\S+seed=", done.stdout, re.MULTILINE)) == 2
    jobs = sorted(path.parent for path in Path("outputs/serial").glob("*/result.json"))
    assert len(jobs) == 2
    for path in jobs:
        assert_alike(Path("outputs/parallel") / path.name, path)


@pytest.mark.slow
def test_a_job_queued_again_continues_from_its_checkpoint(train):
    """By submitit's signal for a job that Slurm is about to take off, and its local executor."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs cnnbp[slurm]")
    options = (*SMALL, "trainer.max_epochs=30", "trainer.limit_train_batches=5")
    command = [
        *TRAIN,
        "-m",
        *options,
        "name=queued",
        "seed=1",
        "launcher=slurm_local",
    ]
    sweep = subprocess.Popen(command)
    while not (checkpoints := list(Path("outputs/queued").glob("*/checkpoints/last.ckpt"))):
        assert sweep.poll() is None
        time.sleep(0.05)
    path = checkpoints[0].parents[1]
    os.kill(
        int(re.match(r"process (\d+)", path.with_name(f".{path.name}.holder").read_text())[1]),
        signal.SIGUSR2,
    )
    assert sweep.wait() == 0
    assert "continued from its last checkpoint" in (path / "train.log").read_text()
    train(*options, "name=whole", "seed=1")
    assert_alike(path, Path("outputs/whole"))


def test_without_slurm_no_job_is_trained_here_instead(train, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs cnnbp[slurm]")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match=r"launcher=slurm: .*srun.*launcher=slurm_local"):
        train("-m", *SMALL, "name=sweep", "seed=1,2", "launcher=slurm")
    assert not list(Path("outputs/sweep").glob("*/result.json"))


def test_a_launcher_that_is_not_installed_is_named_with_its_extra():
    error = MissingConfigException("", "hydra/launcher/submitit_slurm", ["basic"])
    assert explain(error) == "launcher=slurm: is not installed; pip install 'cnnbp[slurm]'"


@pytest.fixture
def sweep(tmp_path):
    """Three jobs of a sweep: one done, one failed, one after its second epoch.

    A fourth one was finished before.
    """
    for name in ("done", "failed", "running", "earlier"):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / ".hydra" / "config.yaml").touch()
    (tmp_path / "done" / "result.json").touch()
    (tmp_path / "failed" / "error.txt").touch()
    (tmp_path / "running" / "metrics.csv").write_text(
        "step,accuracy/train,accuracy/val\n3,0.1,0.2\n6,0.3,0.9\n"
    )
    (tmp_path / "earlier" / "result.json").touch()
    os.utime(tmp_path / "earlier" / "result.json", (0, 0))
    lock = RunLock(tmp_path / "running")
    lock.acquire()
    yield tmp_path
    lock.release()


def test_the_overview_tells_the_jobs_apart(sweep):
    assert job_progress.read_states(sweep, since=1) == (
        [sweep / "done"],
        [sweep / "failed"],
        [sweep / "running"],
    )
    assert job_progress.describe(sweep / "running") == "after epoch 2, accuracy 90.00%: running"
    assert job_progress.describe(sweep / "earlier") == "in its first epoch: earlier"


def test_the_overview_is_plain_lines_without_a_terminal(sweep, monkeypatch, capsys):
    monkeypatch.setattr(job_progress, "REFRESH_SECONDS", 0.01)
    with job_progress.job_progress(sweep, 5, since=1):
        time.sleep(0.2)
    line, job = capsys.readouterr().err.splitlines()
    assert re.match(
        r"1 running, 2 waiting, 1 failed:  40%\|.*\| 2/5 \[00:00<00:00, .*job/s\]", line
    )
    assert job == "  after epoch 2, accuracy 90.00%: running"


@pytest.mark.parametrize("size", [60, pytest.param(10, marks=pytest.mark.slow)])
def test_two_processes_train_as_one_with_the_same_global_batch(train, size):
    """To the rounding of float32, which grows from step to step: after ten of them to 1e-4.

    Without dropout, which each process draws for itself, and without BatchNorm, which sees its
    own share alone.
    """
    options = (
        *SMALL,
        "trainer.max_epochs=2",
        f"data.batch_size={size}",
        "trainer.limit_train_batches=5",
        "dropout=none",
        "model.network.norm=none",
        "trainer.precision=32-true",
    )
    train(*options, "name=one")
    command = [
        *TRAIN,
        *options,
        "name=two",
        "trainer.devices=2",
        "trainer.strategy=ddp",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (one, weights), (two, others) = outcome(Path("outputs/one")), outcome(Path("outputs/two"))
    assert two == pytest.approx(one, rel=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-4, atol=1e-6)


def test_batchnorm_over_processes_needs_gpus(train):
    with pytest.raises(
        SystemExit, match="trainer.sync_batchnorm=true: torch synchronises BatchNorm on GPUs alone"
    ):
        train("trainer=ddp", "trainer.accelerator=cpu", "trainer.sync_batchnorm=true", "name=run")


def test_the_processes_of_a_run_share_out_every_sample_once():
    from cnnbp.data.batches import Batches

    images = torch.arange(1000)
    seen = [batch for rank in (0, 1, 2) for batch, _ in Batches(images, images, 128, 1, rank, 3)]
    assert torch.equal(torch.cat(seen).sort().values, images)
