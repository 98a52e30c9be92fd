"""A search by several processes on a PostgreSQL server: each trial counts once."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from launch import TWO_STEPS
from paths import ROOT
from processes import free_port

optuna = pytest.importorskip("optuna")

pytestmark = pytest.mark.slow

PASSWORD = "swordfish-4711"
OPTIONS = (
    *TWO_STEPS,
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=6",
    "~callbacks.dashboard",
    "logger=csv",
    "callbacks.checkpoints.every_n_seconds=0.001",
    "search.space={data.batch_size: null}",
    "search.heartbeat=1",
    "search.pruner._target_=optuna.pruners.NopPruner",
    "search.n_trials=12",
    "name=study",
)
STUDY = Path("outputs/study")


def server_commands():
    """The folder of initdb and pg_ctl; as root on Debian, the package is installed if missing."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "postgresql"]):
            subprocess.run(["apt-get", "-qq", *command], env=environment, capture_output=True)
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        pytest.skip("PostgreSQL is not installed, and can be installed by root with apt-get alone")
    return folders[-1]


@pytest.fixture(scope="module")
def server():
    """The address of a server of its own, which knows the user postgres by a password."""
    commands, port = server_commands(), free_port()
    # not in pytest's folders, which no other user may enter; the server refuses to run as root
    directory = Path(tempfile.mkdtemp())
    (directory / "password").write_text(PASSWORD)
    as_owner = []
    if os.geteuid() == 0:
        as_owner = ["runuser", "-u", "postgres", "--"]
        for path in (directory, directory / "password"):
            shutil.chown(path, "postgres")

    def run(name, *arguments):
        command = [*as_owner, str(commands / name), "--pgdata", str(directory / "data")]
        # the server keeps what it inherits open: no pipe that would be waited for
        subprocess.run([*command, *arguments], check=True, stdout=subprocess.DEVNULL, cwd="/")

    password = ("--pwfile", str(directory / "password"), "--auth", "scram-sha-256")
    run("initdb", "--username", "postgres", *password)
    options = f"-p {port} -k {directory} -c listen_addresses=127.0.0.1"
    run("pg_ctl", "start", "--wait", "--log", str(directory / "log"), "--options", options)
    yield f"127.0.0.1:{port}/postgres"
    run("pg_ctl", "stop", "--mode", "immediate")
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A folder with the driver, which is installed for these tests alone."""
    folder = tmp_path_factory.mktemp("driver")
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder))
    done = subprocess.run([*pip, "psycopg", "psycopg-binary"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("the driver psycopg can neither be found nor be downloaded")
    return folder


@pytest.fixture
def storage(server, driver, tmp_path, monkeypatch):
    """The URL of the server's database, as given to `search.storage`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{driver}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(driver)
    return f"postgresql+psycopg://postgres:{PASSWORD}@{server}"


def worker(name, storage):
    command = [sys.executable, "-m", "cnnbp", "search", *OPTIONS, f"search.storage={storage}"]
    with open(f"{name}.log", "wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def held_by(process):
    """Whether a process trains a trial now, some of which are finished."""
    for path in STUDY.glob(".*.holder"):
        with suppress(FileNotFoundError):  # it has ended meanwhile
            if path.read_text().startswith(f"process {process.pid} "):
                return len(list(STUDY.glob("*/result.json"))) > 2
    return False


def trials_of(storage):
    database = optuna.storages.RDBStorage(storage)
    try:
        return optuna.load_study(study_name="study", storage=database).trials
    finally:
        database.engine.dispose()


def test_three_processes_share_twelve_trials_and_one_is_killed(storage):
    workers = {name: worker(name, storage) for name in "abc"}
    end = time.monotonic() + 120
    while not held_by(workers["b"]):
        assert workers["b"].poll() is None, Path("b.log").read_text()
        assert time.monotonic() < end
        time.sleep(0.01)
    workers["b"].kill()
    statuses = {name: process.wait() for name, process in workers.items()}
    logs = {name: Path(f"{name}.log").read_text() for name in "abc"}
    assert (statuses["a"], statuses["c"]) == (0, 0), logs
    trials = trials_of(storage)
    # the killed process's trial is recorded twice: as failed, and as continued by another process
    assert sorted(trial.state.name for trial in trials) == [*["COMPLETE"] * 12, "FAIL"]
    (failed,) = [trial for trial in trials if trial.state.name == "FAIL"]
    firsts = []
    for trial in trials:
        if trial is not failed:
            firsts.append([*trial.system_attrs.get("retry_history", []), trial.number][0])
    assert len(set(firsts)) == 12
    assert failed.number in firsts
    results = {int(path.parent.name[-4:]) for path in STUDY.glob("trial-*/result.json")}
    assert results == set(firsts)
    ended = re.findall(r"^trial (\d+) complete", "".join(logs.values()), re.MULTILINE)
    assert len(ended) == len(set(ended))
    for name in "ac":
        assert "12 trials complete" in logs[name]
    assert_no_password(*logs.values())


def assert_no_password(*texts):
    for text in texts:
        assert PASSWORD not in text
    for path in STUDY.rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("mistake", [("postgres:", "nobody:"), ("/postgres", "/nothing")])
def test_what_the_server_refuses_is_told_without_the_password(storage, cnnbp, capfd, mistake):
    with pytest.raises(SystemExit, match=r"error: postgresql\+psycopg://\w+:\*\*\*@") as exit:
        cnnbp("search", *OPTIONS, f"search.storage={storage.replace(*mistake)}")
    assert "\n" not in exit.value.code
    assert_no_password(exit.value.code, *capfd.readouterr())
