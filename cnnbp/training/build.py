"""From a config to the objects that train, and from a trained run to its result."""

import copy
import logging
import os
import platform
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning import (
    Callback,
    LightningDataModule,
    LightningModule,
    Trainer,
    seed_everything,
)
from torch import Tensor

from cnnbp.data.datamodule import DataModule
from cnnbp.errors import UserError
from cnnbp.runs.checkpoint_file import load
from cnnbp.runs.run_directory import RunDirectory
from cnnbp.training.callbacks.throughput import Speed
from cnnbp.training.classifier import Classifier
from cnnbp.training.data_facts import with_facts
from cnnbp.training.epoch_sums import MEANS
from cnnbp.training.memory import keep_freed_memory
from cnnbp.training.network_check import check_network
from cnnbp.training.stage_metrics import lower_is_better
from cnnbp.training.trackers import make_loggers, tracked

# what Lightning says of its own calls and of the machine, of which a user can change nothing
logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
logging.getLogger("pytorch_lightning.accelerators.cuda").setLevel(logging.WARNING)
# what Hydra says of a part that is not found stands in its error too, which is told in one line
logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
warnings.filterwarnings("ignore", message=".*all_gather is deprecated.*")
# Lightning's own summary, for who asks for it
warnings.filterwarnings("ignore", message="Precision .* is not supported by the model summary")
# a run of one process needs no srun, and submitit's jobs are started by it
warnings.filterwarnings("ignore", message="The `srun` command is available")
# the metrics have done it
warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
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
# the stages of the metrics at the end, and how their names begin in result.json
RESULT_STAGES = {"test": "", "val": "val_"}


class Parts(NamedTuple):
    """What trains a network."""

    data: LightningDataModule
    model: LightningModule
    trainer: Trainer


def build(config: DictConfig) -> Parts:
    """Seed, then instantiate the data, the model and the trainer.

    Raises:
        UserError: this machine lacks what the config asks for.
    """
    # Hydra resolves in place what a part refers to, and the config is stored as it was composed
    config = copy.deepcopy(config)
    check_devices(config.trainer.accelerator, config.trainer.devices)
    if config.trainer.get("sync_batchnorm") and not _trains_on_cuda(config.trainer):
        raise UserError(
            "trainer.sync_batchnorm=true: torch synchronises BatchNorm on GPUs alone; leave it out"
        )
    keep_freed_memory()
    seed_everything(config.seed, verbose=False)
    precision = resolve_precision(config.trainer)
    model_config, trainer_config = config.model, config.trainer.copy()
    own = take_step_options(trainer_config)
    if precision == "16-mixed":
        model_config = unfused(model_config)
    data = instantiate(config.data)
    _check_kind("data", data, DataModule)
    # its mistakes are told before the run directory is written
    data.setup("fit")
    model = instantiate(with_facts(model_config, data.dataset))
    _check_kind("model", model, LightningModule)
    if isinstance(model, Classifier):
        check_network(model.network, data)
        model.accumulate, model.graph = own.accumulate, own.graph
        model.clip, model.clip_by = own.clip, own.clip_by
    if own.overfit_batches is not None:
        trainer_config.limit_train_batches = own.overfit_batches
        data.repeat_first_epoch = True
    trainer = instantiate(
        trainer_config,
        precision=precision,
        callbacks=_make_callbacks(config.callbacks),
        logger=make_loggers(config),
    )
    return Parts(data, model, trainer)


def _make_callbacks(group: DictConfig) -> list[Callback]:
    callbacks = []
    for name, callback in instantiate(group).items():
        # null leaves one out
        if callback is not None:
            _check_kind(f"callbacks.{name}", callback, Callback)
            callbacks.append(callback)
    return callbacks


def _check_kind(place: str, part: Any, kind: type) -> None:
    """Raise a UserError where a part is of another class than training can use."""
    if not isinstance(part, kind):
        own = type(part).__name__
        raise UserError(f"{place}: is a {own}; must be a {kind.__module__}.{kind.__name__}")


class StepOptions(NamedTuple):
    """Options of the Trainer that Lightning leaves to a module with manual optimization."""

    accumulate: int
    clip: float | None
    clip_by: str
    graph: bool | str
    overfit_batches: int | float | None


