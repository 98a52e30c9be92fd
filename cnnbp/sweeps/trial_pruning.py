"""The callback that reports a trial of a search to Optuna."""

from math import nan

from optuna import Trial
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger


class Pruning(Callback):
    """Reports the validation accuracy after each epoch and stops where the study prunes the trial.

    `reason` says that the trial was pruned; it is "" for one that was not. The trial's values and
    its last metrics go to TensorBoard's HPARAMS tab.
    """

    def __init__(self, trial: Trial, max_epochs: int):
        self.trial, self.max_epochs, self.reason = trial, max_epochs, ""

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        accuracy = trainer.callback_metrics["accuracy/val"].item()
        self.trial.report(accuracy, epoch)
        if epoch < self.max_epochs and self.trial.should_prune():
            self.reason = (
                f"pruned after epoch {epoch} of {self.max_epochs}, "
                f"validation accuracy {accuracy:.2%}"
            )
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        results = {}
        for name, key in {"hp/val_accuracy": "accuracy/val", "hp/val_loss": "loss/val"}.items():
            results[name] = float(trainer.callback_metrics.get(key, nan))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self.trial.params, results)

    def on_exception(
        self, trainer: Trainer, module: LightningModule, exception: BaseException
    ) -> None:
        # a signal is no Exception: the trial will go on
        if isinstance(exception, Exception):
            self.on_train_end(trainer, module)
