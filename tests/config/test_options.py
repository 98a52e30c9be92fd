import itertools

import pytest
import yaml
from paths import ROOT

from cnnbp.cli import _compose
from cnnbp.config.options import RULES, one_of, whole
from cnnbp.errors import UserError

CONF = ROOT / "conf"


def leaves(node, key):
    if isinstance(node, dict):
        for name, value in node.items():
            if not name.startswith("_") and name != "defaults":
                yield from leaves(value, f"{key}.{name}")
    else:
        yield key


def test_every_value_of_every_choice_has_a_rule():
    groups = ("data", "augment", "model", "dropout", "optimizer", "scheduler", "trainer")
    files = itertools.chain.from_iterable((CONF / group).glob("*.yaml") for group in groups)
    keys = {
        key for file in files for key in leaves(yaml.safe_load(file.read_text()), file.parent.name)
    }
    rules = {key for key in RULES if not key.endswith("._partial_")}
    assert keys - rules == {"trainer.plugins"}  # checked with the whole trainer
    assert {key for key in rules if key.partition(".")[0] in groups} - keys == {"model.network"}


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 0, 11, float("nan")])
def test_whole_numbers_are_not_mistaken(value):
    with pytest.raises(UserError, match="must be a whole number from 1 to 10"):
        whole(1, 10).check("key", value)


def test_choices_are_of_the_same_type():
    assert one_of(1, "a").accepts(1)
    assert not one_of(1, "a").accepts(True)


def test_the_message_names_key_value_and_what_is_allowed():
    with pytest.raises(UserError) as error:
        _compose(["optimizer.lr=-1"])
    assert str(error.value) == "optimizer.lr=-1: must be a number above 0"
