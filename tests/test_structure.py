"""The structure that `make lint` cannot check: names, rooms, and what an import may need."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from paths import ROOT

PRODUCT = ("cnnbp", "hydra_plugins", "results", "benchmarks")
ROOMS = sorted(file.parent.name for file in (ROOT / "cnnbp").glob("*/__init__.py"))


def python_files(*directories: str) -> list[Path]:
    return [file for name in directories for file in sorted((ROOT / name).rglob("*.py"))]


def modules(*directories: str) -> list[str]:
    files = [file.relative_to(ROOT).with_suffix("") for file in python_files(*directories)]
    return [".".join(file.parts).removesuffix(".__init__") for file in files]


def in_a_new_process(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_two_modules_share_a_name():
    # pytest, too, takes two test files of one name in two directories for the same module.
    names = Counter(
        file.stem for file in python_files(*PRODUCT, "tests") if not file.stem.startswith("__")
    )
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_in_one_line_what_it_is_for(room):
    docstring = ast.get_docstring(ast.parse((ROOT / "cnnbp" / room / "__init__.py").read_text()))
    assert docstring
    assert len(docstring.splitlines()) == 1


def test_a_function_fits_on_a_screen():
    long = []
    for file in python_files(*PRODUCT):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 45:
                long.append(f"{file.stem}.{node.name}")
    assert long == []


@pytest.mark.parametrize("room", ["model", "data"])
def test_network_and_data_are_imported_without_hydra(room):
    in_a_new_process(f"""
import importlib, sys
sys.modules.update(dict.fromkeys(("hydra", "omegaconf")))  # None: a later import raises ImportError
for module in {modules(f"cnnbp/{room}")}:
    importlib.import_module(module)
""")


@pytest.mark.parametrize("module", ["errors", "files", "signals", "config.options"])
def test_a_wrong_value_is_answered_without_torch(module):
    in_a_new_process(f"""
import sys
sys.modules.update(dict.fromkeys(("torch", "pytorch_lightning", "matplotlib")))
import cnnbp.{module}
""")


def test_everything_is_imported_on_a_system_that_is_not_unix():
    # The libraries come first: theirs are the Linux builds, which may need what is taken away here.
    in_a_new_process(f"""
import importlib, os, signal, sys
import filelock, hydra, matplotlib, optuna, pytorch_lightning, tensorboard, torch
import multiprocessing.forkserver, torch.utils.tensorboard, torchmetrics, torchvision
unix = ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty")
sys.modules.update(dict.fromkeys(unix))
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT", "SIGALRM", "SIGKILL", "SIGXFSZ", "SIGCONT"):
    delattr(signal, name)
for name in ("fork", "geteuid", "getuid", "killpg", "sched_getaffinity", "O_DIRECTORY", "uname"):
    delattr(os, name)
for module in {modules("cnnbp", "hydra_plugins", "results")}:  # benchmarks draw bars on a pty
    importlib.import_module(module)
""")


def test_a_contributor_runs_the_checks_of_make_lint():
    hook = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.search(r"entry: make lint$", hook, re.MULTILINE)
    assert "rev:" not in hook, "a second version of a tool"
    assert "make lint" in (ROOT / ".ci" / "run").read_text()


def test_the_checks_are_pinned():
    constraints = (ROOT / "constraints.txt").read_text()
    for tool in ("ruff", "import-linter", "pyrefly", "pytest"):
        assert re.search(rf"^{tool}==", constraints, re.MULTILINE), tool
