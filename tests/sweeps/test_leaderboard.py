import csv
import io
import json
import math
from pathlib import Path

import pytest

from cnnbp.errors import UserError
from cnnbp.sweeps.leaderboard_formats import (
    COLUMNS,
    SEED_COLUMNS,
    comma_separated,
    markdown,
    table,
)
from cnnbp.sweeps.leaderboard_plot import draw_leaderboard
from cnnbp.sweeps.ranking import group_over_seeds, rank_runs, student_quantile
from cnnbp.sweeps.row_filters import keep

RESULTS = {
    "lr=1,seed=1": {"accuracy": 0.90, "loss": 0.3, "train_seconds": 5.0, "seed": 1},
    "lr=1,seed=2": {"accuracy": 0.94, "loss": 0.2, "train_seconds": 5.0, "seed": 2},
    "lr=1,seed=3": {"accuracy": 0.95, "loss": 0.2, "train_seconds": 5.0, "seed": 3},
    "lr=2,seed=1": {"accuracy": 0.96, "loss": 0.1, "train_seconds": 6.0, "seed": 1},
}


def make(directory, name, result):
    rate, seed = (text.partition("=")[2] for text in name.split(","))
    records = directory / name / ".hydra"
    records.mkdir(parents=True)
    (records / "config.yaml").write_text(
        f"name: {name}\nseed: {seed}\noptimizer:\n  lr: {rate}\n  seed: ${{seed}}\n"
    )
    (records / "overrides.yaml").write_text(
        f"- optimizer.lr={rate}\n- seed={seed}\n- name={name}\n- launcher=joblib\n"
    )
    (directory / name / "result.json").write_text(json.dumps(result))


@pytest.fixture
def sweep(tmp_path):
    for name, result in RESULTS.items():
        make(tmp_path, name, result)
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "error.txt").write_text(
        "UserError: optimizer.lr=-1: must be a number above 0\n"
    )
    (tmp_path / "killed" / ".hydra").mkdir(parents=True)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "result.json").write_text('{"accuracy": 0.9')
    return tmp_path


def test_the_best_is_first_and_nothing_is_dropped(sweep):
    rows = rank_runs(sweep)
    assert [row["overrides"] for row in rows[:4]] == [
        "lr=2,seed=1",
        "lr=1,seed=3",
        "lr=1,seed=2",
        "lr=1,seed=1",
    ]
    assert [row.get("rank") for row in rows] == [1, 2, 3, 4, None, None, None]
    assert {row["overrides"]: row["error"] for row in rows[4:]} == {
        "failed": "UserError: optimizer.lr=-1: must be a number above 0",
        "killed": "unfinished",
        "damaged": "result.json cannot be read",
    }


def test_a_run_that_is_named_twice_is_listed_once(sweep):
    assert len(rank_runs(sweep, sweep / "killed" / "..", sweep / "failed")) == len(rank_runs(sweep))


def test_a_validation_accuracy_decides_over_the_test_accuracy(sweep):
    (sweep / "lr=1,seed=1" / "result.json").write_text(
        json.dumps(RESULTS["lr=1,seed=1"] | {"val_accuracy": 0.99, "val_loss": 0.1})
    )
    assert rank_runs(sweep)[0]["overrides"] == "lr=1,seed=1"


def test_a_metric_that_is_better_small_ranks_from_below(sweep):
    assert [row["loss"] for row in rank_runs(sweep, metric="loss")[:4]] == [0.1, 0.2, 0.2, 0.3]
    assert group_over_seeds(rank_runs(sweep), "loss")[0]["mean"] == 0.1


def test_runs_whose_config_differs_by_the_seed_are_one_group(sweep):
    """By hand: 0.90, 0.94, 0.95 have deviation sqrt(0.0007); Student's t for two degrees of freedom
    is 4.30265.
    """
    alone, group = group_over_seeds(rank_runs(sweep))
    assert (alone["overrides"], alone["seeds"], alone["mean"]) == ("optimizer.lr=2", 1, 0.96)
    assert not {"deviation", "standard_error", "interval_95"} & alone.keys()
    assert (group["overrides"], group["seeds"], group["worst"], group["best"]) == (
        "optimizer.lr=1",
        3,
        0.90,
        0.95,
    )
    assert group["mean"] == pytest.approx(0.93)
    assert group["deviation"] == pytest.approx(math.sqrt(0.0007))
    assert group["standard_error"] == pytest.approx(math.sqrt(0.0007 / 3))
    assert group["interval_95"] == pytest.approx(4.302653 * math.sqrt(0.0007 / 3))


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [
        (1, 12.7062047),
        (2, 4.3026527),
        (3, 3.1824463),
        (4, 2.7764451),
        (9, 2.2621572),
        (30, 2.0422725),
        (999, 1.9623415),
    ],
)
def test_the_quantile_of_student_is_the_tabulated_one(freedom, quantile):
    assert student_quantile(freedom) == pytest.approx(quantile, rel=1e-7)


