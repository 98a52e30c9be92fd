"""Checkpoints: written whole or not at all, and read without running anything that they hold."""

import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import CheckpointIO
from torch import nn

from cnnbp.errors import UserError
from cnnbp.files import replacing


class CrashSafeCheckpointIO(CheckpointIO):
    """Lightning's way to the disk, by `replacing` and `load`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: str, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return load(path)

    def remove_checkpoint(self, path: str) -> None:
        os.unlink(path)


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint into memory; only plain data and tensors are accepted.

    Raises:
        UserError: the file is missing, damaged, or no checkpoint of this project.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"checkpoint {path}: no such file") from None
    except Exception as error:  # torch's reader raises nearly anything on a damaged file
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(
            f"checkpoint {path}: cannot be read, it is damaged or holds more than data ({reason})"
        ) from None
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"checkpoint {path}: holds no state_dict, so no run of this project wrote it")
    return checkpoint


def check_fits(checkpoint: dict[str, Any], module: nn.Module) -> None:
    """Raise a UserError when the checkpoint's weights belong to a network of another architecture."""
    saved = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    for name in {**wanted, **saved}:
        if saved.get(name) != wanted.get(name):
            raise UserError(
                f"the checkpoint is of another architecture ({name} has shape {saved.get(name, 'none')}, here "
                f"{wanted.get(name, 'none')}); give the model and dropout options that it was trained with"
            )
