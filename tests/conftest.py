import shutil
import sys

import pytest
import torch
from launch import train_in

BROWSERS = ("chromium", "chromium-browser")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU or a browser where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    if item.get_closest_marker("browser") and not any(map(shutil.which, BROWSERS)):
        pytest.skip(f"needs {' or '.join(BROWSERS)}")


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Run train.py with overrides, as from the command line, below a temporary directory."""
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: train_in(tmp_path, *overrides)


@pytest.fixture
def cnnbp(tmp_path, monkeypatch):
    """Run `cnnbp` with arguments; return its exit status."""
    from cnnbp.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["cnnbp", *arguments])
        return main() or 0

    return run
