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
    """Times each epoch's training and evaluation, and all from the first step on, in seconds."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.evaluations: list[float] = []
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

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        _wait(module.device)
        self.start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        _wait(module.device)
        self.evaluations.append(time.perf_counter() - self.start)

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


def captured(accelerator: str) -> str:
    """The override for a captured step, which no eager one can pass for."""
    return "trainer.graph=true" if accelerator == "gpu" else "trainer.graph=auto"


def parity(accelerator: str, quick: bool) -> dict[str, Any]:
    """Graph against eager, and eager against itself, after 200 steps with dropout and more."""
    steps = 6 if quick else 200
    common = (*SMALL, f"trainer.limit_train_batches={steps}", "trainer.max_epochs=1")
    # enough batches for the evaluation to be captured too
    common += ("trainer.limit_val_batches=5", "trainer.limit_test_batches=5", "augment=all")
    cases = {optimizer: (f"optimizer={optimizer}",) for optimizer in OPTIMIZERS}
    cases["sgd, 4 batches a step"] = ("optimizer=sgd", "trainer.accumulate_grad_batches=4")
    if accelerator == "gpu":
        cases["sgd, float16"] = ("optimizer=sgd", "trainer.precision=16-mixed")
    if quick:
        cases = {"muon": cases["muon"]}
    answers = {}
    for name, case in cases.items():
        options = (*common, *case, "scheduler=one_cycle", "average=ema")
        graph, losses = trained(accelerator, [*options, captured(accelerator)])
        eager, expected = trained(accelerator, [*options, "trainer.graph=false"])
        again, _ = trained(accelerator, [*options, "trainer.graph=false"])
        answers[name] = f"graph {compare(graph, eager)}, eager again {compare(again, eager)}"
        if losses != expected:
            answers[name] += f", losses {losses} against {expected}"
    return answers


def trained(accelerator: str, overrides: Sequence[str]) -> tuple[torch.Tensor, list[float]]:
    """All weights after training, and the losses of training and test."""
    trainer, model, _ = train(accelerator, overrides)
    metrics = trainer.callback_metrics
    return weights(model), [metrics["loss/test"].item(), metrics["accuracy/test"].item()]


def step(accelerator: str, quick: bool) -> dict[str, Any]:
    """Milliseconds of a step of `baseline` with everything, mean over an epoch."""
    limit = ("trainer.limit_train_batches=6",) if quick else ()
    answers = {}
    # eager takes ten times as long: one epoch
    for name, graph, epochs in (
        ("captured", captured(accelerator), 3),
        ("eager", "trainer.graph=false", 1),
    ):
        trainer, _, clock = train(accelerator, (f"trainer.max_epochs={epochs}", graph, *limit))
        for what, seconds, batches in (
            ("a step", clock.epochs, trainer.num_training_batches),
            ("a batch evaluated", clock.evaluations, sum(trainer.num_val_batches)),
        ):
            times = [round(1000 * second / batches, 3) for second in seconds]
            answers[f"{name}, ms {what}"] = times
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
        "of these, seconds of evaluation": sum(clock.evaluations),
        "seconds before the first step, imports left out": clock.first_step - begin,
        "seconds of the final test": begin + total - clock.end,
    }


def fast(accelerator: str, quick: bool) -> dict[str, Any]:
    """Three seeds of `fast`, from the first step to its accuracy."""
    limit = ("trainer.limit_train_batches=6",) if quick else ()
    answers: dict[str, Any] = {"accuracy": [], "seconds from the first step": []}
    for seed in (101,) if quick else (101, 102, 103):
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
    limit = ("trainer.limit_train_batches=6",) if quick else ()
    kinds = ("32-true", "bf16-mixed") if accelerator == "cpu" else ("32-true", "16-mixed")
    answers = {}
    for precision in kinds:
        options = (*SMALL, "trainer.max_epochs=1", f"trainer.precision={precision}", *limit)
        options += (captured(accelerator),)
        trainer, _, clock = train(accelerator, options)
        accuracy = trainer.callback_metrics["accuracy/test"].item()
        mean = 1000 * clock.epochs[-1] / trainer.num_training_batches
        answers[precision] = f"{mean:.3f} ms a step, test accuracy {accuracy:.4f}"
    return answers


def loops(accelerator: str, quick: bool) -> dict[str, Any]:
    """Images a second of all variants, the plain loop among them, and how they compare."""
    from benchmarks import ON_GPU
    from benchmarks.tables import summarise
    from benchmarks.turns import measure, workers
    from cnnbp.errors import UserError

    steps, rounds = (4, 1) if quick else (100, 3)
    names, answers = list(ON_GPU), {}
    try:
        with workers(names, accelerator, None) as started:
            results = summarise(measure(started, steps, rounds), steps)
    except UserError as error:
        # the plain loops need packages that ours does without
        answers["all variants"] = str(error)
        names = [name for name in names if name not in ("a", "b")]
        with workers(names, accelerator, None) as started:
            results = summarise(measure(started, steps, rounds), steps)
    for name, variant in results["variants"].items():
        answers[f"{name}, {variant['title']}"] = [round(speed) for speed in variant["rounds"]]
    for ratio in results["ratios"]:
        if ratio["what"] == "speed":
            answers[f"{ratio['of']} / {ratio['over']}"] = round(ratio["median"], 2)
    return answers
