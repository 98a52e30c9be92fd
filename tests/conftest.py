import runpy
import sys

import pytest
from paths import ROOT


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Run train.py with overrides, as from the command line, below a temporary directory."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str) -> None:
        monkeypatch.setattr(sys, "argv", ["train.py", *overrides])
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")

    return run


@pytest.fixture
def cnnbp(tmp_path, monkeypatch):
    """Run `python -m cnnbp` with arguments; return its exit status."""
    from cnnbp.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["cnnbp", *arguments])
        return main() or 0

    return run
