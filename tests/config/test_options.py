"""The checks of a config.

Every option has one definition, and an error names key, value and reason.
"""

import inspect
import re
import subprocess
import sys

import pytest
import torch
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from paths import ROOT
from pytorch_lightning import Trainer

from cnnbp.config.check import REFUSED_TRAINER_KEYS, check_arguments, validate
from cnnbp.config.compose import compose
from cnnbp.config.option_table import print_options
from cnnbp.config.options import PARTS, DataOptions, NetworkOptions, TrainerOptions, check
from cnnbp.errors import UserError


class OwnNetwork(torch.nn.Linear):
    """A network of somebody else, without options."""

    def __init__(self):
        super().__init__(784, 10)


# what train.py composes, with each choice of each group
GROUPS = (
    *("data", "augment", "model", "dropout", "optimizer", "scheduler", "loss", "metrics"),
    *("average", "logger"),
)
CHOICES = []
for group in GROUPS:
    for file in sorted((ROOT / "conf" / group).glob("*.yaml")):
        CHOICES.append(f"{group}={file.stem}")
# what a model of one's own begins with, which lacks a network
CHOICES.remove("model=classifier")


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_is_valid(choice):
    # these have no data set of their own
    needs = ["data.root=mine"] if choice in ("data=folder", "data=npz") else []
    compose([choice, *needs])


@pytest.mark.parametrize("target", PARTS)
def test_a_definition_names_what_its_class_takes(target):
    options = set(PARTS[target].__annotations__) - {"_partial_"}
    parameters = inspect.signature(get_object(target)).parameters
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values()):
        return  # the class passes other options on
    if target == "pytorch_lightning.Trainer":
        options -= {"graph"}  # taken out before the Trainer is built
    assert options <= set(parameters)


def test_every_argument_of_the_trainer_is_known():
    ours = {"callbacks", "logger"}  # groups of their own
    refused = set(REFUSED_TRAINER_KEYS)
    options = set(TrainerOptions.__annotations__) - {"graph"}
    assert options | refused | ours == set(inspect.signature(Trainer).parameters)
    assert not options & refused


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_every_argument_of_an_optimizer_is_known(name):
    known = set(PARTS[f"torch.optim.{name}"].__annotations__) - {"_partial_"}
    # AdamW's weight decay is decoupled, Adam has an argument for it
    taken = set(inspect.signature(getattr(torch.optim, name)).parameters)
    assert taken - known <= {"params", "decoupled_weight_decay"}


