"""This project's own training, the bare loop over its parts, and the convolutions alone."""

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.benchmark import Timer

import cnnbp.config.hydra_hooks  # noqa: F401  registers the resolvers of the config
from benchmarks.waiting import Waiting
from cnnbp.training.build import build

CONF = Path(__file__).parents[1] / "conf"
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def objects(
    accelerator: str, directory, overrides
) -> tuple[LightningDataModule, LightningModule, Trainer]:
    """Build what train.py builds, for more epochs than are measured and without evaluation."""
    settings = [
        f"trainer.accelerator={accelerator}",
        "trainer.max_epochs=1000",
        "trainer.limit_val_batches=0",
    ]
    return build(compose_run(directory, [*settings, *overrides]))


def compose_run(directory: str | Path, overrides: Sequence[str]) -> DictConfig:
    """Compose the config of a run in a directory, and leave its record there."""
    settings = [f"run_dir={directory}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [*settings, *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    records = Path(directory) / ".hydra"
    records.mkdir(parents=True)
    OmegaConf.save(config, records / "config.yaml")
    return config


def run(gate, directory, overrides) -> None:
    """Fit for as long as the gate lets steps through."""
    data, model, trainer = objects(gate.accelerator, directory, overrides)
    gate.facts["form"] = trainer.precision
    trainer.callbacks.append(Waiting(gate))
    trainer.fit(model, data)


def bare(gate, directory, overrides) -> None:
    """Take steps on one resident batch without Trainer, data or logging."""
    data, model, trainer = objects(gate.accelerator, directory, overrides)
    gate.facts["form"] = trainer.precision
    images, labels = resident_batch(data, gate.device)
    network = model.network.to(gate.device).train()
    optimizer = model.make_optimizer(network.parameters())
    while True:
        gate.step()
        with trainer.precision_plugin.train_step_context():
            loss = F.cross_entropy(network(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def floor(gate, directory, overrides) -> None:
    """Run the convolutions alone, in the fastest of the memory formats and precisions."""
    data, model, trainer = objects(gate.accelerator, directory, overrides)
    images, _ = resident_batch(data, gate.device)
    precisions = {
        "32-true": nullcontext,
        trainer.precision: trainer.precision_plugin.train_step_context,
    }
    forms = {
        f"{precision} {name}": convolutions(
            copy.deepcopy(model.network).to(gate.device, memory_format=layout).train(),
            images,
            context,
        )
        for precision, context in precisions.items()
        for name, layout in LAYOUTS.items()
    }
    gate.step()  # chosen in the warm-up, when no other variant computes
    seconds = {name: _seconds(work) for name, work in forms.items()}
    gate.facts["form"] = min(seconds, key=seconds.get)
    work = forms[gate.facts["form"]]
    while True:
        work()
        gate.step()


def resident_batch(data: LightningDataModule, device: torch.device) -> tuple[Tensor, Tensor]:
    """The first training images, as the network gets them, and their labels."""
    data.setup("fit")
    batch = [tensor[: data.batch_size].to(device) for tensor in data.splits["train"]]
    images, labels = batch
    return data.prepare(images), labels


def convolutions(network: nn.Module, images: Tensor, context: Callable) -> Callable[[], None]:
    """Return a function that runs each convolution, forward and backward, on its own input."""
    parts = []

    def record(convolution, inputs, output):
        x = inputs[0].detach().requires_grad_(bool(parts))  # the images need no gradient
        parts.append((convolution, x, torch.randn_like(output)))

    hooks = [
        module.register_forward_hook(record)
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with context():
        network(images)
    for hook in hooks:
        hook.remove()
    leaves = [
        tensor
        for conv, x, _ in parts
        for tensor in (x, conv.weight, conv.bias)
        if tensor.requires_grad
    ]

    def work():
        with context():
            outputs = [convolution(x) for convolution, x, _ in parts]
        torch.autograd.grad(outputs, leaves, [dy for *_, dy in parts])

    return work


def _seconds(work: Callable[[], None]) -> float:
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=0.5).median
