"""Whether a network takes the images of a data set and tells its classes apart."""

import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnbp.errors import UserError, on_one_line
from cnnbp.model.evaluation_mode import evaluation_mode

# of which some networks would make one vector
BATCH = 2


def check_network(network: nn.Module, data: Any) -> None:
    """Apply a network to two black images, so that a wrong one is found before anything is created.

    Weights, running statistics, modes and random numbers stay as they are.

    Args:
        data: the data module of the run; one without a `dataset` is not checked.

    Raises:
        UserError: the network fails, or gives something else than logits (N, K), or has nothing to
            train.
    """
    dataset = getattr(data, "dataset", None)
    if dataset is None:
        return
    images = torch.zeros(BATCH, *dataset.image_shape, dtype=torch.uint8)
    name = type(network).__name__
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), evaluation_mode(network):
            logits = network(data.prepare(images))
    except Exception as error:  # it is somebody else's code
        raise UserError(
            f"model.network: {name} fails on images {tuple(images.shape)}"
            f"{_place(error)}: {on_one_line(error)}"
        ) from error
    wanted = (BATCH, dataset.classes)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f"model.network: {name} maps images {tuple(images.shape)} to {shape}; "
            f"must be logits {wanted}, one for each class"
        )
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(f"model.network: {name} has no parameter that can be trained")


def _place(error: BaseException) -> str:
    """The line of the file outside of installed packages in which an error was raised."""
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if "site-packages" not in path.parts and path != Path(__file__):
            place = f" ({path.name}, line {frame.lineno})"
    return place
