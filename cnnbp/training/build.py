"""From a config to the objects that train, and from a trained run to its result."""

import logging
import os
import platform
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from torch import Tensor

from cnnbp.errors import UserError
from cnnbp.runs.checkpoint_file import load
from cnnbp.training.callbacks.divergence import Finite
from cnnbp.training.callbacks.throughput import Speed
from cnnbp.training.memory import keep_freed_memory

# what Lightning says of its own calls and of the machine, of which a user can change nothing
logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
logging.getLogger("pytorch_lightning.accelerators.cuda").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
warnings.filterwarnings("ignore", message=".*all_gather is deprecated.*")
warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # the metrics have done it
warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")

PACKAGES = (
    "cnnbp",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "hydra-core",
    "torchmetrics",
    "tensorboard",
    "numpy",
)


def build(
    config: DictConfig, rolled_back: int = 0
) -> tuple[LightningDataModule, LightningModule, Trainer]:
    """Seed, then instantiate the data, the model and the trainer.

    Args:
        rolled_back: how often this training has diverged and gone back, which lowers the learning rate.
    """
    check_devices(config.trainer.accelerator, config.trainer.devices)
    if config.trainer.get("sync_batchnorm") and (
        config.trainer.accelerator == "cpu" or not torch.cuda.is_available()
    ):
        raise UserError(
            "trainer.sync_batchnorm=true: torch synchronises BatchNorm on GPUs alone; leave it out"
        )
    keep_freed_memory()
    seed_everything(config.seed, verbose=False)
    data, model = instantiate(config.data), instantiate(config.model)
    callbacks = [callback for callback in instantiate(config.callbacks).values() if callback]
    for callback in callbacks:
        if isinstance(callback, Finite):
            callback.rolled_back = rolled_back
    trainer = instantiate(
        config.trainer,
        precision=resolve_precision(config.trainer),
        callbacks=callbacks,
        logger=[logger for logger in instantiate(config.logger).values() if logger],
    )
    return data, model, trainer


def fit(
    data: LightningDataModule,
    model: LightningModule,
    trainer: Trainer,
    checkpoint: str | Path | None,
) -> dict[str, Tensor]:
    """Train, on from a checkpoint where there is one; return the metrics at the end."""
    trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
    if (
        "loss/train" not in trainer.callback_metrics
    ):  # killed after its last epoch, before its result was stored
        model.load_state_dict(
            load(checkpoint)["state_dict"]
        )  # where weights are averaged, the averages
        if data.val_size:
            trainer.validate(model, data, verbose=False)
    return dict(trainer.callback_metrics)


def check_devices(accelerator: str, devices: int) -> None:
    """Raise a UserError when this machine has no such device, or not so many (on the CPU, cores)."""
    on_gpu = accelerator != "cpu" and torch.accelerator.is_available()
    if accelerator == "gpu" and not on_gpu:
        raise UserError(
            "trainer.accelerator=gpu: torch finds no GPU here; give trainer=auto or trainer=cpu"
        )
    most, what = (
        (torch.accelerator.device_count(), "GPUs")
        if on_gpu
        else (os.cpu_count(), "processor cores")
    )
    if devices > most:
        raise UserError(
            f"trainer.devices={devices}: must be at most {most}, the {what} of this machine"
        )


def resolve_precision(trainer: DictConfig) -> str:
    """Choose for "auto": bfloat16 autocast where the processor computes it natively, elsewhere float32."""
    if trainer.precision != "auto":
        return trainer.precision
    if trainer.accelerator != "cpu" and torch.accelerator.is_available():
        native = torch.cuda.is_available() and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
    else:
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return "bf16-mixed" if native else "32-true"


def summarise(trainer: Trainer, validation: dict[str, Any], seed: int) -> dict[str, Any]:
    """Collect what `result.json` holds; accuracies are shares, losses mean negative log-likelihoods.

    Args:
        validation: the metrics that were logged at the end of training.
    """
    tested = trainer.callback_metrics
    names = {
        "accuracy/test": "accuracy",
        "loss/test": "loss",
        "accuracy/val": "val_accuracy",
        "loss/val": "val_loss",
    }
    metrics = {**validation, **tested}
    speed = next(
        (callback.total for callback in trainer.callbacks if isinstance(callback, Speed)), None
    )
    result = {name: metrics[key].item() for key, name in names.items() if key in metrics}
    result |= {"epochs": trainer.current_epoch, "steps": trainer.global_step}
    if speed:
        result |= {
            "train_seconds": speed["seconds"],
            "samples_per_second": speed["samples"] / speed["seconds"],
        }
    network = trainer.lightning_module.network
    return result | {
        "precision": trainer.precision,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "seed": seed,
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
    }
