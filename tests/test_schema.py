import itertools
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from cnnbp.errors import UserError
from cnnbp.schema import RULES, one_of, validate, whole

CONF = Path(__file__).parents[1] / "conf"
# set by the project itself, or passed through to libraries that say themselves what they take
FREE = {
    "trainer.default_root_dir",
    "trainer.use_distributed_sampler",
    "trainer.num_sanity_val_steps",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.log_every_n_steps",
    "trainer.plugins",
}


def leaves(node, key):
    if isinstance(node, dict):
        for name, value in node.items():
            if not name.startswith("_") and name != "defaults":
                yield from leaves(value, f"{key}.{name}")
    elif not str(node).startswith("${"):
        yield key


def test_every_value_of_every_choice_has_a_rule():
    groups = ("data", "augment", "model", "dropout", "optimizer", "scheduler", "trainer")
    files = itertools.chain.from_iterable((CONF / group).glob("*.yaml") for group in groups)
    keys = {key for file in files for key in leaves(yaml.safe_load(file.read_text()), file.parent.name)}
    assert keys - FREE - set(RULES) == set()
    assert {key for key in RULES if key.partition(".")[0] in groups} <= keys


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 0, 11, float("nan")])
def test_whole_numbers_are_not_mistaken(value):
    with pytest.raises(UserError, match="must be a whole number from 1 to 10"):
        whole(1, 10).check("key", value)


def test_choices_are_of_the_same_type():
    assert one_of(1, "a").accepts(1)
    assert not one_of(1, "a").accepts(True)


def test_the_message_names_key_value_and_what_is_allowed():
    with pytest.raises(UserError) as error:
        validate(OmegaConf.create({"optimizer": {"lr": -1}}))
    assert str(error.value) == "optimizer.lr=-1: must be a number above 0"
