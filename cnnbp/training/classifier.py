"""What is optimised, measured and logged: the network as a LightningModule."""

import math
from collections.abc import Callable

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from cnnbp.errors import UserError
from cnnbp.model.backprop import loss_and_logits
from cnnbp.runs.checkpoint_file import check_continues, check_fits, check_schedule


def parameter_groups(module: nn.Module) -> list[dict]:
    """Spare biases and the scales and shifts of normalisation from weight decay (He et al., 2019, section 3.1)."""
    weights = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    return [{"params": weights}, {"params": others, "weight_decay": 0}]


class Classifier(LightningModule):
    """Trains a network by cross-entropy and logs `loss/STAGE` and `accuracy/STAGE` once an epoch.

    Args:
        network: maps images (N, 1, 28, 28) to logits (N, 10).
        optimizer: maps groups of parameters to an optimizer.
        scheduler: maps (optimizer, epochs, steps_per_epoch) to Lightning's lr_scheduler_config; without one
            the learning rate is constant.
        backprop: "autograd", or "by_hand" to train by the equations of `cnnbp.model.backprop`, several times slower.
        channels_last: memory format of the convolutions; faster on every processor tried.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., dict] | None = None,
        label_smoothing: float = 0.0,
        channels_last: bool = True,
        backprop: str = "autograd",
    ):
        super().__init__()
        self.network = network.to(
            memory_format=torch.channels_last if channels_last else torch.contiguous_format
        )
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.label_smoothing, self.by_hand = label_smoothing, backprop == "by_hand"
        # neither looks at the values, for which a GPU would have to be waited for; a loss that is no number is kept
        loss = MeanMetric(nan_strategy="disable")
        accuracy = MulticlassAccuracy(10, average="micro", validate_args=False)
        metrics = MetricCollection({"loss": loss, "accuracy": accuracy}, compute_groups=False)
        self.metrics = nn.ModuleDict(
            {f"{stage}_metrics": metrics.clone() for stage in ("train", "val", "test")}
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 1, 28, 28) to logits (N, 10)."""
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, "train", self.label_smoothing)[0]

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, self.trainer.datamodule.epoch_stage)[1]

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, "test")[1]

    def on_train_epoch_end(self) -> None:
        self._log("train")
        schedule = self.lr_schedulers()
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(
                self.trainer.callback_metrics[self.trainer.lr_scheduler_configs[0].monitor]
            )

    def lr_scheduler_step(self, scheduler: LRScheduler, metric: float | None) -> None:
        if (
            metric is None
        ):  # Lightning would step a plateau schedule after the checkpoint is saved, so we do it before
            scheduler.step()

    def on_validation_epoch_end(self) -> None:
        # a run that was killed after its last epoch is evaluated again, but has logged it
        self._log(
            self.trainer.datamodule.epoch_stage,
            to_loggers=self.trainer.state.fn == TrainerFn.FITTING,
        )

    def on_test_epoch_end(self) -> None:
        # where the test set was evaluated after each epoch, its last point is drawn already
        self._log("test", to_loggers=self.trainer.datamodule.epoch_stage == "val")

    def configure_optimizers(self) -> dict:
        data = self.trainer.datamodule
        try:
            config = {"optimizer": self.make_optimizer(parameter_groups(self))}
            if self.make_scheduler:
                config["lr_scheduler"] = self.make_scheduler(
                    config["optimizer"],
                    self.trainer.max_epochs,
                    self._steps_per_epoch(len(data.train_dataloader())),
                )
                config["lr_scheduler"]["monitor"] = "loss/val" if data.val_size else "loss/train"
        except (TypeError, ValueError) as error:
            raise UserError(f"optimizer or scheduler: {error}") from None
        return config

    def _steps_per_epoch(self, batches: int) -> int:
        # Lightning's own estimate loads the data at once, which loses the position to continue from
        limit = self.trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        return math.ceil(batches / self.trainer.accumulate_grad_batches)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        # each process has its own part of the epoch's sums
        states = {
            name: metric.metric_state for name, metric in self.metrics["train_metrics"].items()
        }
        checkpoint["train_metrics"] = self.all_gather(states)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        check_fits(checkpoint, self)
        if self._trainer:
            self._load_metrics(checkpoint.get("train_metrics", {}))
            steps = self.trainer.max_epochs * self._steps_per_epoch(
                len(self.trainer.datamodule.train_dataloader())
            )
            optimizer = self.make_optimizer(parameter_groups(self))
            check_continues(checkpoint, optimizer, steps)
            schedule = self.make_scheduler and self.make_scheduler(
                optimizer, self.trainer.max_epochs, steps // self.trainer.max_epochs
            )
            check_schedule(
                checkpoint["lr_schedulers"],
                [schedule["scheduler"].state_dict()] if schedule else [],
            )
            averages = any(
                isinstance(callback, WeightAveraging) for callback in self.trainer.callbacks
            )
            if averages != ("averaging_state" in checkpoint):
                way = "without" if averages else "with"
                raise UserError(
                    f"the checkpoint was trained {way} averaged weights; give the average= that it had"
                )

    def _load_metrics(self, saved: dict[str, dict[str, Tensor]]) -> None:
        for name, states in saved.items():
            for state, value in states.items():
                own = getattr(self.metrics["train_metrics"][name], state)
                if value.numel() != own.numel() * self.trainer.world_size:
                    raise UserError(
                        f"the checkpoint is not of {self.trainer.world_size} processes; give as many"
                    )
                own.copy_(value.view(-1, *own.shape)[self.trainer.global_rank])

    def _step(
        self, batch: tuple[Tensor, Tensor], stage: str, label_smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        images, labels = batch
        if self.by_hand and stage == "train":
            loss, logits = loss_and_logits(self.network, images, labels, label_smoothing)
        else:
            logits = self(images).float()
            loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        self.metrics[f"{stage}_metrics"].update(
            value=loss.detach(),
            weight=torch.full_like(loss, len(labels)),
            preds=logits.detach(),
            target=labels,
        )
        return loss, logits

    def _log(self, stage: str, to_loggers: bool = True) -> None:
        metrics = self.metrics[f"{stage}_metrics"]
        values = {f"{name}/{stage}": value for name, value in metrics.compute().items()}
        metrics.reset()
        self.log_dict(values, logger=False)
        # at once, not by Lightning after the checkpoint; at the optimizer steps taken, the same for every stage
        for logger in self.trainer.loggers if to_loggers else ():
            logger.log_metrics(
                {name: value.item() for name, value in values.items()}, self.global_step
            )
