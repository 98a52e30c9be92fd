"""Wrong overrides, generated over the whole config tree: one line, or a run that works."""

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from launch import TWO_STEPS
from omegaconf import OmegaConf

from cnnbp.config.compose import compose
from cnnbp.config.options import TrainerOptions

BASE = (*TWO_STEPS, "name=run")
VALUES = (
    *(
        "null",
        "''",
        "abc",
        "-1",
        "0",
        "1",
        "0.5",
        "1e999",
        "nan",
        "true",
        "[]",
        "[1,a]",
        "{a:1}",
        "${nope}",
        "10e10",
    ),
    *("a/../b", "ü", "'x y'", "'\"'", "???"),
)
# right values here, but for long runs
LONG = {f"trainer.limit_{stage}_batches=0.5" for stage in ("train", "val", "test")}
LONG |= {f"~trainer.limit_{stage}_batches" for stage in ("train", "val", "test")} | {
    "~trainer.max_epochs"
}


def keys(node, prefix=""):
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")


CONFIG = OmegaConf.to_container(compose(["hydra/job_logging=none"]))
# fast_dev_run leaves no result
KEYS = sorted(
    {*keys(CONFIG), *(f"trainer.{key}" for key in TrainerOptions.__annotations__)}
    - {"trainer.fast_dev_run"}
)
OVERRIDES = st.one_of(
    st.builds("{}={}".format, st.sampled_from(KEYS), st.sampled_from(VALUES)),
    st.builds("~{}".format, st.sampled_from(KEYS)),
    st.builds("~{}={}".format, st.sampled_from(KEYS), st.sampled_from(VALUES)),
    st.builds("+{}.new={}".format, st.sampled_from(KEYS), st.sampled_from(VALUES)),
    st.builds("++{}={}".format, st.sampled_from(KEYS), st.sampled_from(VALUES)),
    st.text("ab=.~+-${}[]'\",: \\\n\0/ü", max_size=12),
).filter(lambda override: override not in LONG)


def check(train, capfd, overrides):
    shutil.rmtree("outputs", ignore_errors=True)
    code = 0
    try:
        train(*BASE, *overrides)
    except SystemExit as exit:
        code = exit.code
    out, err = capfd.readouterr()
    if code == 0:
        assert list(Path().glob("**/result.json"))
        return
    message = (code if isinstance(code, str) else err).strip()
    assert message, code
    assert len(message.splitlines()) == 1
    assert "Traceback" not in out + err
    assert not [path for path in Path().glob("outputs/*") if path.is_dir()]


WRONG = given(overrides=st.lists(OVERRIDES, min_size=1, max_size=2))
OPTIONS = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


@settings(max_examples=15, **OPTIONS)
@WRONG
def test_a_wrong_override_is_one_line_or_a_valid_run(train, capfd, overrides):
    check(train, capfd, overrides)


@pytest.mark.slow
@settings(max_examples=300, **OPTIONS)
@WRONG
def test_many_wrong_overrides(train, capfd, overrides):
    check(train, capfd, overrides)
