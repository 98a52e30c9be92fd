"""A trained run, built again from its directory."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from cnnbp.config.own_modules import add_current_folder
from cnnbp.data.datamodule import DataModule
from cnnbp.errors import UserError
from cnnbp.runs.allowed_code import refuse_unknown_code
from cnnbp.runs.checkpoint_file import load, newest
from cnnbp.runs.run_record import BEST, CHECKPOINTS, RunRecord
from cnnbp.training.classifier import Classifier
from cnnbp.training.data_facts import with_facts

# parts of the model and the data that only training needs
FOR_TRAINING = ("optimizer", "scheduler", "augment")


def restore(
    directory: str | Path, checkpoint: str = "last"
) -> tuple[DictConfig, DataModule, Classifier]:
    """Build the data and the model of a run, with the weights of one of its checkpoints.

    What only training needs is left out: optimizer, schedule and augmentation are None.

    Args:
        checkpoint: "last" or "best".

    Returns:
        The config, with what the model was told of the data set; the data; and the model in
        evaluation mode.

    Raises:
        UserError: the directory holds no run, its code is not allowed, or the checkpoint is
            missing or cannot be read.
    """
    add_current_folder()
    run = RunRecord.open(directory)
    parts = [_without_training(run, run.config[name]) for name in ("model", "data")]
    weights = load(_find(run, checkpoint))
    model_config, data_config = parts
    data = instantiate(data_config)
    # where the images are gone, what they were like is still known
    data.load_state_dict(weights.get(type(data).__qualname__, {}))
    model = instantiate(with_facts(model_config, data.dataset))
    model.on_load_checkpoint(weights)
    model.load_state_dict(weights["state_dict"])
    config = run.config.copy()
    config.model = with_facts(config.model, data.dataset)
    return config, data, model.eval()


def _without_training(run: RunRecord, part: DictConfig) -> DictConfig:
    """A part of a config without what only training needs, once its code is known to be allowed."""
    own = part.copy()
    # interpolations that lead out of it are followed there
    own._set_parent(run.config)
    with open_dict(own):
        for name in FOR_TRAINING:
            if name not in own:
                continue
            if own[name]:
                refuse_unknown_code(run, own[name], is_built=False)
            own[name] = None
    refuse_unknown_code(run, own)
    return own


def _find(run: RunRecord, checkpoint: str) -> Path:
    folder = run.path / CHECKPOINTS
    if checkpoint == "last":
        return newest(folder) or folder / "last.ckpt"
    if not (folder / BEST).exists():
        raise UserError(f"{run.path}: has no best checkpoint; retrain with data.val_size=5000")
    return folder / BEST
