"""The same training as a LightningModule the way most tutorials write one."""

import pytorch_lightning as pl
from torch.nn import functional as F
from torchmetrics import Accuracy

from benchmarks import plain
from benchmarks.waiting import Waiting


class Tutorial(pl.LightningModule):
    """Logs loss and accuracy of each step, and shows them on Lightning's progress bar."""

    def __init__(self):
        super().__init__()
        self.model = plain.network()
        self.train_accuracy = Accuracy(task="multiclass", num_classes=10)

    def forward(self, images):
        return self.model(images)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        output = self(images)
        loss = F.nll_loss(output, labels)
        self.train_accuracy(output, labels)
        self.log("train_loss", loss, on_step=True, prog_bar=True)
        self.log("train_accuracy", self.train_accuracy, on_step=True, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return plain.optimizer(self)


def run(gate, directory, overrides) -> None:
    """Fit for as long as the gate lets steps through.

    The Trainer's defaults add TensorBoard and checkpoints.
    """
    trainer = pl.Trainer(
        accelerator=gate.accelerator,
        devices=1,
        max_epochs=-1,
        default_root_dir=directory,
        callbacks=[Waiting(gate)],
    )
    trainer.fit(Tutorial(), plain.loader(gate.accelerator))
