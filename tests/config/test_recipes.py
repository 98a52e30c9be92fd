"""The variants of the ablation, each against the recipe that it varies."""

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from paths import ROOT

from cnnbp.config.compose import compose

VARIANTS = sorted(file.stem for file in (ROOT / "conf" / "ablation").glob("*.yaml"))


def composed(*overrides):
    return compose(["experiment=fast", "name=any", "run_dir=any", *overrides])


def plain(config):
    node = OmegaConf.to_container(config)
    node["callbacks"].pop("board")  # names the choices
    return node


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_is_a_network_of_its_own_kind(variant):
    config = composed(f"ablation={variant}")
    assert (plain(config) == plain(composed())) == (variant == "reference")
    assert instantiate(config.model.network)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("recipe", ["baseline", "best", "fast"])
def test_recipes_train_the_published_network(recipe):
    network = instantiate(composed(f"experiment={recipe}").model.network)
    assert sum(parameter.numel() for parameter in network.parameters()) == 19_866


@pytest.mark.parametrize("recipe", ["best", "fast"])
def test_any_part_of_a_recipe_can_be_left_out(recipe):
    config = composed(
        f"experiment={recipe}", "augment=none", "average=none", "scheduler=none", "optimizer=sgd"
    )
    assert config.augment == {}
    assert config.scheduler == {}
    assert "average" not in config.callbacks
