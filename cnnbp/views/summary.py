"""The table of layers of the network that overrides describe."""

from collections.abc import Sequence

import torch
from hydra.utils import instantiate

from cnnbp.config.compose import compose
from cnnbp.model.layer_table import measure, table


def print_summary(overrides: Sequence[str], wide: bool = False) -> None:
    """Print the layers as they are seen in a forward pass.

    Args:
        overrides: of the config, such as `dropout=none`.
        wide: add receptive field, jump and multiply-accumulates.
    """
    config = compose(list(overrides))
    image = torch.zeros(1, 1, 28, 28)
    print(table(measure(instantiate(config.model.network), image), wide=wide))
