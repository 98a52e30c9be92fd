"""Checkpoints: written whole or not at all, and read without running anything that they hold."""

import io
import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import CheckpointIO

from cnnbp.errors import UserError
from cnnbp.files import refuse_pipe, replacing
from cnnbp.runs.run_record import CHECKPOINTS, LAST, PREVIOUS

log = logging.getLogger(__name__)


class CrashSafeCheckpointIO(CheckpointIO):
    """Lightning's way to the disk and back to training, by `replacing` and `load`."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str, storage_options: Path | None = None
    ) -> None:
        """Save; `storage_options` is where the file that was there is kept."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # torch's writer hides the reason when a disk is full
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with replacing(path, "wb", keep=storage_options) as file:
            file.write(buffer.getbuffer())

    def load_checkpoint(
        self, path: str, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        checkpoint = load(path)
        if (
            not checkpoint.get("optimizer_states")
            or not {"lr_schedulers", "callbacks", "loops"} <= checkpoint.keys()
        ):
            raise UserError(f"checkpoint {path}: holds weights only, nothing to continue from")
        return checkpoint

    def remove_checkpoint(self, path: str) -> None:
        os.unlink(path)


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint into memory; only plain data and tensors are accepted.

    The checksums are those that torch writes, CRC-32 as in every zip file, and does not check.

    Raises:
        UserError: the file is missing, damaged, or no checkpoint of this project.
    """
    refuse_pipe(path)
    try:
        content = Path(path).read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if record := archive.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {record}")
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"checkpoint {path}: no such file") from None
    except Exception as error:  # torch's reader raises nearly anything on a damaged file
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(
            f"checkpoint {path}: cannot be read, it is damaged or holds more than data ({reason})"
        ) from None
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(
            f"checkpoint {path}: holds no state_dict, so no run of this project wrote it"
        )
    return checkpoint


def newest(directory: Path) -> Path | None:
    """The last checkpoint of a directory; None where there is none.

    Where the last one is damaged it is, with a warning, the one before it.

    Raises:
        UserError: no whole checkpoint is left.
    """
    last, previous = directory / LAST, directory / PREVIOUS
    # killed before the first was written, or between the two renames of `replacing`
    if not last.exists():
        return previous if previous.exists() else None
    try:
        load(last)
        return last
    except UserError as error:
        if not previous.exists():
            raise UserError(
                f"{error}; there is none before it: remove it to train from the beginning"
            ) from None
        load(previous)
        log.warning("%s; going back to the one before it, %s", error, previous.name)
        return previous


def find_checkpoint(run: Path, given: str | None) -> Path | None:
    """The checkpoint to continue from: the run's own, else the one that the user has given.

    Args:
        given: a checkpoint, or a run directory, of which the newest is taken.

    Raises:
        UserError: the run directory that was given has no checkpoint.
    """
    own = newest(run / CHECKPOINTS)
    if own or given is None:
        return own
    if not Path(given).is_dir():
        return Path(given)
    found = newest(Path(given) / CHECKPOINTS)
    if found is None:
        raise UserError(f"ckpt_path={given}: has no checkpoint in {CHECKPOINTS}/")
    return found
