"""TensorBoard over a large sweep: how long it takes until the page shows the curves."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from launch import TRAIN
from paths import ROOT

playwright = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.browser

JOBS = 250
MOST_SECONDS = 10


@pytest.fixture
def sweep(tmp_path):
    """The directory of a sweep: one job was trained for 20 epochs, the others are its copies."""
    short = [f"trainer.limit_{stage}_batches=2" for stage in ("train", "val", "test")]
    command = [*TRAIN, "-m", "name=sweep", "seed=1", *short]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    (trained,) = (tmp_path / "outputs/sweep").glob("*/result.json")
    for number in range(JOBS):
        job = tmp_path / f"outputs/large/seed={number}"
        job.mkdir(parents=True)
        for file in trained.parent.glob("events.*"):
            shutil.copy(file, job)
    return tmp_path / "outputs/large"


def wait_for_runs(address, count, seconds):
    """Wait until TensorBoard has read the accuracy of so many runs."""
    end = time.monotonic() + seconds
    runs = []
    while len(runs) < count:
        assert time.monotonic() < end, f"{len(runs)} runs"
        time.sleep(0.1)
        try:
            with urllib.request.urlopen(f"{address}/data/plugin/scalars/tags") as answer:
                tags = json.load(answer)
        except OSError:
            # it does not listen yet
            continue
        runs = [run for run, known in tags.items() if "accuracy/test" in known]


@pytest.fixture
def page():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1600, "height": 1000})
        browser.close()


def test_a_large_sweep_is_shown_within_ten_seconds(sweep, page):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://localhost:{port}"
    start = time.monotonic()
    # as make board does
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(sweep)]
    board = subprocess.Popen([*command, f"--port={port}"], stderr=subprocess.DEVNULL)
    try:
        wait_for_runs(address, JOBS, seconds=60)
        read = time.monotonic() - start
        page.goto(address)
        # the first curves, and below them the value of each run
        card = page.locator("scalar-card").first
        card.locator("canvas").first.wait_for(timeout=60_000)
        card.locator("tb-data-table-content-row").nth(JOBS - 1).wait_for(timeout=60_000)
        seconds = time.monotonic() - start
    finally:
        board.terminate()
        board.wait()
    print(f"{JOBS} runs read after {read:.1f} s, shown after {seconds:.1f} s")
    assert seconds < MOST_SECONDS