def test_groups_reach_over_directories_and_count_a_seed_once(sweep, tmp_path):
    make(tmp_path / "more", "lr=1,seed=1", RESULTS["lr=1,seed=1"])
    make(tmp_path / "more", "lr=1,seed=4", {"accuracy": 0.91, "loss": 0.3, "seed": 4})
    groups = group_over_seeds(rank_runs(*(path for path in sweep.iterdir() if path.is_dir())))
    assert sorted(group["seeds"] for group in groups) == [1, 4]


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        (["optimizer.lr=2"], {"lr=2,seed=1"}),
        (["optimizer.lr<1.5", "seed>=2"], {"lr=1,seed=2", "lr=1,seed=3"}),
        (["accuracy>0.94"], {"lr=1,seed=3", "lr=2,seed=1"}),
        (["launcher=joblib", "loss<=0.1"], {"lr=2,seed=1"}),
        (["optimizer.lr=abc"], set()),
    ],
)
def test_filters_read_results_configs_and_overrides(sweep, conditions, names):
    rows = [row for row in rank_runs(sweep) if "error" not in row]
    assert {row["overrides"] for row in keep(rows, conditions)} == names


def test_a_filter_that_is_none_is_refused(sweep):
    with pytest.raises(UserError, match="--filter accuracy: is not KEY=VALUE"):
        keep(rank_runs(sweep), ["accuracy"])


def test_every_format_holds_every_row(sweep):
    rows = rank_runs(sweep)
    lines = table(rows).splitlines()
    assert lines[0].split() == ["rank", "overrides", "accuracy", "loss", "seconds", "error"]
    assert lines[1].split() == ["1", "lr=2,seed=1", "96.00%", "0.1000", "6.0"]
    assert len(lines) == 8
    assert len(markdown(rows).splitlines()) == 9
    assert markdown(rows).splitlines()[2] == "| 1 | lr=2,seed=1 | 96.00% | 0.1000 | 6.0 |  |"
    read = list(csv.DictReader(io.StringIO(comma_separated(rows))))
    assert [row["overrides"] for row in read] == [row["overrides"] for row in rows]
    assert float(read[0]["accuracy"]) == 0.96
    assert "± 6.572%" in table(group_over_seeds(rows), SEED_COLUMNS)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("foo=1", "no run has foo"),
        ("foo", "is not KEY=VALUE"),
        ("seed=[1", "is no value"),
        ("seed>one", "is no number"),
    ],
)
def test_a_filter_that_can_find_nothing_is_refused(sweep, condition, words):
    with pytest.raises(UserError, match=words):
        keep(rank_runs(sweep), [condition])


def test_the_command_lists_runs_without_a_result_apart(sweep, cnnbp, capsys):
    cnnbp("leaderboard", str(sweep), "--filter", "optimizer.lr=1", "--format", "markdown")
    out, err = capsys.readouterr()
    finished, groups = out.split("\n\n")
    assert finished.count("lr=1") == 3
    assert "lr=2" not in finished + groups
    assert groups.startswith("over seeds\n")
    assert err.startswith("\nwithout a result\n")
    assert len(err.splitlines()) == 6
    cnnbp("leaderboard", str(sweep), "--group", "--format", "csv")
    out, err = capsys.readouterr()
    assert [row["seeds"] for row in csv.DictReader(io.StringIO(out))] == ["1", "3"]
    assert "unfinished" in err
    cnnbp("leaderboard", str(sweep), "--filter", "accuracy>1")
    out, err = capsys.readouterr()
    assert not out.partition("\nwithout a result\n")[0]
    assert err == "no finished run that meets --filter\n"
    cnnbp(
        "leaderboard", str(sweep), "--filter", "accuracy>1", "--format", "csv", "--plot", "none.png"
    )
    assert capsys.readouterr().out == ",".join(COLUMNS) + "\n"
    assert Path("none.png").exists()
    cnnbp("leaderboard", str(sweep), "nowhere")
    assert capsys.readouterr().err == "nowhere: no runs here\n"
    with pytest.raises(SystemExit, match="error: nowhere: no runs here"):
        cnnbp("leaderboard", "nowhere")


def test_pictures_are_drawn_of_runs_of_groups_and_of_nothing(sweep, tmp_path):
    pytest.importorskip("matplotlib")
    for name, rows in {
        "runs": rank_runs(sweep),
        "groups": group_over_seeds(rank_runs(sweep)),
        "none": [],
    }.items():
        draw_leaderboard(rows, tmp_path / f"{name}.png")
        assert Path(tmp_path / f"{name}.png").exists()
