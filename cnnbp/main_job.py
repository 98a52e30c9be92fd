"""The main job: compose, check, open the run directory, build, fit, test, store the result."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from cnnbp.config.check import check_arguments, validate
from cnnbp.config.command_line import options_first, prepare_overrides
from cnnbp.config.config_files import config_directory
from cnnbp.config.error_line import errors_on_one_line
from cnnbp.config.own_modules import add_current_folder
from cnnbp.runs.run_directory import RunDirectory, job_failures, open_run


@hydra.main(version_base="1.3", config_path=str(config_directory()), config_name="config")
def main(config: DictConfig) -> float | list[str] | None:
    """Train, test and write result.json.

    Returns:
        The accuracy that a sweep maximises, or what went wrong in a job of a sweep.
    """
    # a job of a launcher is a process that may have been started elsewhere
    add_current_folder(HydraConfig.get().runtime.cwd)
    with errors_on_one_line(), job_failures() as failures, open_run(config) as run:
        validate(config)
        if not run.finished:
            train(config, run)
        return run.score()
    return failures


def train(config: DictConfig, run: RunDirectory) -> None:
    """Seed, build, fit and test; continue from the run's last checkpoint where there is one."""
    # importing these takes seconds, and mistakes in the config are answered before
    from cnnbp.runs.checkpoint_file import find_checkpoint
    from cnnbp.training.build import build, fit_and_test

    check_arguments(config)
    checkpoint = find_checkpoint(run.path, config.ckpt_path)
    parts = build(config)
    run.start()
    fit_and_test(config, run, parts, checkpoint)


def run_from_command_line() -> None:
    """Train as `python train.py OVERRIDES` does."""
    sys.argv[1:] = prepare_overrides(options_first(sys.argv[1:]))
    add_current_folder()
    with errors_on_one_line():
        main()
