"""Start train.py from a test: in this process, or as the command of another one."""

import logging
import runpy
import sys
from pathlib import Path

import pytest
from paths import ROOT

TRAIN = (sys.executable, str(ROOT / "train.py"))
TWO_STEPS = ("trainer=smoke", "data.batch_size=16", "data.eval_batch_size=100")


def train_in(directory: Path, *overrides: str) -> None:
    """Run train.py in this process, as `python train.py OVERRIDES` does from a directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setattr(sys, "argv", ["train.py", *overrides])
        try:
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        finally:
            close_log_files()


def close_log_files() -> None:
    """Close the train.log that Hydra's logging keeps open until a process ends."""
    for handler in list(logging.root.handlers):
        if type(handler) is logging.FileHandler:  # not pytest's own, which are subclasses
            logging.root.removeHandler(handler)  # which would open it again
            handler.close()
