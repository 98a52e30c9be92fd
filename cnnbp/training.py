"""From a config to the objects that train, and from a trained run to its result."""

import platform
import warnings
from importlib.metadata import version
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import LightningDataModule, LightningModule, Trainer, seed_everything

from cnnbp.callbacks.speed import Speed
from cnnbp.memory import keep_freed_memory

# Lightning's own calls, of which a user can change nothing
warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")

PACKAGES = ("cnnbp", "torch", "torchvision", "pytorch-lightning", "hydra-core", "torchmetrics", "tensorboard", "numpy")


def build(config: DictConfig) -> tuple[LightningDataModule, LightningModule, Trainer]:
    """Seed, then instantiate the data, the model and the trainer."""
    keep_freed_memory()
    seed_everything(config.seed, verbose=False)
    return (
        instantiate(config.data),
        instantiate(config.model),
        instantiate(
            config.trainer,
            callbacks=list(instantiate(config.callbacks).values()),
            logger=list(instantiate(config.logger).values()),
        ),
    )


def summarise(trainer: Trainer, validation: dict[str, Any], seed: int) -> dict[str, Any]:
    """Collect what `result.json` holds; accuracies are shares, losses mean negative log-likelihoods.

    Args:
        validation: the metrics that were logged at the end of training.
    """
    tested = trainer.callback_metrics
    names = {"accuracy/test": "accuracy", "loss/test": "loss", "accuracy/val": "val_accuracy", "loss/val": "val_loss"}
    metrics = {**validation, **tested}
    speed = next((callback.total for callback in trainer.callbacks if isinstance(callback, Speed)), None)
    result = {name: metrics[key].item() for key, name in names.items() if key in metrics}
    result |= {"epochs": trainer.current_epoch, "steps": trainer.global_step}
    if speed:
        result |= {"train_seconds": speed["seconds"], "samples_per_second": speed["samples"] / speed["seconds"]}
    network = trainer.lightning_module.network
    return result | {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "seed": seed,
        "versions": {"python": platform.python_version()} | {package: version(package) for package in PACKAGES},
    }
