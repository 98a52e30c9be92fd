import csv
import json

import pytest

from cnnbp.leaderboard import draw, over_seeds, ranked, table, write_csv

RESULTS = {
    "lr=1,seed=1": {"accuracy": 0.90, "loss": 0.3, "train_seconds": 5.0},
    "lr=1,seed=2": {"accuracy": 0.94, "loss": 0.2, "train_seconds": 5.0},
    "lr=2,seed=1": {"accuracy": 0.96, "loss": 0.1, "train_seconds": 6.0},
}


@pytest.fixture
def sweep(tmp_path):
    for name, result in RESULTS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(result))
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "error.txt").write_text("UserError: optimizer.lr=-1: must be a number above 0\n")
    (tmp_path / "killed" / ".hydra").mkdir(parents=True)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "result.json").write_text('{"accuracy": 0.9')
    return tmp_path


def test_the_best_is_first_and_nothing_is_dropped(sweep):
    rows = ranked(sweep)
    assert [row["overrides"] for row in rows[:3]] == ["lr=2,seed=1", "lr=1,seed=2", "lr=1,seed=1"]
    assert [row.get("rank") for row in rows] == [1, 2, 3, None, None, None]
    assert {row["overrides"]: row["error"] for row in rows[3:]} == {
        "failed": "UserError: optimizer.lr=-1: must be a number above 0",
        "killed": "unfinished",
        "damaged": "result.json cannot be read",
    }


def test_a_validation_accuracy_decides_over_the_test_accuracy(sweep):
    (sweep / "lr=1,seed=1" / "result.json").write_text(
        json.dumps(RESULTS["lr=1,seed=1"] | {"val_accuracy": 0.99, "val_loss": 0.1})
    )
    assert ranked(sweep)[0]["overrides"] == "lr=1,seed=1"


def test_runs_that_differ_by_their_seed_are_one_group(sweep):
    second, first = sorted(over_seeds(ranked(sweep)), key=lambda group: group["mean"])
    assert (first["overrides"], first["seeds"], first["mean"]) == ("lr=2", 1, 0.96)
    assert "deviation" not in first
    assert (second["overrides"], second["seeds"]) == ("lr=1", 2)
    assert second["mean"] == pytest.approx(0.92)
    assert second["deviation"] == pytest.approx(0.04 / 2**0.5)
    assert (second["worst"], second["best"]) == (0.90, 0.94)


def test_table_and_csv_hold_every_row(sweep, tmp_path):
    rows = ranked(sweep)
    lines = table(rows).splitlines()
    assert lines[0].split() == ["rank", "overrides", "accuracy", "loss", "seconds", "error"]
    assert lines[1].split() == ["1", "lr=2,seed=1", "96.00%", "0.1000", "6.0"]
    assert len(lines) == 7
    write_csv(rows, tmp_path / "rows.csv")
    with open(tmp_path / "rows.csv", newline="") as file:
        assert [row["overrides"] for row in csv.DictReader(file)] == [row["overrides"] for row in rows]


def test_the_picture_is_drawn_without_finished_runs_too(tmp_path):
    pytest.importorskip("matplotlib")
    draw([], tmp_path / "empty.png")
    assert (tmp_path / "empty.png").exists()
