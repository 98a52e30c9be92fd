"""The wheel, installed into an environment of its own, trains from an empty folder."""

import csv
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from launch import TWO_STEPS
from paths import ROOT

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess:
    # without this clone, which would win over what is installed
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    directory = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", directory)
    done = run(*pip, ROOT, cwd=directory)
    if done.returncode and "hatchling" in done.stderr:
        pytest.skip("the build backend can neither be found nor be downloaded")
    assert done.returncode == 0, done.stderr
    (file,) = directory.glob("cnnbp-*.whl")
    return file


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The folder of commands of an environment with the wheel, which borrows what it depends on."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory)
    commands = directory / ("Scripts" if os.name == "nt" else "bin")
    pip = (sys.executable, "-m", "pip", "--python", commands / "python", "install")
    done = run(*pip, "--no-deps", "--no-index", wheel, cwd=directory)
    assert done.returncode == 0, done.stderr
    (packages,) = directory.glob("**/site-packages")
    # a path of a .pth file is searched for modules, but not for further .pth files: an editable
    # installation of this clone is not seen
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return commands


def test_the_wheel_holds_what_is_read_at_run_time(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for file in ROOT.glob("conf/**/*.yaml"):
        assert f"cnnbp/{file.relative_to(ROOT)}" in names
    for file in (ROOT / "cnnbp").rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            assert str(file.relative_to(ROOT)) in names
    assert "hydra_plugins/cnnbp_sweeper.py" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "results"))]


def test_it_is_the_installed_package_that_is_run(environment, tmp_path):
    code = "import cnnbp.main_job, cnnbp; print(cnnbp.main_job.__file__)"
    done = run(environment / "python", "-c", code, cwd=tmp_path)
    assert Path(done.stdout).is_relative_to(environment.parent)


def test_help_and_config_are_printed(environment, tmp_path):
    help_text = run(environment / "cnnbp", "train", "--help", cwd=tmp_path).stdout
    assert "optimizer: adam, adamw, muon, rmsprop, sgd" in help_text
    config = run(environment / "cnnbp", "train", "--cfg", "job", cwd=tmp_path).stdout
    assert "_target_: cnnbp.model.network.Network" in config
    wrong = run(environment / "cnnbp", "train", "optimizer.lr=-1", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr) == (
        1,
        "error: optimizer.lr=-1: must be greater than 0\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_it_trains_and_the_commands_read_the_run(environment, tmp_path):
    done = run(environment / "cnnbp", "train", *TWO_STEPS, "name=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs/run/result.json").exists()
    for command in (
        ("evaluate", "outputs/run"),
        ("summary", "dropout=none"),
        ("options", "Trainer"),
        ("leaderboard", "outputs/run"),
        ("report", "outputs/run"),
        ("page", "outputs/run"),
    ):
        done = run(environment / "python", "-m", "cnnbp", *command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs/run/page.html").exists()


@pytest.mark.parametrize("launcher", ["serial", "joblib"])
def test_a_sweep_runs_its_jobs(environment, tmp_path, launcher):
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    sweep = ("-m", *TWO_STEPS, "name=sweep", "seed=1,2", f"launcher={launcher}")
    done = run(environment / "cnnbp", "train", *sweep, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "outputs/sweep/leaderboard.csv", newline="") as file:
        assert [row["rank"] for row in csv.DictReader(file)] == ["1", "2"]
