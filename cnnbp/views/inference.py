"""A trained network applied to images, as its run does it: in batches, in the run's precision."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor

from cnnbp.data.datamodule import DataModule
from cnnbp.training.build import resolve_precision
from cnnbp.training.classifier import Classifier
from cnnbp.training.epoch_sums import EpochSums, means

# float32 needs no autocast
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Evaluation(NamedTuple):
    """A network on the test images of its run.

    Attributes:
        loss, accuracy, others: as `result.json` holds them, to the last digit on the same machine.
        images: (N, C, H, W), uint8, on the CPU.
        labels: (N,), whole numbers, on the CPU.
        logits: (N, K), float32, on the CPU.
    """

    loss: float
    accuracy: float
    others: dict[str, float]
    images: Tensor
    labels: Tensor
    logits: Tensor

    @property
    def is_mistaken(self) -> Tensor:
        """Of each image whether its prediction is wrong, (N,)."""
        return self.logits.argmax(1) != self.labels

    @property
    def correct(self) -> int:
        """How many predictions are right."""
        return int((~self.is_mistaken).sum())


def evaluate_test_set(config: DictConfig, data: DataModule, model: Classifier) -> Evaluation:
    """Apply a model to all test images."""
    data.setup("test")
    images, labels = data.splits["test"]
    batches = _logits_of_batches(config, data, model, images)
    all_logits = []
    # as the run sums up: another way would round otherwise
    sums = EpochSums(_device(config))
    metrics: Any = model.metrics["test_metrics"]
    metrics.reset()
    for logits, own_labels in zip(batches, labels.split(data.eval_batch_size), strict=True):
        own_labels = own_labels.to(logits.device)
        sums.add_to_sums(model.evaluation_loss(logits, own_labels), logits, own_labels)
        metrics.update(logits, own_labels)
        all_logits.append(logits.cpu())
    values = means(sums.sums(), torch.tensor(len(labels))) | metrics.compute()
    values = {name: value.item() for name, value in values.items()}
    return Evaluation(
        loss=values.pop("loss"),
        accuracy=values.pop("accuracy"),
        others=values,
        images=data.as_pixels(images, torch.uint8).cpu(),
        labels=labels.cpu(),
        logits=torch.cat(all_logits),
    )


def compute_logits(
    config: DictConfig, data: DataModule, model: Classifier, images: Tensor
) -> Tensor:
    """Apply a model to images (N, H, W) or (N, C, H, W), uint8.

    Returns:
        Logits (N, K), float32, on the CPU.
    """
    return torch.cat([logits.cpu() for logits in _logits_of_batches(config, data, model, images)])


def _logits_of_batches(
    config: DictConfig, data: DataModule, model: Classifier, images: Tensor
) -> Iterator[Tensor]:
    """The logits of one batch after the other, float32, on the device."""
    device = _device(config)
    model = model.to(device).eval()
    for batch in images.split(data.eval_batch_size):
        with torch.no_grad(), _precision(config, device):
            logits = model(data.prepare(batch.to(device)))
        yield logits.float()


def _device(config: DictConfig) -> torch.device:
    """The kind of device that the run was trained on, if this machine has one."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if config.trainer.accelerator == "cpu" or accelerator is None:
        return torch.device("cpu")
    return accelerator


def _precision(config: DictConfig, device: torch.device) -> AbstractContextManager:
    dtype = AUTOCAST.get(resolve_precision(config.trainer))
    if dtype is None:
        return nullcontext()
    return torch.autocast(device.type, dtype)
