"""Overrides as a person types them: names, paths and the Trainer's arguments need no syntax."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from cnnbp.config.command_line import prepare_overrides
from cnnbp.config.compose import compose


def value_for_hydra(override):
    """What Hydra reads, by its own parser."""
    (prepared,) = prepare_overrides([override])
    (parsed,) = OverridesParser.create().parse_overrides([prepared])
    return parsed.value()


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0/\n\r"), min_size=1, max_size=9))
def test_hydra_reads_a_path_that_exists_as_it_was_typed(tmp_path_factory, text):
    if text[0] in "'\"" or not text.strip("."):
        return  # quoted already, and no file
    directory = tmp_path_factory.mktemp("paths")
    path = directory / text
    path.touch()
    assert value_for_hydra(f"ckpt_path={path}") == str(path)


@pytest.mark.parametrize("name", ["x#y", "a=b", "a:b", "it's", 'a"b', "back\\", "50%", "[x", "x,"])
def test_a_name_is_what_was_typed(name):
    assert str(value_for_hydra(f"name={name}")) == name


def test_what_hydra_can_read_stays_hydras():
    for override in ("name=a,b", "name='x y'", "seed=1,2", "optimizer.lr={a: 1}", "~augment"):
        assert prepare_overrides([override]) == [override]


def test_a_path_that_hydra_reads_as_it_stands_is_left_as_it_is(tmp_path, monkeypatch):
    """Overrides name the directories of a sweep's jobs."""
    monkeypatch.chdir(tmp_path)
    for name in ("data", "a,b"):
        Path(name).touch()
    overrides = ["data.root=data", "name=a,b", "data.root=a,b"]
    assert prepare_overrides(overrides) == ["data.root=data", "name=a,b", "data.root='a,b'"]


def test_the_path_of_a_job_needs_no_quotes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = Path("outputs/grid/seed=1,trainer=smoke/checkpoints/last.ckpt")
    job.parent.mkdir(parents=True)
    job.touch()
    assert compose([f"ckpt_path={job}"]).ckpt_path == str(job)


@pytest.mark.parametrize(
    ("override", "prepared"),
    [
        ("trainer.fast_dev_run=true", "++trainer.fast_dev_run=true"),
        ("trainer.max_steps=1", "++trainer.max_steps=1"),  # is refused with a reason
        ("trainer.max_epochs=3", "trainer.max_epochs=3"),
        ("+trainer.profiler=simple", "+trainer.profiler=simple"),
        ("trainer.foo=1", "trainer.foo=1"),
        ("trainer=cpu", "trainer=cpu"),
    ],
)
def test_an_argument_of_the_trainer_needs_no_plus(override, prepared):
    assert prepare_overrides([override]) == [prepared]


def test_a_trainer_argument_reaches_the_config_with_and_without_debug():
    assert compose(["trainer.fast_dev_run=2"]).trainer.fast_dev_run == 2
    assert compose(["debug=fast_dev_run", "trainer.fast_dev_run=2"]).trainer.fast_dev_run == 2
    assert compose(["debug=overfit"]).trainer.overfit_batches == 2
    assert compose(["debug=profile"]).trainer.profiler == "simple"
