"""The parts of `benchmarks.gpu`: each measures one thing and returns it by name."""

import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from benchmarks.ours import compose_run
from cnnbp.training.build import build, fit

SMALL = ("logger=none", "callbacks=none")
OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "muon")


class Clock(Callback):
    """Times each epoch's training, and everything from the first step on, in seconds."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.first_step = 0.0
        self.end = 0.0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        # Lightning leaves the hook of an epoch out where a run continues in its middle
        self.first_step = self.start = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        _wait(module.device)
        self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 == trainer.num_training_batches:
            _wait(module.device)
            self.epochs.append(time.perf_counter() - self.start)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        _wait(module.device)
        self.end = time.perf_counter()


class StopAfter(Callback):
    """Saves a checkpoint after a number of batches, and ends the training there."""

    def __init__(self, batches: int, path: Path):
        self.batches, self.path = batches, path

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch == 0 and batch_idx + 1 == self.batches:
            trainer.save_checkpoint(self.path, weights_only=False)
            raise KeyboardInterrupt


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def train(
    accelerator: str,
    overrides: Sequence[str],
    callbacks: Sequence[Callback] = (),
    checkpoint: Path | None = None,
) -> tuple[Trainer, LightningModule, Clock]:
    """Train as train.py does, in a directory of its own."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = compose_run(folder, [f"trainer.accelerator={accelerator}", *overrides])
        data, model, trainer = build(config)
        trainer.callbacks.extend([*callbacks, clock])
        fit(data, model, trainer, checkpoint)
        trainer.test(model, data, verbose=False)
    return trainer, model, clock


def weights(model: LightningModule) -> torch.Tensor:
    """All weights and running statistics in one vector."""
    values = [value.detach().cpu().double().flatten() for value in model.state_dict().values()]
    return torch.cat(values)


def compare(a: torch.Tensor, b: torch.Tensor) -> str:
    """Say whether two vectors have the same bits, or how far they are apart."""
    return "same bits" if torch.equal(a, b) else f"{(a - b).abs().max():.2e}"


def parity(accelerator: str, quick: bool) -> dict[str, Any]:
    """Graph against eager, and eager against itself, after 200 steps with dropout and more."""
    steps = 5 if quick else 200
    common = (*SMALL, f"trainer.limit_train_batches={steps}", "trainer.max_epochs=1")
    common += ("trainer.limit_val_batches=1", "trainer.limit_test_batches=1", "augment=all")
    answers = {}
    for optimizer in OPTIMIZERS:
        options = (*common, f"optimizer={optimizer}", "scheduler=one_cycle", "average=ema")
        runs = []
        for graph in ("auto", "false", "false"):
            _, model, _ = train(accelerator, [*options, f"trainer.graph={graph}"])
            runs.append(weights(model))
        graph, eager, again = runs
        answers[optimizer] = f"graph {compare(graph, eager)}, eager again {compare(again, eager)}"
    return answers


def step(accelerator: str, quick: bool) -> dict[str, Any]:
    """Milliseconds of a step of `baseline` with everything, mean over an epoch."""
    limit = ("trainer.limit_train_batches=5",) if quick else ()
    answers = {}
    # eager takes ten times as long: one epoch
    for name, graph, epochs in (("captured", "auto", 3), ("eager", "false", 1)):
        options = (f"trainer.max_epochs={epochs}", f"trainer.graph={graph}", *limit)
        trainer, _, clock = train(accelerator, options)
        answers[f"{name}, ms a step"] = [
            round(1000 * seconds / trainer.num_training_batches, 3) for seconds in clock.epochs
        ]
    return answers


def baseline(accelerator: str, quick: bool) -> dict[str, Any]:
    """20 epochs of `baseline`, everything on, from the first step."""
    limit = ("trainer.limit_train_batches=5", "trainer.max_epochs=2") if quick else ()
    begin = time.perf_counter()
    trainer, _, clock = train(accelerator, limit)
    total = time.perf_counter() - begin
    return {
        "test accuracy": trainer.callback_metrics["accuracy/test"].item(),
        "seconds from the first step to the end of training": clock.end - clock.first_step,
        "of these, seconds of training steps": sum(clock.epochs),
        "seconds before the first step, imports left out": clock.first_step - begin,
        "seconds of the final test": begin + total - clock.end,
    }


def fast(accelerator: str, quick: bool) -> dict[str, Any]:
    """Three seeds of `fast`, from the first step to its accuracy."""
    limit = ("trainer.limit_train_batches=5",) if quick else ()
    answers: dict[str, Any] = {"accuracy": [], "seconds from the first step": []}
    for seed in (101, 102, 103):
        trainer, _, clock = train(accelerator, ("experiment=fast", f"seed={seed}", *limit))
        answers["accuracy"].append(trainer.callback_metrics["accuracy/test"].item())
        answers["seconds from the first step"].append(round(clock.end - clock.first_step, 2))
    return answers


def resume(accelerator: str, quick: bool) -> dict[str, Any]:
    """A run that is stopped in the middle of an epoch and continued, against an undisturbed one."""
    steps = 6 if quick else 60
    options = (*SMALL, f"trainer.limit_train_batches={steps}", "trainer.max_epochs=2")
    options += ("augment=affine", "average=ema", "optimizer=adamw", "scheduler=one_cycle")
    _, whole, _ = train(accelerator, options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stopped.ckpt"
        with suppress(KeyboardInterrupt, SystemExit):
            train(accelerator, options, [StopAfter(steps // 2, path)])
        _, continued, _ = train(accelerator, options, checkpoint=path)
    return {"continued against undisturbed": compare(weights(continued), weights(whole))}


def precisions(accelerator: str, quick: bool) -> dict[str, Any]:
    """One epoch in each precision: ms a step and the accuracy after it."""
    limit = ("trainer.limit_train_batches=5",) if quick else ()
    kinds = ("32-true", "bf16-mixed") if accelerator == "cpu" else ("32-true", "16-mixed")
    answers = {}
    for precision in kinds:
        options = (*SMALL, "trainer.max_epochs=1", f"trainer.precision={precision}", *limit)
        trainer, _, clock = train(accelerator, options)
        accuracy = trainer.callback_metrics["accuracy/test"].item()
        mean = 1000 * clock.epochs[-1] / trainer.num_training_batches
        answers[precision] = f"{mean:.3f} ms a step, test accuracy {accuracy:.4f}"
    return answers


def loops(accelerator: str, quick: bool) -> dict[str, Any]:
    """Images a second of the plain loop, of Lightning as tutorials write it, and of ours."""
    from benchmarks.turns import measure, workers

    steps, rounds = (5, 1) if quick else (100, 3)
    device = "cuda" if accelerator == "gpu" else "cpu"
    names = ["a", "b", "d"]
    with workers(names, device, None) as started:
        answers = measure(started, steps, rounds)
    speeds: dict[str, Any] = {}
    for name in names:
        speeds[name] = [round(128 * steps / answer["seconds"]) for answer in answers[name]]
    return speeds
