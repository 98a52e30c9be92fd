"""What Hydra's own errors mean, raised by Hydra itself: its prose may change with its version."""

import re
from importlib.metadata import version

import hydra
import omegaconf
import pytest
from paths import ROOT

from cnnbp.config.compose import compose
from cnnbp.config.hydra_errors import explain


def test_the_prose_is_read_of_the_pinned_versions():
    constraints = (ROOT / "constraints.txt").read_text()
    for package, module in (("hydra-core", hydra), ("omegaconf", omegaconf)):
        assert f"\n{package}=={version(package)}\n" in constraints
        assert module.__version__ == version(package)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("optimizer=foo", r"optimizer=foo: no such choice; choose adam, adamw, .*"),
        ("hydra/launcher=submitit_foo", r"hydra/launcher=submitit_foo: no such choice; .*"),
        ("optimiser=adam", r"optimiser=adam: no such key; choose data, .* or a group that .*"),
        ("optimizer.lrr=1", r"optimizer\.lrr=1: no such key; choose lr, .* as \+optimizer\.lrr=1"),
        ("seed.x=1", r"seed\.x=1: no such key; .*"),
        ("data={a: 1}", r"data=\{a: ?1\}: no such key; choose dataset, .*, augment"),
        ("optimizer.lr={a:1", r"optimizer\.lr={a:1: is not KEY=VALUE .*'optimizer\.lr=\"{a:1\"'"),
        ("=", r"Could not override ''\. No match in the defaults list\. .*"),
        ("optimizer=null", r"Config group override must be .*; give a choice, as in .*"),
        ("~optimizer=[1]", r"~optimizer=\[1\]: must be a choice, as in .*"),
        ("+trainer=[1]", r"A list of choices holds texts alone; give a choice, as in .*"),
        ("name=a/b", r"name=a/b: must be a file name of at most 200 bytes"),
        ("seed=${foo}", r"Interpolation key 'foo' not found.*"),
        ("~nothing", r"Could not delete from config\. 'nothing' does not exist\."),
    ],
)
def test_an_error_of_hydra_becomes_one_line(override, line):
    with pytest.raises(Exception) as error:  # noqa: PT011  each of another class
        # the directory of a run is only composed where it is asked for
        assert compose([override]).run_dir
    assert re.fullmatch(line, explain(error.value))


def test_a_missing_launcher_names_its_extra():
    from hydra.errors import MissingConfigException

    error = MissingConfigException("no", "hydra/launcher/ray", ["basic", "joblib"])
    assert explain(error) == "launcher=ray: is not installed; pip install 'cnnbp[ray]'"
