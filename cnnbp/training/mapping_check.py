"""Whether torch can map a training over several networks, and how many fit into the memory."""

import copy
import os
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from cnnbp.data.datamodule import DataModule
from cnnbp.training.classifier import Classifier
from cnnbp.training.mapped_step import MappedStep
from cnnbp.training.step import TrainingStep

# of the free memory
USED_SHARE = 0.8
# a step's memory, as a multiple of what autograd keeps of the forward pass: gradients of the
# activations, and copies in other layouts
TIMES_KEPT = 3


def why_not_mapped(data: Any, model: Any, trainer: Trainer) -> str:
    """Why the steps of several such trainings cannot be taken as one; "" where they can.

    A step of two copies of the network is tried on the CPU.
    """
    if not isinstance(model, Classifier) or not isinstance(data, DataModule):
        return "a model or data of one's own class is trained by its own step"
    reason = model.needs_lightning(trainer)
    if reason:
        return f"{reason} needs Lightning's own calls"
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        return "loss scaling (trainer.precision=16-mixed) has no mapped form"
    if model.by_hand:
        return "back-propagation by hand (model.backprop=by_hand) has no mapped form"
    try:
        steps = [_trial_step(data, model), _trial_step(data, model)]
        images, labels = _first_images(data)
        MappedStep(steps)(torch.stack([images, images]), torch.stack([labels, labels]))
    except Exception as error:  # torch raises errors of many kinds here
        first = str(error).split(". ")[0].split("\n")[0]
        return f"torch cannot map this network over several ({first})"
    return ""


def most_members(data: DataModule, model: Classifier, trainer: Trainer) -> int:
    """How many trainings fit into the free memory side by side, at least 1."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    step = _trial_step(data, model)
    images, labels = _first_images(data)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step.forward(images, labels)
    member = TIMES_KEPT * sum(kept.values()) * data.batch_size / len(images)
    return max(1, int(USED_SHARE * _free_bytes(trainer.strategy.root_device) / member))


def _trial_step(data: DataModule, model: Classifier) -> TrainingStep:
    network = copy.deepcopy(model.network).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    return TrainingStep(network, optimizer, data.as_pixels, data.normalise)


def _first_images(data: DataModule) -> tuple[Tensor, Tensor]:
    data.setup("fit")
    images, labels = data.splits["train"]
    return images[:2], labels[:2]


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on every system
        return float("inf")
