"""What `train.py -m` does around its jobs: leave out finished ones, wait for those of others."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write

from cnnbp.config.check import validate
from cnnbp.errors import UserError
from cnnbp.runs.run_directory import refuse_another_kind, refuse_several_processes
from cnnbp.runs.run_lock import RunLock
from cnnbp.runs.run_record import ERROR, OVERRIDES, RESULT, RunRecord
from cnnbp.sweeps.job_progress import is_newer
from cnnbp.sweeps.ranking import override_key

# its overrides
Job = list[str]
# between two looks at the jobs of other processes
WAIT_SECONDS = 0.5


def check_jobs(
    config: DictConfig,
    jobs: Sequence[Job],
    directory: Path,
    compose: Callable[[Job], DictConfig],
    groups: set[str],
) -> None:
    """Check what is no single job's mistake: the sweep itself, the first job and each group choice.

    Composing all jobs of a large sweep would take too long.

    Args:
        directory: the sweep's.
        compose: gives the config of a job.
        groups: the names of all config groups.

    Raises:
        UserError: no job could run.
    """
    names = set()
    for job in jobs:
        names.update(override for override in job if override.startswith("name="))
    if len(names) > 1:
        raise UserError(
            "name: takes one value, of the whole sweep; "
            "each job's directory is named by its overrides"
        )
    refuse_another_kind(directory, "sweep")
    validate(config)
    seen: set[str] = set()
    for number, job in enumerate(jobs):
        choices = {override for override in job if override_key(override) in groups}
        if number == 0 or not choices <= seen:
            refuse_several_processes(compose(job))
            seen |= choices


def missing_jobs(
    jobs: Sequence[Job], directory: Path, passing_keys: Iterable[str], config_folders: list[Path]
) -> list[Job]:
    """The jobs without a result; those whose config files were changed since count as missing.

    Args:
        passing_keys: keys of overrides that change no result, such as launcher.
        config_folders: where the config files are.
    """
    changed = max(map(_last_change, config_folders), default=0.0)
    finished = set()
    for result in directory.glob(f"*/{RESULT}"):
        run = RunRecord(result.parent)
        record = run.path / OVERRIDES
        # composing the config of a job, to compare it, would take longer than all else here
        is_current = record.exists() and record.stat().st_mtime > changed
        if is_current and run.error is None:
            finished.add(_lasting(run.overrides, passing_keys))
    return [job for job in jobs if _lasting(job, passing_keys) not in finished]


def give_directory(config: DictConfig) -> None:
    """Give the config of a job its run directory, as Hydra does where it runs the job."""
    HydraConfig.instance().set_config(config)
    path = os.path.join(config.hydra.sweep.dir, config.hydra.sweep.subdir)
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = os.path.abspath(path)
    HydraConfig.instance().set_config(config)


class JobsOfOthers:
    """The jobs of a sweep that other processes have taken.

    Args:
        since: when the sweep was started, in seconds by the clock of the file system.

    Attributes:
        jobs: those that are waited for, by their directories.
        failures: why jobs failed in other processes.
    """

    def __init__(self, since: float):
        self.since = since
        self.jobs: dict[Path, Job] = {}
        self.failures: dict[Path, str] = {}

    def wait(self) -> list[Job]:
        """Wait until all jobs have ended, or a process has died; return the jobs that it left."""
        while True:
            abandoned = self.take_abandoned()
            if abandoned or not self.jobs:
                return abandoned
            time.sleep(WAIT_SECONDS)

    def take_abandoned(self) -> list[Job]:
        """Leave out the jobs that have ended; return those that a dead process has left."""
        abandoned = []
        for path in list(self.jobs):
            # the lock first: its holder writes how a job ended before it lets go
            if RunLock(path).is_held():
                continue
            job = self.jobs.pop(path)
            if is_newer(path / ERROR, self.since):
                self.failures[path] = (path / ERROR).read_text().strip()
            elif not is_newer(path / RESULT, self.since):
                abandoned.append(job)
        return abandoned


def _last_change(folder: Path) -> float:
    times = [file.stat().st_mtime for file in folder.rglob("*.yaml")]
    return max(times, default=0.0)


def _lasting(overrides: Iterable[str], passing_keys: Iterable[str]) -> frozenset[str]:
    """The overrides that make a job what it is."""
    return frozenset(text for text in overrides if override_key(text) not in passing_keys)
