"""The commands of examples/own_data, as they stand in its README."""

import json
import re
import runpy
import shlex
import sys

import pytest
from launch import train_in
from paths import ROOT

pytest.importorskip("matplotlib")
pytest.importorskip("onnxscript")
README = ROOT / "examples" / "own_data" / "README.md"


def commands():
    """Each command of the README as its words."""
    blocks = re.findall(r"^```\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    text = "".join(blocks).replace("\\\n", " ")
    return [shlex.split(line[2:]) for line in text.splitlines() if line.startswith("$ ")]


@pytest.mark.slow
def test_the_commands_run_as_they_stand(tmp_path, monkeypatch, cnnbp, capfd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    said = {}
    for program, first, *others in commands():
        capfd.readouterr()
        if program == "cnnbp":
            assert cnnbp(first, *others) == 0
        elif first == "train.py":
            train_in(tmp_path, *others)
        else:
            monkeypatch.setattr(sys, "argv", [first, *others])
            runpy.run_path(str(ROOT / first), run_name="__main__")
        said[first] = capfd.readouterr().out
    assert json.loads((tmp_path / "outputs/fruit/result.json").read_text())["accuracy"] > 0.8
    rows = [line.split() for line in said["predict"].splitlines()]
    assert [row[0] for row in rows[1:]] == ["fruit/plum/07.png", "fruit/lime/12.png"]
    assert rows[1][1] == "plum"
    assert (tmp_path / "outputs/fruit/model.onnx").exists()
    (group,) = said["leaderboard"].splitlines()[1:]
    assert re.search(r"val_accuracy +1 +3 +3 ", group)
