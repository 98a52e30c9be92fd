"""What a network, a model and metrics are told of the data set: channels, pixels, classes."""

import inspect

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict

from cnnbp.config.own_arguments import OF_THE_DATA_SET
from cnnbp.data.datasets import DataSet


def with_facts(model: DictConfig, dataset: DataSet) -> DictConfig:
    """Give a model, its network and metrics the facts of the data set that their classes ask for.

    Arguments that are called as in `OF_THE_DATA_SET` ask for them, where the config does not set
    them.

    Returns:
        A copy of the model's config.
    """
    model = model.copy()
    if "metrics" in model:
        # a copy of what it refers to
        model.metrics = OmegaConf.to_container(model.metrics, resolve=True)
    metrics = (model.get("metrics") or {}).values()
    for part in (model, model.get("network"), *metrics):
        if not isinstance(part, DictConfig) or "_target_" not in part:
            continue
        asked = _argument_names(part["_target_"])
        with open_dict(part):
            for name, fact in OF_THE_DATA_SET.items():
                if name in asked and name not in part:
                    part[name] = getattr(dataset, fact)
    return model


def _argument_names(target: str) -> set[str]:
    """The names of a class's arguments; none where they are not known."""
    try:
        return set(inspect.signature(get_object(target)).parameters)
    except Exception:
        # what is wrong is told when the part is built
        return set()
