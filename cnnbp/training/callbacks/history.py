"""The weights after each epoch, kept so that a page can show how the network came to be."""

from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn

from cnnbp.errors import UserError
from cnnbp.files import remove_parts, replacing

# below the run directory
FOLDER = "history"


class History(Callback):
    """Keeps parameters and running statistics after an epoch, float16, in `history/epoch-NNN.npz`.

    `epoch-000.npz` holds those before the first step. Where weights are averaged, these are the
    averages. Each file is written whole, so that a killed run continues with those that it had.

    Args:
        directory: where the files go.
        every_n_epochs: how often; 0 writes none. One takes 45 kB and a few milliseconds.
    """

    def __init__(self, directory: str, every_n_epochs: int = 0):
        self.directory, self.every_n_epochs = Path(directory), every_n_epochs

    def on_train_start(self, trainer, module):
        if not self.every_n_epochs or not trainer.is_global_zero:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        remove_parts(self.directory)
        if trainer.global_step == 0:
            self._write(0, module.network)

    def on_train_epoch_end(self, trainer, module):
        epoch = trainer.current_epoch + 1
        if not self.every_n_epochs or not trainer.is_global_zero or epoch % self.every_n_epochs:
            return
        self._write(epoch, _evaluated_network(trainer, module))

    def _write(self, epoch: int, network: nn.Module) -> None:
        state: dict[str, Any] = {}
        for name, value in network.state_dict().items():
            state[name] = _half(value)
        with replacing(self.directory / f"epoch-{epoch:03}.npz", "wb") as file:
            np.savez(file, **state)


def _evaluated_network(trainer, module) -> Any:
    """The network with the weights that each epoch is evaluated with."""
    for callback in trainer.callbacks:
        if isinstance(callback, WeightAveraging) and callback._average_model is not None:
            return callback._average_model.module.network
    return module.network


def _half(value: Tensor) -> np.ndarray:
    return value.detach().cpu().half().numpy()


def read_history(
    directory: str | Path, like: dict[str, np.ndarray]
) -> list[tuple[int, np.ndarray]]:
    """The epochs that a run kept, in order, each with all its values in one array, float16.

    Args:
        like: arrays by their names in the network's state dict, in the order that is wanted.

    Raises:
        UserError: names a file that is damaged, or of another network.
    """
    files = sorted((Path(directory) / FOLDER).glob("epoch-*.npz"))
    return [(int(path.stem.removeprefix("epoch-")), _read(path, like)) for path in files]


def _read(path: Path, like: dict[str, np.ndarray]) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as state:
            values = [state[name] for name in like]
    except Exception as error:  # zipfile and NumPy raise nearly anything on a damaged file
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({reason}); remove it") from None
    if [value.shape for value in values] != [value.shape for value in like.values()]:
        raise UserError(f"{path}: is of another network; remove it")
    return np.concatenate([value.astype(np.float16).ravel() for value in values])
