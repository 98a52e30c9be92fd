"""`train.py -m`: Hydra's sweeper, which leaves out finished jobs, watches the others, and ends with a leaderboard."""

import os
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from cnnbp.config.options import validate
from cnnbp.errors import UserError, explain
from cnnbp.files import replacing
from cnnbp.runs.run_directory import refuse_another_kind, refuse_several_processes
from cnnbp.signals import interrupt, on_stop
from cnnbp.sweeps import leaderboard
from cnnbp.sweeps.job_progress import overview


class ReadOnce(CachingConfigRepository):
    """The config files as the sweep found them, one for all its jobs; Hydra would read them for each anew."""

    def __deepcopy__(self, memo: dict) -> "ReadOnce":
        return self


class ResumingSweeper(BasicSweeper):
    """Runs the jobs that have no result yet; a job that fails stops no other, and the exit status is then 1.

    Raises:
        UserError: for what no job can be composed with, before anything is created; or when the launcher fails.
    """

    def sweep(self, arguments: list[str]) -> None:
        loader = self.hydra_context.config_loader
        loader.repository = ReadOnce(loader.repository)
        parser = OverridesParser.create(config_loader=loader)
        ((*jobs,),) = self.split_arguments(parser.parse_overrides(arguments), None)
        directory = Path(self.config.hydra.sweep.dir)
        self._check(jobs, directory)
        finished = set() if self.config.overwrite else self._finished(directory)
        missing = [job for job in jobs if self._lasting(job) not in finished]
        if len(missing) < len(jobs):
            print(f"{len(jobs) - len(missing)} of {len(jobs)} jobs are finished")
        directory.mkdir(parents=True, exist_ok=True)
        with replacing(directory / "multirun.yaml") as file:
            OmegaConf.save(self.config, file)
        failures = self._launch(missing, directory) if missing else {}
        leaderboard.end_sweep(directory, failures)
        if failures:
            sys.exit(f"error: {len(failures)} of {len(jobs)} jobs failed; the table names them")

    def _check(self, jobs: list[list[str]], directory: Path) -> None:
        """Compose the first job and each further choice of a group: a mistake in these is no single job's."""
        if len({override for job in jobs for override in job if override.startswith("name=")}) > 1:
            raise UserError(
                "name: takes one value, of the whole sweep; each job's directory is named by its overrides"
            )
        refuse_another_kind(directory, "sweep")
        validate(self.config)
        groups = set(self.hydra_context.config_loader.list_groups(""))
        seen = None
        for job in jobs:
            choices = {
                override for override in job if override.partition("=")[0].lstrip("+~") in groups
            }
            if seen is None or not choices <= seen:
                refuse_several_processes(self._compose(job))
                seen = choices | (seen or set())

    def _compose(self, job: list[str]) -> DictConfig:
        return self.hydra_context.config_loader.load_sweep_config(self.config, job)

    def _finished(self, directory: Path) -> set[frozenset[str]]:
        """The overrides of the jobs with a result, as long as no config file was changed since.

        Composing the config of a job takes longer than all else that a finished one needs.
        """
        sources = [
            Path(source.path)
            for source in self.config.hydra.runtime.config_sources
            if source.schema == "file"
        ]
        changed = max(
            (file.stat().st_mtime for source in sources for file in source.rglob("*.yaml")),
            default=0,
        )
        finished = set()
        for run in (path.parent for path in directory.glob("*/result.json")):
            record = run / ".hydra" / "overrides.yaml"
            if (
                record.exists()
                and record.stat().st_mtime > changed
                and "error" not in leaderboard.outcome(run)
            ):
                finished.add(self._lasting(leaderboard.given(run)))
        return finished

    def _lasting(self, overrides: Iterable[str]) -> frozenset[str]:
        passing = self.config.hydra.job.config.override_dirname.exclude_keys
        return frozenset(
            override
            for override in overrides
            if override.partition("=")[0].lstrip("+~") not in passing
        )

    def _launch(self, jobs: list[list[str]], directory: Path) -> dict[Path, str]:
        """Run the jobs; return why the failed ones failed."""
        parallel = self.config.hydra.runtime.choices["hydra/launcher"] != "basic"
        if parallel:
            on_stop(interrupt)
        try:
            with overview(directory, len(jobs)) if parallel else nullcontext():
                returns = self.launcher.launch(jobs, initial_job_idx=0)
        except KeyboardInterrupt as stop:
            print(
                f"stopped; the same command with name={directory.name} continues", file=sys.stderr
            )
            sys.exit(stop.args[0])
        except Exception as error:
            choice = self.config.hydra.runtime.choices.launcher
            raise UserError(
                f"launcher={choice}: {explain(error)}; with name={directory.name} the same command continues"
            ) from error
        outcomes = {
            Path(done.hydra_cfg.hydra.runtime.output_dir): done.return_value for done in returns
        }
        failed = {path: value[0] for path, value in outcomes.items() if isinstance(value, list)}
        return {
            directory / os.path.relpath(path, directory): error for path, error in failed.items()
        }
