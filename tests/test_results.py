"""The results, from runs of two steps an epoch, and their arithmetic."""

import os
import subprocess
import sys

import pytest
from paths import ROOT

from results import VARIANTS
from results.publish import ablation_table, accuracy_table, insert, standard_error

GROUP = {
    "parameters": 19_866,
    "epochs": 4,
    "seeds": 4,
    "worst": 0.99,
    "best": 0.996,
    "seconds": 60.4,
}


def results(directory, *arguments):
    command = [sys.executable, "-m", "results", "--quick", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)


def test_a_part_is_trained_once_and_told(tmp_path):
    for seeds in (1, 2):
        done = results(tmp_path, "--only", "fast", f"--seeds={seeds}")
        assert done.returncode == 0, done.stderr
    assert "4/4" in done.stderr
    runs = sorted((tmp_path / "outputs" / "quick-fast").glob("*/result.json"))
    assert len(runs) == 2
    text = (tmp_path / "outputs" / "results.md").read_text()
    assert "\n| `fast` | 19,866 | 2 | 2 | " in text
    assert (tmp_path / "outputs" / "accuracy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_ablation_is_told(tmp_path):
    done = results(tmp_path, "--only", "ablation", "--seeds=2")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "outputs" / "results.md").read_text()
    assert all(f"\n| `{variant}` | " in text for variant in VARIANTS)
    assert (tmp_path / "outputs" / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_a_mistaken_part_is_named(tmp_path):
    done = results(tmp_path, "--only", "slow")
    assert done.returncode == 2
    assert "invalid choice: 'slow' (choose from" in done.stderr


def test_the_accuracy_table():
    row = accuracy_table({"fast": GROUP | {"mean": 0.99412, "deviation": 0.0005}}).splitlines()[-1]
    assert row == "| `fast` | 19,866 | 4 | 4 | 99.412 ± 0.050 | 99.00 | 99.60 | 60 |"


def test_a_difference_below_two_standard_errors_is_none():
    reference, same, less = (
        GROUP | {"mean": mean, "deviation": deviation}
        for mean, deviation in ((0.995, 0.0006), (0.9945, 0.0006), (0.994, 0.0008))
    )
    assert standard_error(reference, less) == pytest.approx(
        0.0005
    )  # of two means of four: 0.0003 and 0.0004
    rows = ablation_table({"reference": reference, "silu": same, "no_norm": less}).splitlines()
    assert rows[3].endswith("| none |")
    assert (
        rows[4]
        == "| `no_norm` | without BatchNorm | 19,866 | 4 | 99.400 ± 0.080 | -0.100 ± 0.050 |"
    )


def test_a_table_takes_the_place_of_the_one_before():
    text = "a\n<!-- x -->\nold\nrows\n<!-- /x -->\nb\n"
    assert insert(text, "x", "new") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n"
