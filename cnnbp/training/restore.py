"""A trained run, built again from its directory."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from cnnbp.data.datamodule import DataModule
from cnnbp.errors import UserError
from cnnbp.runs.checkpoint_file import load, newest
from cnnbp.runs.run_record import BEST, CHECKPOINTS, RunRecord, refuse_unknown_code
from cnnbp.training.classifier import Classifier
from cnnbp.training.data_facts import with_facts


def restore(
    directory: str | Path, checkpoint: str = "last"
) -> tuple[DictConfig, DataModule, Classifier]:
    """Build the data and the model of a run, with the weights of one of its checkpoints.

    Args:
        checkpoint: "last" or "best".

    Returns:
        The config, with what the model was told of the data set; the data; and the model in
        evaluation mode.

    Raises:
        UserError: the directory holds no run, or the checkpoint is missing or cannot be read.
    """
    run = RunRecord.open(directory)
    for part in (run.config.model, run.config.data):
        refuse_unknown_code(run, part)
    weights = load(_find(run, checkpoint))
    config = run.config.copy()
    data = instantiate(config.data)
    # where the images are gone, what they were like is still known
    data.load_state_dict(weights.get(type(data).__qualname__, {}))
    config.model = with_facts(config.model, data.dataset)
    model = instantiate(config.model)
    model.on_load_checkpoint(weights)
    model.load_state_dict(weights["state_dict"])
    return config, data, model.eval()


def _find(run: RunRecord, checkpoint: str) -> Path:
    folder = run.path / CHECKPOINTS
    if checkpoint == "last":
        return newest(folder) or folder / "last.ckpt"
    if not (folder / BEST).exists():
        raise UserError(f"{run.path}: has no best checkpoint; retrain with data.val_size=5000")
    return folder / BEST
