"""What Hydra calls of ours: resolvers for the names of directories, and a check before a run."""

import hashlib
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cnnbp.config.check import validate
from cnnbp.config.error_line import errors_on_one_line
from cnnbp.config.options import LONGEST_NAME_BYTES, NOT_IN_FILE_NAMES, RunOptions, check
from cnnbp.errors import UserError

# of a run's name in Weights & Biases
LONGEST_LABEL = 128


def file_name(text: str) -> str:
    """Make a directory's name of a job's overrides, which a file system takes and has room for."""
    name = text.translate({ord(character): "_" for character in NOT_IN_FILE_NAMES}).encode()
    if len(name) <= LONGEST_NAME_BYTES:
        return name.decode()
    # a character may be cut in two
    start = name[:LONGEST_NAME_BYTES].decode(errors="ignore")
    return f"{start}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def run_name(name: Any) -> str:
    """Check a run's name before anything is created under it."""
    check(RunOptions, {"name": name})
    return str(name)


def run_label(directory: str) -> str:
    """What a tracker calls a run: its path below `outputs/`, as far as there is room."""
    parts = Path(directory).parts
    if "outputs" in parts:
        last = len(parts) - 1 - parts[::-1].index("outputs")
        parts = parts[last + 1 :]
    return "/".join(parts)[-LONGEST_LABEL:]


def in_multirun(value: Any, otherwise: Any) -> Any:
    """Choose between what holds for a job of a multirun or a trial, and for a single run."""
    is_set = HydraConfig.initialized()
    return value if is_set and HydraConfig.get().mode == RunMode.MULTIRUN else otherwise


OmegaConf.register_new_resolver("file_name", file_name, replace=True)
OmegaConf.register_new_resolver("in_multirun", in_multirun, replace=True)
OmegaConf.register_new_resolver("run_label", run_label, replace=True)
OmegaConf.register_new_resolver("run_name", run_name, replace=True)


class BeforeRun(Callback):
    """Refuses a wrong config before Hydra makes the run's directory."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with errors_on_one_line():
            launcher = config.hydra.runtime.choices.get("launcher", "serial")
            if launcher != "serial":
                raise UserError(
                    f"launcher={launcher}: runs the jobs of a multirun; give -m, or leave it out"
                )
            validate(config)
