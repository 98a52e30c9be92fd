"""Sweeps on a real Slurm cluster of one node on this machine, without an accounting database."""

import os
import shutil
import signal
import socket
import subprocess
import time

import pytest
import torch
from launch import TRAIN, TWO_STEPS
from paths import ROOT
from processes import free_port, wait_until

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs cnnbp[slurm]")

pytestmark = pytest.mark.slow

# a step takes a quarter of a second, so that there is time to disturb a job
SLOW = """\
import time
from pytorch_lightning import Callback

class Slow(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        time.sleep(0.25)
"""
OPTIONS = (
    *TWO_STEPS,
    "~callbacks.dashboard",
    "logger=csv",
    "augment=affine",
    "callbacks.checkpoints.every_n_seconds=1",
    "+callbacks.slow._target_=slow.Slow",
)
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
# a job that is queued again waits as long as its old credential is valid
AuthInfo=socket={directory}/munge.socket,cred_expire=3
SlurmUser=root
SlurmdUser=root
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def install():
    """Install Slurm where that is possible, or skip."""
    os.environ["PATH"] += os.pathsep + "/usr/sbin"
    if not shutil.which("slurmctld") and shutil.which("apt-get") and os.geteuid() == 0:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "slurm-wlm", "munge"]):
            subprocess.run(["apt-get", "-qq", *command], env=environment, capture_output=True)
    if not shutil.which("slurmctld") or os.geteuid() != 0:
        pytest.skip("Slurm is not installed, or this is not root; root installs it with apt-get")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Slurm's daemons, as the environment's SLURM_CONF names them."""
    install()
    directory = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (directory / name).mkdir()
    (directory / "key").write_bytes(os.urandom(1024))
    (directory / "key").chmod(0o600)
    config = directory / "slurm.conf"
    ports = free_port(), free_port()
    config.write_text(CONFIG.format(directory=directory, host=socket.gethostname(), ports=ports))
    munge = {name: directory / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
    commands = (
        [
            *("munged", "--foreground", "--force"),
            *(f"--key-file={directory / 'key'}", f"--socket={munge['socket']}"),
            *(f"--{name}-file={munge[name]}" for name in ("pid", "log", "seed")),
        ],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    )
    with pytest.MonkeyPatch.context() as patch, open(directory / "daemons.log", "w") as log:
        patch.setenv("SLURM_CONF", str(config))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        daemons = []
        for command in commands:
            daemons.append(subprocess.Popen(command, stdout=log, stderr=log))
            # each asks the one before it
            time.sleep(1)
        try:
            wait_until(lambda: "idle" in slurm("sinfo", "--noheader", "--format=%T"), 60)
            yield
        finally:
            # a test that failed has left its jobs
            subprocess.run(["scancel", "--user=root"])
            time.sleep(2)
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait()


def slurm(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def folder(cluster, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    return tmp_path


def start(folder, *overrides):
    command = [*TRAIN, "-m", *overrides, "launcher=slurm", "hydra.launcher.cpus_per_task=1"]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run_of(folder, seed):
    (run,) = folder.glob(f"outputs/sweep/*seed={seed}*")
    return run


def assert_undisturbed(folder, *overrides):
    """Each run has the weights that it has when it is trained here, alone."""
    alone = folder / "alone"
    alone.mkdir()
    (alone / "slow.py").write_text(SLOW.replace("0.25", "0"))
    # with as many threads as the jobs had
    subprocess.run([*TRAIN, "-m", *overrides], cwd=alone, check=True, capture_output=True)
    runs = sorted(alone.glob("outputs/sweep/*/checkpoints/last.ckpt"))
    assert runs
    for path in runs:
        expected = torch.load(path, weights_only=True)["state_dict"]
        found = torch.load(folder / path.relative_to(alone), weights_only=True)["state_dict"]
        for name, value in expected.items():
            assert torch.equal(found[name], value), name


def test_a_job_is_queued_again_and_another_is_cancelled(folder):
    options = (*OPTIONS, "trainer.limit_train_batches=60", "seed=1,2,3", "name=sweep")
    process = start(folder, *options)
    saved = "outputs/sweep/*/checkpoints/last.ckpt"
    wait_until(lambda: len(list(folder.glob(saved))) == 3, 90)
    job = slurm("squeue", "--noheader", "--format=%F").split()[0]
    slurm("scancel", f"{job}_0")
    slurm("scontrol", "requeue", f"{job}_1")
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 1, out
    assert f"Slurm job {job}_0: cancelled, without a result" in out
    assert "1 of 3 jobs failed" in out
    assert "sacct" not in out
    assert "Traceback" not in out
    assert not (run_of(folder, 1) / "result.json").exists()
    assert "continued from its last checkpoint" in (run_of(folder, 2) / "train.log").read_text()
    process = start(folder, *options)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    assert_undisturbed(folder, *options)


def test_a_job_that_reaches_its_time_limit_goes_on(folder):
    # 40 seconds of training: the signal comes at most 40 seconds after the start of the job
    options = (*OPTIONS, "trainer.limit_train_batches=160", "seed=1", "name=sweep")
    limit = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20")
    process = start(folder, *options, *limit)
    out, _ = process.communicate(timeout=420)
    assert process.returncode == 0, out
    assert "continued from its last checkpoint" in (run_of(folder, 1) / "train.log").read_text()
    logs = "".join(path.read_text() for path in folder.glob("outputs/sweep/.submitit/*/*.err"))
    assert "this job is timed-out" in logs
    assert_undisturbed(folder, *options)


def test_jobs_that_end_without_a_result_are_told_with_the_way_on(folder):
    """One cannot import its code, one is killed, one has no time left, one is never started."""
    (folder / "broken/cnnbp").mkdir(parents=True)
    (folder / "broken/cnnbp/__init__.py").write_text("raise RuntimeError('broken')")
    setup = f"[ $SLURM_ARRAY_TASK_ID = 0 ] && export PYTHONPATH={folder / 'broken'}"
    options = (
        *OPTIONS,
        "trainer.limit_train_batches=1000",
        "seed=1,2,3,4",
        "name=sweep",
        "hydra.launcher.array_parallelism=3",
        f"hydra.launcher.setup=['{setup}']",
        "hydra.launcher.timeout_min=1",
        "hydra.launcher.signal_delay_s=20",
        "hydra.launcher.max_num_timeout=0",
    )
    process = start(folder, *options)
    wait_until(lambda: slurm("squeue", "--noheader"), 60)
    job = slurm("squeue", "--noheader", "--format=%F").split()[0]
    slurm("scancel", f"{job}_3")
    holders = folder / "outputs/sweep"
    wait_until(lambda: any(holders.glob(".*seed=2*.holder")), 60)
    (holder,) = holders.glob(".*seed=2*.holder")
    os.kill(int(holder.read_text().split()[1]), signal.SIGKILL)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 1, out
    assert f"Slurm job {job}_0: failed, without a result" in out
    assert f"Slurm job {job}_1: failed, without a result" in out
    assert "give hydra.launcher.max_num_timeout= or timeout_min= a larger value" in out
    assert f"Slurm job {job}_3: cancelled before it started" in out
    assert "4 of 4 jobs failed" in out
    assert "Traceback" not in out