def test_every_value_of_the_default_config_has_a_definition():
    config = compose([])
    undefined = []

    def walk(node, place):
        options = PARTS.get(node.get("_target_", ""))
        for key, value in node.items():
            if options and not key.startswith("_") and key not in options.__annotations__:
                undefined.append(f"{place}.{key}")
            if isinstance(value, dict):
                walk(value, f"{place}.{key}")

    tree = OmegaConf.to_container(config)
    for group in ("data", "augment", "model", "optimizer", "scheduler", "trainer"):
        walk(tree[group], group)
    assert undefined == []


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 0, float("nan")])
def test_whole_numbers_are_not_mistaken(value):
    with pytest.raises(UserError, match=f"^data.batch_size={value}: must be "):
        check(DataOptions, {"batch_size": value}, "data")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widths": [1, 2, 3]}, r"network.widths=\[1, 2, 3\]: must be a list of at least 5 items"),
        ({"widths": [1, 2, 3, 4, 0]}, "widths=.*: must be greater than or equal to 1 at index 4"),
        ({"dropout": [0, 0, 0, 1]}, "dropout=.*: must be less than 1 at index 3"),
        ({"activation": "foo"}, "activation=foo: must be 'relu', .* or 'tanh'"),
        ({"width": 3}, "network.width: no such key; choose activation, channels, "),
    ],
)
def test_an_error_names_key_value_and_reason(values, message):
    with pytest.raises(UserError, match=message):
        check(NetworkOptions, values, "network")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=-1", "optimizer.lr=-1: must be greater than 0"),
        ("dropout.rates=[0,0,0,2]", "dropout.rates=[0, 0, 0, 2]: must be less than 1 at index 3"),
        ("+optimizer.lr2=1", "optimizer.lr2: no such key; choose dampening, "),
        ("optimizer=[sgd,adam]", "optimizer.momentum: no such key; choose amsgrad, betas, "),
        ("optimizer._target_=torch.optim.Adam", "optimizer.momentum: no such key; choose amsgrad"),
        ("~optimizer._partial_", "optimizer._partial_=None: must be true"),
        ("+augment.foo=1", "augment.foo: no such key; choose degrees, elastic, "),
        ("+trainer.max_steps=5", "trainer.max_steps=5: must be left out; give trainer.max_epochs"),
        ("trainer.max_steps=5", "trainer.max_steps=5: must be left out; give trainer.max_epochs"),
        ("+trainer.foo=1", "trainer.foo: no such key; choose accelerator, "),
        ("trainer.benchmark=5", "trainer.benchmark=5: must be a valid boolean"),
        ("+callbacks.mine={a:1}", "callbacks.mine={'a': 1}: must be null, or a group of keys"),
        ("~scheduler", "scheduler=None: must be {}, or a group of keys with a _target_"),
    ],
)
def test_an_override_that_is_wrong_is_named_as_it_was_given(override, message):
    with pytest.raises(UserError, match=re.escape(message)):
        compose(["augment=affine", override])


def test_options_of_another_class_are_its_own():
    compose(["optimizer=sgd", "optimizer._target_=torch.optim.Rprop", "optimizer.momentum=7"])


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["optimizer._target_=torch.optim.NAdam"], "optimizer.momentum"),
        (["model.network._target_=test_options.OwnNetwork"], "model.network.widths"),
        (["+callbacks.speed.often=true"], "callbacks.speed.often"),
    ],
)
def test_keys_of_a_former_class_are_named_with_a_way_to_replace_it(overrides, key):
    config = compose(overrides)
    place = key.rpartition(".")[0]
    with pytest.raises(UserError, match=f"^{key}: .* takes no such key.*'~{place}' '\\+{place}"):
        check_arguments(config)


def test_a_part_replaced_as_the_line_says_is_built():
    network = ["~model.network", "+model.network._target_=test_options.OwnNetwork"]
    optimizer = ["~optimizer", "+optimizer._target_=torch.optim.NAdam", "+optimizer.lr=0.1"]
    config = compose([*network, *optimizer, "+optimizer._partial_=true"])
    check_arguments(config)
    model = instantiate(config.model)
    assert isinstance(model.network, OwnNetwork)
    assert isinstance(model.make_optimizer(model.network.parameters()), torch.optim.NAdam)


@pytest.mark.parametrize("group", ["callbacks", "logger"])
def test_a_group_can_be_left_out(group):
    assert compose([f"{group}=none"])[group] == {}


def test_a_wrong_value_is_answered_without_torch(tmp_path):
    command = [sys.executable, "-X", "importtime", ROOT / "train.py", "optimizer.lr=-1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("error: optimizer.lr=-1: must be greater than 0\n")
    assert not re.search(r"\b(torch|pytorch_lightning|torchmetrics)\b", done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_definition_gives_the_documentation(capsys):
    print_options("Network")
    out = capsys.readouterr().out
    assert re.search(r"widths +list of 5: integer >= 1 +channels of the five blocks", out)
    assert re.search(r"norm +batch, group, none", out)
    assert re.search(r"dropout +list of 4: number in \[0, 1\) ", out)
    with pytest.raises(UserError, match="options foo: no such part"):
        print_options("foo")


def test_a_valid_config_is_not_changed():
    config = compose([])
    before = OmegaConf.to_container(config)
    validate(config)
    assert OmegaConf.to_container(config) == before
