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


# the published recipe, and the documented ones
VALUES = {
    "baseline": {
        "data.batch_size": 128,
        "dropout.rates": [0.05, 0.1, 0.1, 0.1],
        "optimizer._target_": "torch.optim.SGD",
        "optimizer.lr": 0.01,
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 0,
        "scheduler": {},
        "augment": {},
        "callbacks.average": None,
        "model.label_smoothing": 0,
        "model.network.widths": [32, 24, 16, 24, 16],
        "trainer.max_epochs": 20,
    },
    "fast": {
        "data.batch_size": 64,
        "dropout.rates": [0, 0, 0, 0],
        "optimizer._target_": "cnnbp.training.muon.Muon",
        "optimizer.lr": 0.02,
        "optimizer.momentum": 0.95,
        "optimizer.weight_decay": 0.01,
        "scheduler._target_": "cnnbp.training.schedules.one_cycle",
        "scheduler.warmup": 0.3,
        "callbacks.average.decay": 0.99,
        "model.label_smoothing": 0.1,
        "augment.degrees": 5,
        "augment.shift": 1,
        "augment.scale": 0.05,
        "augment.shear": 0,
        "augment.elastic": 0,
        "augment.erase": 0,
        "trainer.max_epochs": 2,
    },
    "best": {
        "data.batch_size": 128,
        "dropout.rates": [0, 0, 0, 0],
        "optimizer._target_": "cnnbp.training.muon.Muon",
        "optimizer.lr": 0.02,
        "optimizer.momentum": 0.95,
        "optimizer.weight_decay": 0.01,
        "scheduler._target_": "cnnbp.training.schedules.one_cycle",
        "scheduler.warmup": 0.3,
        "callbacks.average.decay": 0.99,
        "model.label_smoothing": 0,
        "augment.degrees": 10,
        "augment.shift": 1,
        "augment.scale": 0.1,
        "augment.shear": 5,
        "augment.elastic": 0.7,
        "augment.smoothness": 4,
        "augment.erase": 0,
        "trainer.max_epochs": 20,
    },
}


@pytest.mark.parametrize("recipe", VALUES)
def test_a_recipe_has_its_published_values(recipe):
    config = compose([f"experiment={recipe}"])
    found = {key: OmegaConf.select(config, key) for key in VALUES[recipe]}
    assert found == VALUES[recipe]
    # on all training images
    assert (config.seed, config.data.dataset, config.data.val_size) == (1, "MNIST", 0)
