"""A trained network applied to images, in the precision of its run."""

from contextlib import nullcontext
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from cnnbp.data.datamodule import DataModule
from cnnbp.training.build import resolve_precision
from cnnbp.training.classifier import Classifier

DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@torch.no_grad()
def compute_logits(
    config: DictConfig, data: DataModule, model: Classifier, images: Tensor
) -> Tensor:
    """Apply a model in evaluation mode, batch by batch, as training evaluates it.

    Args:
        images: (N, H, W) or (N, C, H, W), uint8.

    Returns:
        Logits (N, K), float32, on the CPU.
    """
    device = _device(config)
    model = model.to(device).eval()
    logits = []
    with _precision(config, device):
        for batch in images.split(data.eval_batch_size):
            logits.append(model(data.prepare(batch.to(device))).float().cpu())
    return torch.cat(logits)


def test_logits(config: DictConfig, data: DataModule, model: Classifier) -> tuple[Tensor, Tensor]:
    """The logits (N, K) and the labels (N,) of all test images."""
    data.setup("test")
    images, labels = data.splits["test"]
    return compute_logits(config, data, model, images), labels


def _device(config: DictConfig) -> torch.device:
    """Where the run was trained, if this machine has such a device."""
    # the run may have been trained on another machine
    if config.trainer.accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda")


def _precision(config: DictConfig, device: torch.device) -> Any:
    dtype = DTYPES.get(resolve_precision(config.trainer))
    if dtype is None:
        return nullcontext()
    return torch.autocast(device.type, dtype)
