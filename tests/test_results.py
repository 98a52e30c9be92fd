"""The results, from runs of two steps an epoch, and their arithmetic."""

import os
import subprocess
import sys

import pytest
from paths import ROOT

from results import VARIANTS
from results.publish import ablation_rows, accuracy_rows, merge_rows, standard_error

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


@pytest.mark.slow
def test_a_part_is_trained_once(tmp_path):
    for seeds in (1, 2):
        done = results(tmp_path, "--only", "fast", f"--seeds={seeds}")
        assert done.returncode == 0, done.stderr
    assert "4/4" in done.stderr
    runs = sorted((tmp_path / "outputs" / "quick-fast").glob("*/result.json"))
    assert len(runs) == 2
    assert "\n| `fast` | 19,866 | 2 | 2 | " in (tmp_path / "outputs" / "accuracy.md").read_text()
    assert (tmp_path / "outputs" / "accuracy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_ablation_is_told(tmp_path):
    done = results(tmp_path, "--only", "ablation", "--seeds=2")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "outputs" / "ablation.md").read_text()
    assert all(f"\n| `{variant}` | " in text for variant in VARIANTS)
    assert (tmp_path / "outputs" / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_a_mistaken_part_is_named(tmp_path):
    done = results(tmp_path, "--only", "slow")
    assert done.returncode == 2
    assert "invalid choice: 'slow' (choose from" in done.stderr


def test_the_accuracy_table():
    row = accuracy_rows({"fast": GROUP | {"mean": 0.99412, "deviation": 0.0005}})["fast"]
    assert row == "| `fast` | 19,866 | 4 | 4 | 99.412 ± 0.050 | 99.00 | 99.60 | 60 |"


def test_a_difference_below_two_standard_errors_is_none():
    reference, same, less = (
        GROUP | {"mean": mean, "deviation": deviation}
        for mean, deviation in ((0.995, 0.0006), (0.9945, 0.0006), (0.994, 0.0008))
    )
    assert standard_error(reference, less) == pytest.approx(
        0.0005
    )  # of two means of four: 0.0003 and 0.0004
    rows = ablation_rows({"reference": reference, "silu": same, "no_norm": less})
    assert list(rows) == ["reference", "silu", "no_norm"]
    assert rows["silu"].endswith("| none |")
    assert (
        rows["no_norm"]
        == "| `no_norm` | without BatchNorm | 19,866 | 4 | 99.400 ± 0.080 | -0.100 ± 0.050 |"
    )


TABLE = """a
<!-- x -->
| recipe | parameters | epochs | seeds | accuracy |
|---|---|---|---|---|
| `one` | 5 | 2 | 10 | 99.1 |
| `two` | 5 | 2 | 3 | 99.2 |
<!-- /x -->
b
"""


def test_a_row_of_as_many_seeds_takes_the_place_of_the_one_before():
    new = {"two": "| `two` | 5 | 2 | 3 | 99.9 |", "one": "| `one` | 5 | 2 | 11 | 99.8 |"}
    text, whole = merge_rows(TABLE, "x", new, ["one", "two"])
    assert whole
    assert text == TABLE.replace("99.2", "99.9").replace("10 | 99.1", "11 | 99.8")


def test_published_rows_of_more_seeds_and_of_other_recipes_stay():
    new = {"one": "| `one` | 5 | 2 | 9 | 99.8 |", "new": "| `new` | 5 | 2 | 1 | 98.0 |"}
    text, whole = merge_rows(TABLE, "x", new, ["new", "one", "two"])
    assert not whole
    assert text.splitlines()[4:7] == [
        "| `new` | 5 | 2 | 1 | 98.0 |",
        "| `one` | 5 | 2 | 10 | 99.1 |",
        "| `two` | 5 | 2 | 3 | 99.2 |",
    ]


def test_a_part_with_fewer_seeds_does_not_lose_published_rows(tmp_path):
    published = (ROOT / "docs" / "results.md").read_text()
    done = results(tmp_path, "--only", "fast", "--seeds=1")
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "outputs" / "results.md").read_text()
    assert written == published
    beside = (tmp_path / "outputs" / "accuracy.md").read_text()
    assert "\n| `fast` | 19,866 | 2 | 1 | " in beside
    assert "| `fast` | 19,866 | 2 | 1 | " in done.stdout
