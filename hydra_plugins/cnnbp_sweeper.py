"""Hydra's sweeper for `train.py -m`: it continues sweeps and ends them with a leaderboard."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from cnnbp.config.hydra_errors import explain
from cnnbp.errors import UserError
from cnnbp.files import replacing
from cnnbp.signals import interrupt, on_stop
from cnnbp.sweeps.job_progress import MULTIRUN, job_progress
from cnnbp.sweeps.leaderboard import end_sweep
from cnnbp.sweeps.multirun import check_jobs, missing_jobs


class ReadOnce(CachingConfigRepository):
    """The config files as the sweep found them; Hydra would read them anew for each job."""

    def __deepcopy__(self, memo: dict) -> "ReadOnce":
        return self


class ResumingSweeper(BasicSweeper):
    """Runs the jobs that have no result yet.

    A job that fails stops no other; the exit status is then 1.

    Raises:
        UserError: no job could run, which is found before anything is created; or the launcher
            failed.
    """

    def sweep(self, arguments: list[str]) -> None:
        loader = self.hydra_context.config_loader
        loader.repository = ReadOnce(loader.repository)
        parser = OverridesParser.create(config_loader=loader)
        ((*jobs,),) = self.split_arguments(parser.parse_overrides(arguments), None)
        directory = Path(self.config.hydra.sweep.dir)
        groups = set(loader.list_groups(""))
        check_jobs(self.config, jobs, directory, self._compose, groups)
        missing = jobs if self.config.overwrite else self._missing(jobs, directory)
        if len(missing) < len(jobs):
            print(f"{len(jobs) - len(missing)} of {len(jobs)} jobs are finished")
        directory.mkdir(parents=True, exist_ok=True)
        with replacing(directory / MULTIRUN) as file:
            OmegaConf.save(self.config, file)
        failures = self._launch(missing, directory) if missing else {}
        end_sweep(directory, failures)
        if failures:
            sys.exit(f"error: {len(failures)} of {len(jobs)} jobs failed; the table names them")

    def _compose(self, job: list[str]) -> DictConfig:
        return self.hydra_context.config_loader.load_sweep_config(self.config, job)

    def _missing(self, jobs: list[list[str]], directory: Path) -> list[list[str]]:
        hydra = self.config.hydra
        folders = []
        for source in hydra.runtime.config_sources:
            if source.schema == "file":
                folders.append(Path(source.path))
        passing_keys = hydra.job.config.override_dirname.exclude_keys
        return missing_jobs(jobs, directory, passing_keys, folders)

    def _launch(self, jobs: list[list[str]], directory: Path) -> dict[Path, str]:
        """Run the jobs; return why the failed ones failed."""
        launcher = self.config.hydra.runtime.choices["hydra/launcher"]
        if launcher != "basic":
            on_stop(interrupt)
        # these show themselves how far they are
        shows_progress = launcher in ("basic", "fleet")
        try:
            with nullcontext() if shows_progress else job_progress(directory, len(jobs)):
                returns = self.launcher.launch(jobs, initial_job_idx=0)
        except KeyboardInterrupt as stop:
            print(
                f"stopped; the same command with name={directory.name} continues", file=sys.stderr
            )
            sys.exit(stop.args[0])
        except Exception as error:
            choice = self.config.hydra.runtime.choices.launcher
            raise UserError(
                f"launcher={choice}: {explain(error)}; "
                f"with name={directory.name} the same command continues"
            ) from error
        failures = {}
        for job in returns:
            if isinstance(job.return_value, list):  # what went wrong, instead of an accuracy
                path = Path(job.hydra_cfg.hydra.runtime.output_dir)
                failures[directory / os.path.relpath(path, directory)] = job.return_value[0]
        return failures
