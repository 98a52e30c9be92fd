"""Hydra's sweeper for `train.py -m`: it continues sweeps and ends them with a leaderboard."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from cnnbp.config.hydra_errors import explain
from cnnbp.errors import UserError
from cnnbp.files import replacing
from cnnbp.runs.run_directory import LEFT_TO_OTHERS, MULTIRUN
from cnnbp.signals import exit_at_once, interrupt, on_stop
from cnnbp.sweeps.job_progress import job_progress
from cnnbp.sweeps.leaderboard import end_sweep
from cnnbp.sweeps.multirun import Job, JobsOfOthers, check_jobs, missing_jobs


class ReadOnce(CachingConfigRepository):
    """The config files as the sweep found them; Hydra would read them anew for each job."""

    def __deepcopy__(self, memo: dict) -> "ReadOnce":
        return self


class ResumingSweeper(BasicSweeper):
    """Runs the jobs that have no result yet.

    Several processes with the same command share the jobs: each takes the next one that nobody
    holds, waits at the end for those of the others, and takes over what a dead one has left.
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
        failures = self._run(missing, directory)
        end_sweep(directory, failures)
        if failures:
            sys.exit(f"error: {len(failures)} of {len(jobs)} jobs failed; the table names them")

    def _compose(self, job: list[str]) -> DictConfig:
        return self.hydra_context.config_loader.load_sweep_config(self.config, job)

    def _missing(self, jobs: list[Job], directory: Path) -> list[Job]:
        hydra = self.config.hydra
        folders = []
        for source in hydra.runtime.config_sources:
            if source.schema == "file":
                folders.append(Path(source.path))
        passing_keys = hydra.job.config.override_dirname.exclude_keys
        return missing_jobs(jobs, directory, passing_keys, folders)

    def _run(self, jobs: list[Job], directory: Path) -> dict[Path, str]:
        """Run the jobs that no other process has taken, and wait for the others.

        Returns:
            Why jobs failed, here or in another process, by their directories.
        """
        # read once, as each further process that shares the sweep writes the file anew
        since = (directory / MULTIRUN).stat().st_mtime
        others = JobsOfOthers(since)
        failures = {}
        overview = partial(job_progress, directory, len(jobs), since)
        with self._stopping(directory.name):
            while jobs:
                # these two show themselves how far they are
                with nullcontext() if self._launcher in ("basic", "fleet") else overview():
                    ended = self._launch(jobs, directory)
                for job, (path, error) in zip(jobs, ended, strict=True):
                    if error == LEFT_TO_OTHERS:
                        others.jobs[path] = job
                    elif error:
                        failures[path] = error
                jobs = self._wait(others, overview)
        return failures | others.failures

    def _wait(self, others: JobsOfOthers, overview: Callable) -> list[Job]:
        """Wait for the jobs of others; return those that a dead process has left."""
        abandoned = others.take_abandoned()
        if abandoned or not others.jobs:
            return abandoned
        print(f"waiting for the jobs of other processes: {len(others.jobs)}", flush=True)
        # the jobs that ran here have set handlers of their own
        on_stop(interrupt)
        with overview():
            return others.wait()

    @property
    def _launcher(self) -> str:
        return self.config.hydra.runtime.choices["hydra/launcher"]

    @contextmanager
    def _stopping(self, name: str) -> Iterator[None]:
        """End on a signal with one line, while this process waits for others."""
        if self._launcher != "basic":
            on_stop(interrupt)
        try:
            yield
        except KeyboardInterrupt as stop:
            print(f"stopped; the same command with name={name} continues", file=sys.stderr)
            sys.exit(stop.args[0])
        finally:
            on_stop(exit_at_once)

    def _launch(self, jobs: list[Job], directory: Path) -> list[tuple[Path, str | None]]:
        """Run jobs; return the directory of each, and why it failed.

        Raises:
            UserError: the launcher failed.
        """
        try:
            returns = self.launcher.launch(jobs, initial_job_idx=0)
        except Exception as error:
            choice = self.config.hydra.runtime.choices.launcher
            raise UserError(
                f"launcher={choice}: {explain(error)}; "
                f"with name={directory.name} the same command continues"
            ) from error
        ended = []
        for job in returns:
            path = Path(job.hydra_cfg.hydra.runtime.output_dir)
            # what went wrong, instead of an accuracy
            error = job.return_value[0] if isinstance(job.return_value, list) else None
            ended.append((directory / os.path.relpath(path, directory), error))
        return ended
