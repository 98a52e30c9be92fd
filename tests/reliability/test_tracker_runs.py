"""MLflow and Weights & Biases, installed into an environment of their own: runs are read back."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from launch import TWO_STEPS
from paths import ROOT

pytestmark = pytest.mark.slow

BOTH = (*TWO_STEPS, "logger=[csv,mlflow,wandb]")
# stops the first process of a run behind its first step
STOP = """\
import os, signal
from pytorch_lightning import Callback

class Stop(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if not trainer.ckpt_path:
            os.kill(os.getpid(), signal.SIGTERM)
"""
READ_MLFLOW = """\
import json
from mlflow.tracking import MlflowClient
client = MlflowClient("sqlite:///outputs/mlflow.db")
(experiment,) = [one for one in client.search_experiments() if one.name == "cnnbp"]
runs = {}
for run in client.search_runs([experiment.experiment_id]):
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "loss/train")]
    runs.setdefault(run.info.run_name, []).append(
        [run.info.run_id, run.info.status, run.data.params, run.data.metrics, steps]
    )
print(json.dumps(runs))
"""
# an offline file is a log of LevelDB: blocks of 32 KiB, records of 7 bytes and a protocol buffer
READ_WANDB = """\
import glob, json, struct, sys
from wandb.proto import wandb_internal_pb2 as proto

def records(content):
    place, parts = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""

runs = []
for path in sorted(glob.glob(glob.escape(sys.argv[1]) + "/wandb/offline-run-*/*.wandb")):
    run = {"config": {}, "history": {}, "exit": None}
    for record in records(open(path, "rb").read()):
        message = proto.Record.FromString(record)
        kind = message.WhichOneof("record_type")
        if kind == "run":
            run["id"], run["name"] = message.run.run_id, message.run.display_name
        if kind == "config":
            for item in message.config.update:
                run["config"][item.key or item.nested_key[0]] = json.loads(item.value_json)
        if kind == "history":
            for item in message.history.item:
                run["history"][item.key or item.nested_key[0]] = json.loads(item.value_json)
        if kind == "exit":
            run["exit"] = message.exit.exit_code
    runs.append(run)
print(json.dumps(runs))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment with both trackers, which borrows everything else."""
    directory = tmp_path_factory.mktemp("trackers")
    venv.create(directory, with_pip=False)
    commands = directory / ("Scripts" if os.name == "nt" else "bin")
    pip = (sys.executable, "-m", "pip", "--python", commands / "python", "install", "-q")
    done = subprocess.run([*map(str, pip), "mlflow>=3.1", "wandb>=0.20"], capture_output=True)
    if done.returncode:
        pytest.skip("MLflow and Weights & Biases can neither be found nor be downloaded")
    (packages,) = directory.glob("**/site-packages")
    (packages / "borrowed.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    return commands / "python"


@pytest.fixture
def run(python, tmp_path):
    (tmp_path / "stopping.py").write_text(STOP)

    def started(*arguments, status=0):
        done = subprocess.run(
            list(map(str, (python, *arguments))), cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == status, done.stderr
        return done.stdout

    return started


def train(run, *overrides, **options):
    return run(ROOT / "train.py", *overrides, **options)


def test_a_resumed_run_goes_on_in_the_same_tracker_runs(run, tmp_path):
    overrides = (*BOTH, "name=one", "+callbacks.stop._target_=stopping.Stop")
    train(run, *overrides, status=143)
    ids = json.loads((tmp_path / "outputs/one/trackers.json").read_text())
    ((own,),) = json.loads(run("-c", READ_MLFLOW)).values()
    assert own[:2] == [ids["mlflow"], "KILLED"]
    train(run, *overrides)
    assert json.loads((tmp_path / "outputs/one/trackers.json").read_text()) == ids
    result = json.loads((tmp_path / "outputs/one/result.json").read_text())
    runs = json.loads(run("-c", READ_MLFLOW))
    ((number, status, parameters, metrics, steps),) = runs["one"]
    assert (number, status, steps) == (ids["mlflow"], "FINISHED", [2])
    assert parameters["learning_rate"] == "0.01"
    assert metrics["accuracy/test"] == pytest.approx(result["accuracy"])
    assert metrics["loss/test"] == pytest.approx(result["loss"])
    first, second = json.loads(run("-c", READ_WANDB, "outputs/one"))
    assert first["id"] == second["id"] == ids["wandb"]
    assert (first["name"], first["exit"], second["exit"]) == ("one", 1, 0)
    assert second["config"]["learning_rate"] == 0.01
    assert second["history"]["accuracy/test"] == pytest.approx(result["accuracy"])


@pytest.mark.parametrize("launcher", ["serial", "joblib", "fleet"])
def test_each_job_of_a_sweep_is_a_tracker_run_of_its_own(run, tmp_path, launcher):
    train(run, "-m", *BOTH, "name=grid", "seed=1,2,3", f"launcher={launcher}")
    runs = json.loads(run("-c", READ_MLFLOW))
    assert len(runs) == 3
    assert all(name.startswith("grid/") for name in runs)
    wandb_ids = set()
    for name, ((_, status, parameters, metrics, _),) in runs.items():
        directory = Path("outputs") / name
        result = json.loads((tmp_path / directory / "result.json").read_text())
        assert status == "FINISHED"
        assert parameters["seed"] == str(result["seed"])
        assert metrics["accuracy/test"] == pytest.approx(result["accuracy"])
        (own,) = json.loads(run("-c", READ_WANDB, directory))
        assert own["exit"] == 0
        assert own["history"]["loss/test"] == pytest.approx(result["loss"])
        wandb_ids.add(own["id"])
    assert len(wandb_ids) == 3


def test_a_tracker_run_that_is_gone_is_one_line(run, python, tmp_path):
    overrides = (*TWO_STEPS, "logger=mlflow", "name=one", "+callbacks.stop._target_=stopping.Stop")
    train(run, *overrides, status=143)
    (tmp_path / "outputs/mlflow.db").unlink()
    command = (ROOT / "train.py", *overrides)
    done = subprocess.run(
        list(map(str, (python, *command))), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "remove it from trackers.json" in done.stderr
    assert "Traceback" not in done.stderr