def take_step_options(trainer: DictConfig) -> StepOptions:
    """Take the options of the step out of the Trainer's."""
    with open_dict(trainer):
        return StepOptions(
            accumulate=trainer.pop("accumulate_grad_batches", 1),
            clip=trainer.pop("gradient_clip_val", None),
            clip_by=trainer.pop("gradient_clip_algorithm", None) or "norm",
            graph=trainer.pop("graph", "auto"),
            # Lightning would also cut the test set
            overfit_batches=trainer.pop("overfit_batches", None),
        )


def unfused(model: DictConfig) -> DictConfig:
    """The model with an optimizer that leaves loss scaling to us or to Lightning.

    torch's fused SGD begins with a momentum of any values when its first gradients overflow, and
    Lightning clips no gradients of a fused optimizer.
    """
    model = OmegaConf.create(OmegaConf.to_container(model, resolve=True))
    if "fused" in model.optimizer:
        model.optimizer.fused = False
    return model


def _trains_on_cuda(trainer: DictConfig) -> bool:
    return trainer.accelerator != "cpu" and torch.cuda.is_available()


def fit(
    data: LightningDataModule,
    model: LightningModule,
    trainer: Trainer,
    checkpoint: str | Path | None,
) -> dict[str, Tensor]:
    """Train, on from a checkpoint where there is one; return the metrics at the end."""
    trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
    # a run that was killed after its last epoch, before its result was stored, has nothing to train
    if checkpoint is not None and "loss/train" not in trainer.callback_metrics:
        # the averages, where weights are averaged
        model.load_state_dict(load(checkpoint)["state_dict"])
        if data.epoch_stage == "val":
            trainer.validate(model, data, verbose=False)
    return dict(trainer.callback_metrics)


def fit_and_test(
    config: DictConfig,
    run: RunDirectory,
    parts: Parts,
    checkpoint: Path | None,
) -> None:
    """Train, test and store the result; a trial of the program (`fast_dev_run`) has none."""
    data, model, trainer = parts
    with tracked(trainer, run, config.hyperparameters):
        validation = fit(data, model, trainer, checkpoint)
        trainer.test(model, data, verbose=False)
    if not config.trainer.get("fast_dev_run"):
        run.finish(summarise(trainer, validation, config.seed))


def check_devices(accelerator: str, devices: int) -> None:
    """Raise a UserError when this machine has no such device, or not so many.

    On the CPU there may be as many processes as cores.
    """
    on_gpu = accelerator != "cpu" and torch.accelerator.is_available()
    if accelerator == "gpu" and not on_gpu:
        raise UserError(
            "trainer.accelerator=gpu: torch finds no GPU here; give trainer=auto or trainer=cpu"
        )
    if on_gpu:
        most, what = torch.accelerator.device_count(), "GPUs"
    else:
        most, what = os.cpu_count() or 1, "processor cores"
    if devices > most:
        raise UserError(
            f"trainer.devices={devices}: must be at most {most}, the {what} of this machine"
        )


def resolve_precision(trainer: DictConfig) -> str:
    """Choose for "auto": bfloat16 autocast where the device computes it natively, else float32."""
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
    """Collect what `result.json` holds: accuracies are shares, losses those of the config.

    Args:
        validation: the metrics that were logged at the end of training.
    """
    metrics = {**validation, **trainer.callback_metrics}
    result: dict[str, Any] = {}
    measured: Any = trainer.lightning_module.metrics["test_metrics"]
    for stage, prefix in RESULT_STAGES.items():
        for name in (*MEANS, *measured):
            if f"{name}/{stage}" in metrics:
                result[f"{prefix}{name}"] = metrics[f"{name}/{stage}"].item()
    added = lower_is_better(measured)
    if added:
        result["lower_is_better"] = added
    result["epochs"], result["steps"] = trainer.current_epoch, trainer.global_step
    for callback in trainer.callbacks:
        if isinstance(callback, Speed):
            seconds = callback.total["seconds"]
            result["train_seconds"] = seconds
            result["samples_per_second"] = callback.total["samples"] / seconds
    network = trainer.lightning_module.network
    result["precision"] = trainer.precision
    result["parameters"] = sum(parameter.numel() for parameter in network.parameters())
    result["seed"] = seed
    result["versions"] = {"python": platform.python_version()}
    for package in PACKAGES:
        result["versions"][package] = version(package)
    return result
