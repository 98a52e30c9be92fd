"""Training where modules, signals and characters of file names are missing, as on Windows."""

import json
import subprocess
import sys

import pytest
from launch import TWO_STEPS
from paths import ROOT

from cnnbp.config import hydra_hooks, options
from cnnbp.config.hydra_hooks import file_name, run_name
from cnnbp.errors import UserError

# The libraries come first: theirs are the Linux builds, which may need what is taken away.
WITHOUT_UNIX = """
import os, runpy, signal, sys
import filelock, hydra, matplotlib, pytorch_lightning, tensorboard, torch
import torch.utils.tensorboard, torchmetrics
from pytorch_lightning.trainer.connectors import signal_connector
signal_connector._IS_WINDOWS = True  # Lightning knows which signals are missing there
for name in ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT", "SIGALRM", "SIGKILL", "SIGCONT"):
    delattr(signal, name)
for name in ("fork", "geteuid", "getuid", "killpg", "sched_getaffinity", "O_DIRECTORY", "uname"):
    delattr(os, name)
there = ("SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM")
signal.valid_signals = lambda: {getattr(signal, name) for name in there}
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path("{train}", run_name="__main__")
"""


def test_a_run_trains_and_continues_without_what_unix_alone_has(tmp_path):
    code = WITHOUT_UNIX.replace("{train}", str(ROOT / "train.py"))
    for overrides in ((), ("overwrite=true",)):
        command = [sys.executable, "-c", code, *TWO_STEPS, "name=run", *overrides]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "outputs/run/result.json").read_text())["steps"] == 2


def test_names_hold_no_character_that_the_file_system_refuses(monkeypatch):
    windows = '<>:"|?*\\/'
    monkeypatch.setattr(options, "NOT_IN_FILE_NAMES", windows)
    monkeypatch.setattr(hydra_hooks, "NOT_IN_FILE_NAMES", windows)
    name = file_name('data.root=C:\\data,x="a|b"')
    assert name == "data.root=C__data,x=_a_b_"
    with pytest.raises(UserError, match="name=a:b: must be a file name"):
        run_name("a:b")
