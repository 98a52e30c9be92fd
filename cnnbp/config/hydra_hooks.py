"""What Hydra needs of us: resolvers for the names of directories, and a check before a run."""

import hashlib
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from cnnbp.config.options import RULES, validate
from cnnbp.errors import UserError, in_one_line

LONGEST_NAME = 200  # bytes; file systems allow 255


def file_name(text: str) -> str:
    """Make one directory's name of a job's overrides: no slashes, and not too long for a file system."""
    name = text.replace("/", "_").encode()
    if len(name) <= LONGEST_NAME:
        return name.decode()
    return f"{name[:LONGEST_NAME].decode(errors='ignore')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def run_name(name: Any) -> str:
    """Check a run's name before anything is created under it."""
    RULES["name"].check("name", name)
    return str(name)


OmegaConf.register_new_resolver("file_name", file_name, replace=True)
OmegaConf.register_new_resolver("run_name", run_name, replace=True)


class BeforeRun(Callback):
    """Refuses a wrong config before Hydra makes the run's directory."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with in_one_line():
            launcher = config.hydra.runtime.choices.get("launcher", "serial")
            if launcher != "serial":
                raise UserError(
                    f"launcher={launcher}: runs the jobs of a multirun; give -m, or leave it out"
                )
            validate(config)
