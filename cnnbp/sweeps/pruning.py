"""How a trial of a search is doing, told to Optuna."""

from math import nan

from optuna import Trial
from pytorch_lightning import Callback
from pytorch_lightning.loggers import TensorBoardLogger


class Pruning(Callback):
    """Reports the validation accuracy after each epoch, stops where the study gives the trial up, and fills HPARAMS.

    `reason` says in words that the trial was pruned; it is "" for one that was not.
    """

    def __init__(self, trial: Trial):
        self.trial, self.reason = trial, ""

    def on_train_epoch_end(self, trainer, module):
        epoch = trainer.current_epoch + 1
        accuracy = trainer.callback_metrics["accuracy/val"].item()
        self.trial.report(accuracy, epoch)
        if epoch < trainer.max_epochs and self.trial.should_prune():
            self.reason = f"pruned after epoch {epoch} of {trainer.max_epochs}, validation accuracy {accuracy:.2%}"
            trainer.should_stop = True

    def on_train_end(self, trainer, module):
        names = {"hp/val_accuracy": "accuracy/val", "hp/val_loss": "loss/val"}
        results = {
            name: float(trainer.callback_metrics.get(key, nan)) for name, key in names.items()
        }
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self.trial.params, results)

    def on_exception(self, trainer, module, exception):
        if isinstance(exception, Exception):  # else it is a signal, and the trial will go on
            self.on_train_end(trainer, module)
