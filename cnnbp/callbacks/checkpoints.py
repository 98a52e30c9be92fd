"""Which states of a run are kept."""

from pathlib import Path

from pytorch_lightning.callbacks import Checkpoint


class Checkpoints(Checkpoint):
    """Saves `last.ckpt` after each epoch, and `best.ckpt` by accuracy where there is a validation split."""

    def __init__(self, directory: str):
        self.directory = Path(directory)
        self.best_accuracy = -1.0

    def state_dict(self):
        return {"best_accuracy": self.best_accuracy}

    def load_state_dict(self, state):
        self.best_accuracy = state["best_accuracy"]

    def on_train_epoch_end(self, trainer, module):
        accuracy = trainer.callback_metrics.get("accuracy/val")
        if accuracy is not None and accuracy > self.best_accuracy:
            self.best_accuracy = accuracy.item()
            trainer.save_checkpoint(self.directory / "best.ckpt", weights_only=False)
        trainer.save_checkpoint(self.directory / "last.ckpt", weights_only=False)
