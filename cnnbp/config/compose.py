"""A config as train.py would compose it, for commands other than train.py."""

import json
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write

import cnnbp.config.hydra_hooks  # noqa: F401  registers the resolvers of the config
from cnnbp.config.check import validate
from cnnbp.config.command_line import prepare_overrides
from cnnbp.config.config_files import config_directory, own_folders


def compose(overrides: list[str], run_dir: str | Path | None = None) -> DictConfig:
    """Compose and validate a config.

    Hydra's own part goes where `${hydra:...}` looks for it.

    Args:
        run_dir: for the config of a run in this directory.
    """
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        own = [f"file://{folder}" for folder in own_folders]
        searchpath = [f"hydra.searchpath={json.dumps(own)}"] if own else []
        config = hydra_compose(
            "config", [*prepare_overrides(overrides), *searchpath], return_hydra_config=True
        )
    with read_write(config.hydra), open_dict(config.hydra):
        # a trial of a search keeps its directory and its error as a job of a multirun does
        config.hydra.mode = RunMode.MULTIRUN if run_dir else RunMode.RUN
        if run_dir:
            config.hydra.runtime.output_dir = str(run_dir)
    HydraConfig.instance().set_config(config)
    config = config.copy()
    with open_dict(config):
        del config["hydra"]
    validate(config)
    return config
