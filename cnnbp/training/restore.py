"""A trained run, built again from its directory."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import LightningDataModule, LightningModule

from cnnbp.errors import UserError
from cnnbp.runs.checkpoint_file import load, newest
from cnnbp.runs.run_record import read_config, refuse_foreign_code


def restore(
    directory: str | Path, checkpoint: str = "last"
) -> tuple[DictConfig, LightningDataModule, LightningModule]:
    """Build the data and the model of a run directory, with the weights of its "last" or "best" checkpoint.

    Raises:
        UserError: the directory holds no run, or no such checkpoint, or one that cannot be read.
    """
    record, checkpoints = (
        Path(directory) / ".hydra" / "config.yaml",
        Path(directory) / "checkpoints",
    )
    if not record.exists():
        raise UserError(
            f"{directory}: no run here; give a directory such as outputs/NAME that train.py made"
        )
    config = read_config(record)
    for part in (config.model, config.data):
        refuse_foreign_code(record, part)
    if checkpoint == "best" and not (checkpoints / "best.ckpt").exists():
        raise UserError(
            f"{directory}: has no best checkpoint, which training keeps with data.val_size=5000 alone"
        )
    weights = load(
        (checkpoint == "last" and newest(checkpoints)) or checkpoints / f"{checkpoint}.ckpt"
    )
    model = instantiate(config.model)
    model.on_load_checkpoint(weights)
    model.load_state_dict(weights["state_dict"])
    return config, instantiate(config.data), model.eval()
