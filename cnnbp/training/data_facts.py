"""What a network and a model are told of the data set: channels, pixels, classes."""

import inspect

from hydra.utils import get_object
from omegaconf import DictConfig, open_dict

from cnnbp.data.datasets import DataSet


def with_facts(model: DictConfig, dataset: DataSet) -> DictConfig:
    """Give a model and its network the facts of the data set that their classes ask for.

    Arguments that are called `channels`, `image_size` and `classes` ask for them, where the config
    does not set them.

    Returns:
        A copy of the model's config.
    """
    facts = {
        "channels": dataset.channels,
        "image_size": dataset.image_size,
        "classes": dataset.classes,
    }
    model = model.copy()
    for part in (model, model.get("network")):
        if not isinstance(part, DictConfig) or "_target_" not in part:
            continue
        asked = _argument_names(part["_target_"])
        with open_dict(part):
            for name, value in facts.items():
                if name in asked and name not in part:
                    part[name] = value
    return model


def _argument_names(target: str) -> set[str]:
    """The names of a class's arguments; none where they are not known."""
    try:
        return set(inspect.signature(get_object(target)).parameters)
    except Exception:
        # what is wrong is told when the part is built
        return set()
