"""What is optimised, measured and logged: the network as a LightningModule."""

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import Metric

from cnnbp.config.hydra_errors import how_to_replace
from cnnbp.errors import UserError
from cnnbp.training.callbacks.averaging import Average
from cnnbp.training.capture import CapturedEvaluation, CapturedStep, DeviceStep
from cnnbp.training.epoch_sums import EpochSums, means
from cnnbp.training.losses import Loss, check_loss
from cnnbp.training.resume import (
    check_averages,
    check_fits,
    check_optimizer,
    check_schedule,
    check_version,
)
from cnnbp.training.stage_metrics import stage_metrics
from cnnbp.training.step import EvaluationStep, LightningStep, TrainingStep, overridden_hooks

log = logging.getLogger(__name__)


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Spare biases and the scales and shifts of normalisation from weight decay.

    Parameters that are frozen belong to no group.
    Source: He et al., 2019, section 3.1.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in trained if parameter.ndim > 1]
    others = [parameter for parameter in trained if parameter.ndim <= 1]
    groups = [{"params": weights}, {"params": others, "weight_decay": 0}]
    return [group for group in groups if group["params"]]


class Classifier(LightningModule):
    """Trains a network and logs `loss/STAGE` and `accuracy/STAGE` once an epoch.

    It uses Lightning's manual optimization: `TrainingStep` is the whole step, which on a GPU
    is captured as a CUDA graph.

    Args:
        network: maps images (N, C, H, W) to logits (N, K).
        optimizer: maps groups of parameters to an optimizer.
        scheduler: maps (optimizer, epochs, steps_per_epoch) to Lightning's lr_scheduler_config;
            without one the learning rate is constant.
        loss: maps (logits, labels) to the mean loss; None is cross-entropy.
        metrics: measured on validation and test images beside loss and accuracy, by name.
        label_smoothing: share of the target that cross-entropy spreads over all classes in
            training.
        backprop: "autograd", or "by_hand" to train by the equations of `cnnbp.model.backprop`,
            several times slower.
        channels_last: memory format of the convolutions; faster on every processor tried.
        classes: K.
    """

    # the step prepares and augments the images itself
    takes_stored_images = True

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., dict[str, Any]] | None = None,
        loss: Loss | None = None,
        metrics: Mapping[str, Metric] | None = None,
        label_smoothing: float = 0.0,
        channels_last: bool = True,
        backprop: str = "autograd",
        classes: int = 10,
    ):
        super().__init__()
        if not isinstance(network, nn.Module):
            raise UserError(f"network={network}: must be a torch.nn.Module, not a {type(network)}")
        self.automatic_optimization = False
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.to(memory_format=layout)
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.label_smoothing, self.by_hand = label_smoothing, backprop == "by_hand"
        self.own_loss = loss
        if loss:
            self._check_loss(loss, classes)
        # what Lightning leaves to a module with manual optimization; `build` sets them
        self.accumulate = 1
        self.clip: float | None = None
        self.clip_by = "norm"
        self.graph: bool | str = "auto"
        # takes the step together with those of other trainings
        self.join_fleet: Callable[..., Callable[..., Tensor]] | None = None
        # beside loss and accuracy, which the steps sum up
        added = stage_metrics(classes, metrics)
        self.metrics = nn.ModuleDict(
            {f"{stage}_metrics": added.clone() for stage in ("val", "test")}
        )
        self.step: TrainingStep | None = None
        self.take_step: Callable[..., Tensor] | None = None
        self.average: Average | None = None
        self.saved_sums: dict[str, Tensor] = {}
        self.images_seen = 0
        self.evaluation: EvaluationStep | None = None
        self.evaluate: Callable[..., Tensor] | None = None
        self.images_evaluated = 0

    def _check_loss(self, loss: Loss, classes: int) -> None:
        if self.label_smoothing:
            raise UserError(
                f"model.label_smoothing={self.label_smoothing}: is part of loss=cross_entropy; "
                "give model.label_smoothing=0"
            )
        if self.by_hand:
            raise UserError(
                "model.backprop=by_hand: has the equations of cross-entropy alone; "
                "give loss=cross_entropy"
            )
        check_loss(loss, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map prepared images (N, C, H, W) to logits (N, K)."""
        return self.network(images)

    def on_train_start(self) -> None:
        """Make the step, once weights and optimizer are on the device."""
        (optimizer,) = self.trainer.optimizers
        data = self.trainer.datamodule
        options = {
            "augment": data.augment,
            "label_smoothing": self.label_smoothing,
            "own_loss": self.own_loss,
            "by_hand": self.by_hand,
            "accumulate": self.accumulate,
            "clip": self.clip,
            "clip_by": self.clip_by,
        }
        for callback in self.trainer.callbacks:
            if isinstance(callback, Average):
                self.average = callback
                options["average"] = callback.for_step()
        parts = (self.network, optimizer, data.as_pixels, data.normalise)
        reason = self.needs_lightning(self.trainer)
        if reason:
            self.step = LightningStep(
                *parts,
                backward=self.manual_backward,
                step_optimizer=self.optimizers().step,
                **options,
            )
        else:
            scaler = getattr(self.trainer.precision_plugin, "scaler", None)
            self.step = TrainingStep(*parts, scaler=scaler, **options)
        if self.join_fleet:
            self.take_step = self.join_fleet(self.step, self._forget_evaluation)
        else:
            self.take_step = self._on_device(reason)
        if self.saved_sums:
            self.step.load_sums(self.saved_sums)
            self.saved_sums = {}

    def needs_lightning(self, trainer: Trainer) -> str:
        """Why Lightning's own backward and optimizer calls are needed; "" where they are not."""
        if trainer.world_size > 1:
            return "several processes"
        hooks = overridden_hooks([*trainer.callbacks, self], [Callback, Classifier])
        if hooks:
            return f"the hook {hooks[0]}"
        return ""

    def _on_device(self, reason: str) -> Callable[..., Tensor]:
        """The step; on a GPU captured as a CUDA graph, where there is no reason against it."""
        assert self.step is not None
        if self.by_hand:
            reason = reason or "back-propagation by hand (model.backprop=by_hand)"
        if torch.is_anomaly_enabled():
            reason = reason or "trainer.detect_anomaly=true"
        if self.device.type != "cuda":
            reason = "there is no CUDA device"
        if reason and self.graph is True:
            raise UserError(
                f"trainer.graph=true: the step cannot be captured ({reason}); "
                "give trainer.graph=auto"
            )
        if self.device.type != "cuda":
            return self.step
        if reason:
            log.info("the step is not captured as a CUDA graph, which is slower: %s", reason)
        if isinstance(self.step, LightningStep):
            return self.step
        if reason or self.graph is False:
            return DeviceStep(self.step)
        return CapturedStep(self.step, required=self.graph is True)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        assert self.take_step is not None
        position = batch_idx % self.accumulate
        is_last_batch = batch_idx + 1 == self.trainer.num_training_batches
        is_last = position + 1 == self.accumulate or is_last_batch
        if self.average and is_last:
            self.average.prepare()
        loss = self.take_step(images, labels, position == 0, is_last)
        self.images_seen += len(labels)
        if is_last:
            if not isinstance(self.step, LightningStep):
                self._count_step()
            self._step_schedules(is_last_batch)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # by Lightning's own calls alone; its loss scaling has unscaled the gradients by now
        assert self.step is not None
        self.step.clip_gradients()

    def _count_step(self) -> None:
        """Count an optimizer step, as Lightning's wrapper of the optimizer does."""
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()

    def _step_schedules(self, is_last_batch: bool) -> None:
        """Move the learning rate after an optimizer step, as Lightning would."""
        for config in self.trainer.lr_scheduler_configs:
            is_due = config.interval == "step" or is_last_batch
            if is_due and not isinstance(config.scheduler, ReduceLROnPlateau):
                config.scheduler.step()

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation()

    def on_test_epoch_start(self) -> None:
        self._start_evaluation()

    def _start_evaluation(self) -> None:
        """Make the evaluation's step, once the weights are on the device; begin its sums."""
        if self.evaluation is None:
            data = self.trainer.datamodule
            self.evaluation = EvaluationStep(self, data.prepare, self.evaluation_loss, self.device)
            self.evaluate = self._evaluation_on_device(self.evaluation)
        if self.trainer.world_size > 1:
            # each process has the running statistics of its own batches; the first one's are saved
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, src=0)
        self.evaluation.reset_sums()
        self.images_evaluated = 0

    def _forget_evaluation(self) -> None:
        """Make the evaluation anew; a captured one reads memory that the weights have left."""
        self.evaluation = None
        self.evaluate = None

    def _evaluation_on_device(self, step: EvaluationStep) -> Callable[..., Tensor]:
        """The step; on a GPU captured as a CUDA graph, where training may be."""
        is_alone = self.trainer.world_size == 1
        if self.device.type == "cuda" and self.graph is not False and is_alone:
            return CapturedEvaluation(step, required=self.graph is True)
        return step

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._evaluate(batch, self.trainer.datamodule.epoch_stage)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._evaluate(batch, "test")

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        """Add a batch of stored images to what is measured; return its logits (N, K)."""
        assert self.evaluate is not None
        images, labels = batch
        logits = self.evaluate(images, labels)
        self.images_evaluated += len(labels)
        self.metrics[f"{stage}_metrics"].update(logits, labels)
        return logits

    def evaluation_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss () of logits (N, K): cross-entropy without smoothing, or the own loss."""
        return (self.own_loss or F.cross_entropy)(logits, labels)

    def on_train_epoch_end(self) -> None:
        self._log_training()
        schedule = self.lr_schedulers()
        if isinstance(schedule, ReduceLROnPlateau):
            stage = "val" if self.trainer.datamodule.epoch_stage == "val" else "train"
            schedule.step(self.trainer.callback_metrics[f"loss/{stage}"])

    def on_validation_epoch_end(self) -> None:
        # a run that was killed after its last epoch is evaluated again, but has logged it
        is_fitting = self.trainer.state.fn == TrainerFn.FITTING
        self._log_evaluation(self.trainer.datamodule.epoch_stage, to_loggers=is_fitting)

    def on_test_epoch_end(self) -> None:
        # where the test set was evaluated after each epoch, its last point is drawn already
        self._log_evaluation("test", to_loggers=self.trainer.datamodule.epoch_stage == "val")

    def teardown(self, stage: str) -> None:
        # a graph holds addresses of weights that Lightning moves to the CPU now
        self.step, self.take_step, self.average = None, None, None
        self.evaluation, self.evaluate = None, None

    def configure_optimizers(self) -> dict[str, Any]:
        config: dict[str, Any] = {}
        try:
            config["optimizer"] = self.make_optimizer(parameter_groups(self))
            if self.make_scheduler:
                schedule = self.make_scheduler(
                    config["optimizer"], self.trainer.max_epochs, self._steps_per_epoch()
                )
                config["lr_scheduler"] = schedule
        except (TypeError, ValueError) as error:
            has_other_keys = "unexpected keyword argument" in str(error)
            hint = how_to_replace("optimizer") if has_other_keys else ""
            raise UserError(f"optimizer or scheduler: {error}{hint}") from None
        return config

    def _steps_per_epoch(self) -> int:
        # Lightning's own estimate loads the data at once, which loses the position to continue from
        batches = len(self.trainer.datamodule.train_dataloader())
        limit = self.trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        return math.ceil(batches / self.accumulate)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.step is not None:
            sums = self.step.sums() | {"images": torch.tensor(self.images_seen, device=self.device)}
            # each process has its own part of the epoch's sums
            checkpoint["train_sums"] = self.all_gather(sums)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._trainer:
            # first: another number of classes would be told as another architecture
            data = self.trainer.datamodule
            data.load_state_dict(checkpoint.get(type(data).__qualname__, {}))
        check_fits(checkpoint, self)
        if not self._trainer:
            return
        check_version(checkpoint)
        self._load_sums(checkpoint.get("train_sums", {}))
        per_epoch, epochs = self._steps_per_epoch(), self.trainer.max_epochs
        optimizer = self.make_optimizer(parameter_groups(self))
        check_optimizer(checkpoint, optimizer)
        schedules = []
        if self.make_scheduler:
            schedule = self.make_scheduler(optimizer, epochs, per_epoch)
            schedules.append(schedule["scheduler"].state_dict())
        check_schedule(checkpoint, schedules, epochs * per_epoch)
        is_averaging = partial(_is_a, WeightAveraging)
        check_averages(checkpoint, any(map(is_averaging, self.trainer.callbacks)))

    def _load_sums(self, gathered: dict[str, Tensor]) -> None:
        """Keep this process's part of the sums until the step is made."""
        processes = self.trainer.world_size
        sums = {}
        for name, values in gathered.items():
            if values.numel() != processes:
                raise UserError(f"the checkpoint is not of {processes} processes; give as many")
            sums[name] = values.view(-1)[self.trainer.global_rank]
        if sums:
            self.images_seen = int(sums.pop("images"))
        self.saved_sums = sums

    def _log_training(self) -> None:
        """Log the means over an epoch of training."""
        assert self.step is not None
        self._log(self._means("train", self.step, self.images_seen))
        self.step.reset_sums()
        self.images_seen = 0

    def _log_evaluation(self, stage: str, to_loggers: bool) -> None:
        """Log the means over an evaluation."""
        assert self.evaluation is not None
        values = self._means(stage, self.evaluation, self.images_evaluated)
        added = self.metrics[f"{stage}_metrics"]
        values |= {f"{name}/{stage}": value for name, value in added.compute().items()}
        added.reset()
        self._log(values, to_loggers)

    def _means(self, stage: str, step: EpochSums, images: int) -> dict[str, Tensor]:
        """The means over all processes, by the names that are logged."""
        own = step.sums() | {"images": torch.tensor(images, device=self.device)}
        sums: Any = self.all_gather(own)
        values = means(sums, sums["images"])
        return {f"{name}/{stage}": value for name, value in values.items()}

    def _log(self, values: dict[str, Tensor], to_loggers: bool = True) -> None:
        self.log_dict(values, logger=False)
        if not to_loggers:
            return
        # at once, not by Lightning after the checkpoint; at the optimizer steps taken, the same for
        # every stage
        numbers = {name: value.item() for name, value in values.items()}
        for logger in self.trainer.loggers:
            logger.log_metrics(numbers, self.global_step)


def _is_a(kind: type, part: object) -> bool:
    return isinstance(part, kind)
