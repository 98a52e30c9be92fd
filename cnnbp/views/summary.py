"""The table of layers of the network that overrides describe."""

from collections.abc import Sequence

import torch
from hydra.utils import instantiate

from cnnbp.config.compose import compose
from cnnbp.model.layer_table import measure, table
from cnnbp.training.data_facts import with_facts


def print_summary(overrides: Sequence[str], wide: bool = False) -> None:
    """Print the layers as they are seen in a forward pass.

    Args:
        overrides: of the config, such as `dropout=none`.
        wide: add receptive field, jump and multiply-accumulates.
    """
    config = compose(list(overrides))
    dataset = instantiate(config.data).dataset
    network = instantiate(with_facts(config.model, dataset).network)
    layers = measure(network, torch.zeros(1, *dataset.image_shape))
    print(table(layers, wide=wide, image_shape=dataset.image_shape))
