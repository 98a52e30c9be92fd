"""Reading a run directory back: what is missing, what is damaged, and what may not be called."""

import pytest

from cnnbp.errors import UserError
from cnnbp.runs.run_record import RunRecord


@pytest.fixture
def run(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/config.yaml").write_text("seed: 3\nname: a\noptimizer: {lr: 0.1}\n")
    return tmp_path


def test_what_is_missing_is_none_or_empty(run):
    record = RunRecord(run)
    assert record.exists
    assert not record.is_finished
    assert record.result is None
    assert record.command is None
    assert (record.metrics, record.overrides, record.choices) == ([], [], {})
    assert record.error == "unfinished"
    with pytest.raises(UserError, match="nowhere: no run here"):
        RunRecord.open(run / "nowhere")


@pytest.mark.parametrize("content", ["5", "[1]", "hydra: 5", "hydra: {runtime: 1, overrides: []}"])
def test_a_record_of_hydra_that_is_something_else_holds_nothing(run, content):
    for name in ("config", "hydra", "overrides"):
        (run / f".hydra/{name}.yaml").write_text(content)
    record = RunRecord(run)
    assert record.command is None
    assert record.choices == {}
    assert isinstance(record.values, dict)
    assert isinstance(record.recipe, str)
    assert all(isinstance(override, str) for override in record.overrides)


def test_runs_that_differ_by_seed_and_name_have_one_recipe(run, tmp_path_factory):
    recipes = set()
    for seed, name, rate in ((3, "a", 0.1), (4, "b", 0.1), (3, "a", 0.2)):
        text = f"seed: {seed}\nname: {name}\noptimizer: {{lr: {rate}}}\n"
        (run / ".hydra/config.yaml").write_text(text)
        recipes.add(RunRecord(run).recipe)
    assert len(recipes) == 2


@pytest.mark.parametrize(
    ("name", "content", "attribute"),
    [
        (".hydra/config.yaml", "[1]", "config"),
        (".hydra/config.yaml", "a: [", "config"),
        ("result.json", "{", "result"),
        ("result.json", '{"accuracy": "x"}', "result"),
        ("result.json", "{}", "result"),
        ("metrics.csv", "a,b\n1,2\n", "metrics"),
        ("metrics.csv", "step,loss\n1,x\n", "metrics"),
    ],
)
def test_a_damaged_file_is_named(run, name, content, attribute):
    (run / name).write_text(content)
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        getattr(RunRecord(run), attribute)


def test_a_result_that_cannot_be_read_is_an_error_of_the_run(run):
    (run / "result.json").write_text("{")
    assert RunRecord(run).error == "result.json cannot be read"
    (run / "result.json").write_text('{"accuracy": 0.5}')
    assert RunRecord(run).error is None


def test_runs_below_a_directory_are_found_in_order_and_checkpoints_are_not_searched(tmp_path):
    for name in ("b/.hydra", "a/x/.hydra", "a/x/checkpoints/deep/.hydra", ".hidden/.hydra"):
        (tmp_path / name).mkdir(parents=True)
    found = [str(record.path.relative_to(tmp_path)) for record in RunRecord.below(tmp_path)]
    assert found == ["a/x", "b"]
