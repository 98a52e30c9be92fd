"""Training and trained runs from Python: `cnnbp.train([...])` and `cnnbp.load("outputs/NAME")`."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write
from PIL import Image
from torch import Tensor, nn

from cnnbp.config.compose import compose
from cnnbp.config.config_files import add_config_folder
from cnnbp.config.hydra_errors import HYDRA_ERRORS, explain, is_wrong_group_choice
from cnnbp.config.own_modules import add_current_folder
from cnnbp.data.datamodule import DataModule
from cnnbp.errors import UserError
from cnnbp.main_job import train as train_in
from cnnbp.runs.allowed_code import trusted
from cnnbp.runs.run_directory import open_run, starts_several_processes
from cnnbp.runs.run_record import RunRecord
from cnnbp.signals import raising
from cnnbp.training.restore import restore
from cnnbp.views.inference import compute_logits

# what a notebook gives: one image or several, as an array, a tensor, a picture or its file
Images = Any


class Predictions(NamedTuple):
    """What a network reads on images.

    Attributes:
        labels: (N,), int64, of the likeliest class.
        names: (N,), the names of these classes.
        probabilities: (N, K), float32.
    """

    labels: np.ndarray
    names: list[str]
    probabilities: np.ndarray


class TrainedRun:
    """A run directory as Python objects, each read or built when it is first asked for.

    Args:
        path: of the directory.
        checkpoint: "last" or "best", whose weights `network` has.
    """

    def __init__(self, path: str | Path, checkpoint: str = "last"):
        self.record, self.checkpoint = RunRecord.open(path), checkpoint
        self.path = self.record.path

    def __repr__(self) -> str:
        result = self.result
        state = f"test accuracy {result['accuracy']:.2%}" if result else "unfinished"
        return f"TrainedRun({str(self.path)!r}, {state})"

    @property
    def config(self) -> DictConfig:
        """The whole config; `run.config.optimizer.lr` reads one value."""
        return self.record.config

    @property
    def result(self) -> dict[str, Any] | None:
        """What `result.json` holds; None while the run is unfinished."""
        return self.record.result

    @cached_property
    def curves(self) -> dict[str, np.ndarray]:
        """Every column of `metrics.csv`, float64, all of one length; NaN where nothing was logged.

        "step" counts the optimizer steps; the others are such as "loss/train", "accuracy/val".
        """
        columns: dict[str, np.ndarray] = {}
        rows = self.record.metrics
        for name in rows[0] if rows else ():
            values = [float(row[name] or "nan") for row in rows]
            columns[name] = np.array(values)
        return columns

    @property
    def network(self) -> nn.Module:
        """The trained network in evaluation mode: prepared images (N, C, H, W) to logits (N, K)."""
        return self._restored[2].network

    @cached_property
    def _restored(self) -> tuple[Any, Any, Any]:
        return restore(self.path, self.checkpoint)

    def predict(self, images: Images) -> Predictions:
        """Read images, in the precision that the run was trained in.

        Args:
            images: uint8 arrays or tensors (N, H, W), (N, C, H, W) or one (H, W), as the data set
                has them; or a picture, or a list of pictures: files, or images of Pillow.

        Raises:
            UserError: they are neither, or of another size than the data set's.
        """
        config, data, model = self._restored
        stored = _stored_images(images, data)
        facts = data.dataset
        wanted = facts.image_shape
        if tuple(data.as_pixels(stored[:1]).shape[1:]) != wanted:
            raise UserError(
                f"images of shape {tuple(stored.shape)}: the run reads {wanted[1]} x {wanted[2]} "
                f"pixels of {wanted[0]} channels"
            )
        probabilities = compute_logits(config, data, model, stored).softmax(1).numpy()
        labels = probabilities.argmax(1)
        names = [facts.class_names[label] for label in labels]
        return Predictions(labels, names, probabilities)


def _stored_images(images: Images, data: DataModule) -> Tensor:
    """Images as a data set stores them, (N, H, W) or (N, C, H, W), uint8."""
    if isinstance(images, (str, Path, Image.Image)):
        images = [images]
    if isinstance(images, (list, tuple)) and images:
        if isinstance(images[0], (str, Path)):
            return torch.stack([data.read_picture(path) for path in images])
        if isinstance(images[0], Image.Image):
            return torch.stack([data.as_stored(picture) for picture in images])
        images = np.stack([np.asarray(image) for image in images])
    array = np.asarray(images)
    if array.dtype != np.uint8 or array.ndim not in (2, 3, 4) or not array.size:
        raise UserError(
            f"images of shape {array.shape} and type {array.dtype}: must be uint8 (N, H, W), "
            "(N, C, H, W) or (H, W), or pictures"
        )
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor[None] if tensor.ndim == 2 else tensor


def load(directory: str | Path, checkpoint: str = "last", trust: Sequence[str] = ()) -> TrainedRun:
    """Open a run directory, `outputs/NAME`.

    Args:
        checkpoint: "last" or "best".
        trust: packages whose code the run may also be made of, as `--trust` names them.

    Raises:
        UserError: there is no run.
    """
    trusted.update(trust)
    return TrainedRun(directory, checkpoint)


def train(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> TrainedRun:
    """Train as `python train.py OVERRIDES` does, and return the run.

    The same overrides with the same name continue an unfinished run, and return a finished one.
    Ctrl-C, or a notebook's stop button, saves and raises KeyboardInterrupt.

    Args:
        overrides: of the config, as on the command line.
        config_dir: a folder of config groups of your own.

    Raises:
        UserError: an override is wrong, or the run cannot be trained; the message says why.
    """
    add_current_folder()
    add_config_folder(config_dir)
    try:
        config = _composed(list(overrides))
        with raising(), _logging(Path(config.run_dir)), open_run(config) as run:
            if not run.finished:
                train_in(config, run)
    except HYDRA_ERRORS as error:
        raise UserError(explain(error)) from error
    except SystemExit as stop:
        # a saved stop; in a notebook it must not end the kernel
        raise KeyboardInterrupt(stop.code) from None
    return TrainedRun(run.path)


def _composed(overrides: list[str]) -> DictConfig:
    """The config of a run, and its directory where Hydra keeps it."""
    try:
        config = compose(overrides)
    except (TypeError, ValueError) as error:
        if is_wrong_group_choice(error):
            raise UserError(explain(error)) from error
        raise
    hydra = HydraConfig.get()
    if hydra.runtime.choices.get("launcher", "serial") != "serial":
        raise UserError("launcher: runs the jobs of a sweep; `python train.py -m` starts one")
    if starts_several_processes(config):
        raise UserError("trainer.devices: several processes are started by train.py alone")
    with read_write(hydra), open_dict(hydra):
        hydra.runtime.output_dir = str(Path(hydra.run.dir).resolve())
    return config


@contextmanager
def _logging(directory: Path) -> Iterator[None]:
    """Show what the project logs, and keep it in the run's `train.log`."""
    logger = logging.getLogger("cnnbp")
    console = logging.StreamHandler(sys.stdout)
    console.setFormatter(logging.Formatter("%(message)s"))
    # made at the first line, when the directory is there
    file = logging.FileHandler(directory / "train.log", delay=True)
    file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(console)
    logger.addHandler(file)
    try:
        yield
    finally:
        logger.level, logger.propagate = before
        for handler in (console, file):
            logger.removeHandler(handler)
        file.close()
