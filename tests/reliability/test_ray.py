"""Two jobs of a sweep on a local Ray cluster, which wants an environment of its own."""

import os
import re
import subprocess
import sys
import sysconfig
import venv

import pytest
from launch import TWO_STEPS
from paths import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """`cnnbp` with its extra `ray`, which wants older packages; all others are borrowed."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory)
    (packages,) = directory.glob("**/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = directory / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = (sys.executable, "-m", "pip", "--python", str(python), "install", f"{ROOT}[ray]")
    done = subprocess.run(pip, capture_output=True, text=True)
    if "No matching distribution" in done.stderr:
        pytest.skip("Ray or the build backend can neither be found nor be downloaded")
    assert done.returncode == 0, done.stderr
    return python.with_name("cnnbp")


def test_two_jobs_on_a_local_cluster_are_shown_without_lines_of_ray(command, tmp_path):
    # without this clone, which would win over what is installed
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    # Ray writes a token below the home directory when there is none, and prints so
    environment |= {"OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    options = (*TWO_STEPS, "~callbacks.dashboard", "logger=csv", "name=sweep", "seed=1,2")
    done = subprocess.run(
        [str(command), "train", "-m", *options, "launcher=ray"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert len(list((tmp_path / "outputs/sweep").glob("*/result.json"))) == 2
    ours = r"$|rank  |[12]  .*seed=|.*job/s\]$|.*s/job\]$|.*\?job/s\]$|  (in its first|after) epoch"
    for line in done.stdout.splitlines():
        assert re.match(ours, line), done.stdout
