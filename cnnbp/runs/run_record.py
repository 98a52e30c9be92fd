"""What a run directory says of its run, read back: files may be damaged, or come from somebody else."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cnnbp.errors import UserError

# below checkpoints/; where the last is damaged or missing, the one before it is used
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
# what the model and the data of a run may be built from
CODE = (
    "cnnbp.model.network.",
    "cnnbp.data.augment.",
    "cnnbp.data.datamodule.",
    "cnnbp.training.classifier.",
    "cnnbp.training.muon.",
    "cnnbp.training.schedules.",
    "torch.optim.",
)


def read_config(path: Path) -> DictConfig:
    """Read the config of a run; a key that is missing in it raises instead of giving None.

    Raises:
        UserError: it is no config.
    """
    try:
        config = OmegaConf.load(path)
        if not isinstance(config, DictConfig):
            raise YAMLError("it is no mapping")
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None
    OmegaConf.set_struct(config, True)
    return config


def refuse_foreign_code(path: Path, config: DictConfig) -> None:
    """Raise a UserError where building this config would call anything but networks, data and optimizers."""
    for target in _targets(OmegaConf.to_container(config, resolve=True)):
        # by its name, and where it was written: a module also has what it imports
        if not str(target).startswith(CODE) or not f"{get_object(target).__module__}.".startswith(CODE):
            raise UserError(f"{path}: would run {target}, which is not allowed here; allowed: {', '.join(CODE)}")


def read_result(path: Path) -> dict[str, Any]:
    """Read a run's `result.json`.

    Raises:
        FileNotFoundError: the run has not finished.
        UserError: the file is damaged.
    """
    try:
        result = json.loads(path.read_text())
        for name in {"val_accuracy", "val_loss", "accuracy", "loss"} & set(result) or {"accuracy"}:
            float(result[name])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: cannot be read; remove it to train again") from None
    return result


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Read a run's `metrics.csv`, a row a step; nothing where it wrote none.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            int(row["step"])
            for value in row.values():
                float(value or 0)
    except (ValueError, KeyError, TypeError, csv.Error):
        raise UserError(f"{path}: cannot be read; remove it, its values are in TensorBoard's files too") from None
    return rows


def _targets(node: Any) -> Iterator[Any]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if key == "_target_":
            yield value
        yield from _targets(value)
