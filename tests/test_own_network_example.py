"""The example of an own network, by the commands that its README lists."""

import re
import shlex
import shutil
import sys

import pytest
from launch import TWO_STEPS, close_log_files
from paths import ROOT

from cnnbp.cli import main

EXAMPLE = ROOT / "examples/own_network"
# the others take longer, and other tests run them for other networks
QUICK = ("summary", "train", "evaluate", "explain")


@pytest.fixture
def follow(tmp_path, monkeypatch):
    """Run commands in a copy of the example, those that train with further overrides."""
    pytest.importorskip("matplotlib")
    folder = tmp_path / "own_network"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("outputs"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    # of the copy that another test has made
    sys.modules.pop("residual", None)

    def run(commands, options):
        for command in commands:
            further = options if command[1] in ("train", "search") else ()
            monkeypatch.setattr(sys, "argv", [*command, *further])
            try:
                assert (main() or 0) == 0, command
            finally:
                close_log_files()
        return folder / "outputs"

    return run


def commands():
    """The commands of the README, behind the one that goes to the folder."""
    text = (EXAMPLE / "README.md").read_text()
    first, *others = re.search(r"```\n(.*?)```", text, re.DOTALL)[1].splitlines()
    assert first == "cd examples/own_network"
    return [shlex.split(line) for line in others]


def test_the_first_commands(follow):
    first = [command for command in commands() if command[1] in QUICK and "-m" not in command]
    assert [command[1] for command in first] == list(QUICK)
    outputs = follow(first, (*TWO_STEPS, "trainer.max_epochs=1", "logger=csv"))
    assert (outputs / "first/explain.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [(*TWO_STEPS, "data.val_size=100"), ("data.val_size=5000",)], ids=["smoke", "whole"]
)
def test_all_commands(follow, capsys, options):
    outputs = follow(commands(), (*options, "trainer.max_epochs=1"))
    printed = capsys.readouterr().out
    # of the sweep two widths, and of the search up to four
    groups = printed[printed.rindex("overrides ") :].splitlines()[1:]
    widths = [line for line in groups if "experiment=fast" in line and "width=" in line]
    assert [line.split("_accuracy")[1].split()[0] for line in widths] == ["2", "2"]
    assert any("model.network.blocks=" in line for line in groups)
    for file in ("model.onnx", "model.onnx.md", "report.html", "explain.png"):
        assert (outputs / "first" / file).exists()
