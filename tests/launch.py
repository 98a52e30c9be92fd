"""Start train.py from a test: in this process, or as the command of another one."""

import runpy
import sys
from pathlib import Path

import pytest
from paths import ROOT

TRAIN = (sys.executable, str(ROOT / "train.py"))
SMOKE = ("trainer=smoke", "data.batch_size=16", "data.eval_batch_size=100")  # two steps


def train_in(directory: Path, *overrides: str) -> None:
    """Run train.py in this process, as `python train.py OVERRIDES` does from a directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setattr(sys, "argv", ["train.py", *overrides])
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
