"""The one writer of a run directory: what a command that is given a name finds there and leaves."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cnnbp.config.error_line import WANTS_TRACEBACKS, is_users
from cnnbp.config.hydra_errors import explain
from cnnbp.errors import UserError
from cnnbp.files import remove_parts, replacing
from cnnbp.runs.event_files import merge_event_files, remove_event_files
from cnnbp.runs.run_lock import InUse, RunLock
from cnnbp.runs.run_record import (
    CHECKPOINTS,
    CONFIG,
    ERROR,
    HYDRA,
    HYDRA_CONFIG,
    KEYS_OF_THE_COMMAND,
    LAST,
    OVERRIDES,
    PREVIOUS,
    RESULT,
    TRACKERS,
    RunRecord,
)

log = logging.getLogger(__name__)

# written by a sweep when it starts
MULTIRUN = "multirun.yaml"
# the return value of a job that another process of the sweep trains, or has seen failing
LEFT_TO_OTHERS = "left to another process"

# what a directory below outputs/ can be: the file that shows it, and the command that continues it
KINDS = {
    "single run": (HYDRA, "train.py without -m"),
    "sweep": (MULTIRUN, "train.py -m"),
    "study": ("trial-*", "python -m cnnbp search"),
}


def refuse_another_kind(directory: Path, own: str) -> None:
    """Raise a UserError when a directory is of another of the `KINDS` than `own`."""
    for kind, (mark, command) in KINDS.items():
        if kind != own and any(directory.glob(mark)):
            shown = os.path.relpath(directory)
            raise UserError(
                f"{shown} is the directory of a {kind}; "
                f"give another name=, or continue it by {command}"
            )


class FailedElsewhere(UserError):
    """Another process of the sweep has tried this job since the sweep was started here."""


class RunDirectory:
    """A run directory, held by one process at a time.

    The same command with the same name continues an unfinished run from its last checkpoint, and
    returns the stored result of a finished one. With `overwrite` the run is trained anew, and what
    was there is dropped at its first checkpoint. A run that fails before its first checkpoint
    leaves no directory, a failed job of a multirun leaves `error.txt`.

    Raises:
        UserError: another process holds the directory, it is a sweep's or a study's, or it was
            made with another config.
    """

    def __init__(self, config: DictConfig):
        self.config = config
        self.path = Path(config.run_dir)
        self.finished = self._is_new = False
        self._lock = RunLock(self.path)
        # beside it, because a rename is one step within one file system only
        self._replaced = self.path.with_name(f".{self.path.name}.replaced")

    def __enter__(self) -> "RunDirectory":
        if HydraConfig.get().mode == RunMode.RUN:
            refuse_another_kind(self.path, "single run")
        self._lock.acquire()
        try:
            self._prepare()
        except Exception:
            self._remove_if_new()
            # other processes of the sweep wait for it
            self._lock.release()
            raise
        return self

    def _prepare(self) -> None:
        """Leave in the directory what this command may continue, the lock being held."""
        self._refuse_failed_elsewhere()
        self._settle_overwrite()
        self.path.mkdir(parents=True, exist_ok=True)
        self._is_new = not os.listdir(self.path)
        # the lock is held, so that no living process writes here
        for directory in (self.path, self.path / CHECKPOINTS, self.path / HYDRA):
            remove_parts(directory)
        if self.config.overwrite:
            # in one step; the new training's first checkpoint makes it final
            self.path.rename(self._replaced)
            self.path.mkdir()
            # the job would stay in what it replaces
            if HydraConfig.get().job.chdir:
                os.chdir(self.path)
        self._refuse_another_config()
        self.finished = RunRecord(self.path).is_finished
        if self.finished:
            log.info("%s is finished: %s", self._shown_path, self._score_text())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._settle_overwrite()
        is_job = HydraConfig.get().mode == RunMode.MULTIRUN
        if is_job and isinstance(error, Exception):
            self.write_error(_reason(error))
        elif error:
            self._remove_if_new()
        was_stopped = error is not None and not isinstance(error, Exception)
        if was_stopped and self.has_checkpoint:
            without = " without overwrite=true" if self.config.overwrite else ""
            log.info(
                "stopped; the same command%s with name=%s continues", without, self.config.name
            )
        self._lock.release()

    def _remove_if_new(self) -> None:
        """Leave nothing of a run that has come to nothing."""
        if self._is_new and not self.has_checkpoint:
            shutil.rmtree(self.path, ignore_errors=True)

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a state to continue from."""
        return _has_checkpoint(self.path)

    @property
    def _shown_path(self) -> str:
        """The path as seen from where the command was started; Hydra may have changed folders."""
        return os.path.relpath(self.path.resolve(), HydraConfig.get().runtime.cwd)

    def start(self) -> None:
        """Write the config and the overrides to .hydra/."""
        (self.path / ERROR).unlink(missing_ok=True)
        if self.has_checkpoint:
            merge_event_files(self.path)
        else:
            # killed before its first save, it begins again
            remove_event_files(self.path)
        (self.path / HYDRA).mkdir(exist_ok=True)
        hydra = HydraConfig.get()
        # with the name that `${now:...}` gave, so that the same run can be asked for again
        config = OmegaConf.merge(self.config, {"name": str(self.config.name)})
        contents = {
            CONFIG: config,
            OVERRIDES: hydra.overrides.task,
            HYDRA_CONFIG: OmegaConf.create({"hydra": hydra}),
        }
        for name, content in contents.items():
            with replacing(self.path / name) as file:
                OmegaConf.save(content, file)
        continued = ", continued from its last checkpoint" if self.has_checkpoint else ""
        log.info("%s%s", self._shown_path, continued)

    def finish(self, result: dict[str, Any]) -> None:
        """Store the result; from now on the same command returns it."""
        with replacing(self.path / RESULT) as file:
            json.dump(result, file, indent=2)
        log.info("%s; everything of this run is in %s", self._score_text(), self._shown_path)

    def keep_trackers(self, ids: dict[str, str]) -> None:
        """Store the ids of tracker runs, in which a continued run goes on."""
        if ids and ids != RunRecord(self.path).trackers:
            with replacing(self.path / TRACKERS) as file:
                json.dump(ids, file, indent=2)

    def write_error(self, reason: str) -> None:
        """Store why the run has no result."""
        with replacing(self.path / ERROR) as file:
            file.write(reason + "\n")

    def score(self) -> float | None:
        """The accuracy that a sweep maximises: of the validation split, else of the test set.

        None where the run stores no result, as with `trainer.fast_dev_run`.
        """
        result = RunRecord(self.path).result
        if result is None:
            return None
        return result["val_accuracy"] if "val_accuracy" in result else result["accuracy"]

    def _score_text(self) -> str:
        result = RunRecord(self.path).result or {}
        split = "validation" if "val_accuracy" in result else "test"
        return f"{split} accuracy {self.score():.2%}"

    def _refuse_failed_elsewhere(self) -> None:
        """Do not try what another process of this sweep has just seen failing."""
        error, sweep = self.path / ERROR, self.path.parent / MULTIRUN
        if HydraConfig.get().mode != RunMode.MULTIRUN or not (error.exists() and sweep.exists()):
            return
        if error.stat().st_mtime > sweep.stat().st_mtime:
            raise FailedElsewhere(error.read_text().strip())

    def _refuse_another_config(self) -> None:
        record = RunRecord(self.path)
        if not record.exists or not _is_trained(self.path):
            return
        try:
            old = _flatten(record.config)
        except UserError as error:
            raise UserError(f"{error}; remove {self.path}, or give another name=") from None
        new = _flatten(self.config)
        old["name"], new["name"] = str(old.get("name")), str(self.config.name)
        changes = []
        for key in {**old, **new}:
            if key not in KEYS_OF_THE_COMMAND and old.get(key) != new.get(key):
                changes.append(f"{key}: {old.get(key)} -> {new.get(key)}")
        if changes:
            raise UserError(
                f"{self.path} was made with another config ({', '.join(changes)}); "
                "give another name=, or overwrite=true to train anew"
            )

    def _settle_overwrite(self) -> None:
        """Drop what a new training has replaced; where it came to no checkpoint, put it back.

        Also after a kill: the two directories themselves show how far it had come.
        """
        if not self._replaced.exists():
            return
        if _is_trained(self.path):
            shutil.rmtree(self._replaced)
            return
        shutil.rmtree(self.path, ignore_errors=True)
        self._replaced.rename(self.path)


class FurtherProcess(RunDirectory):
    """The directory for a further process of a distributed run: the first process writes it."""

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *error: object) -> None:
        return

    def start(self) -> None:
        return

    def finish(self, result: dict[str, Any]) -> None:
        return

    def keep_trackers(self, ids: dict[str, str]) -> None:
        return

    def score(self) -> None:
        return


def open_run(config: DictConfig) -> RunDirectory:
    """The run directory of a config, for this process of the run."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        refuse_several_processes(config)
    for rank in ("LOCAL_RANK", "SLURM_PROCID"):
        if int(os.environ.get(rank, 0)):
            return FurtherProcess(config)
    return RunDirectory(config)


@contextmanager
def job_failures() -> Iterator[list[str]]:
    """Let a job of a multirun fail without stopping the others; its error goes into the list.

    For a job that another process of the sweep has taken, the list holds `LEFT_TO_OTHERS`.
    """
    failures: list[str] = []
    try:
        yield failures
    except Exception as error:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            raise
        if isinstance(error, (InUse, FailedElsewhere)):
            failures.append(LEFT_TO_OTHERS)
            return
        is_clear = is_users(error) and not WANTS_TRACEBACKS
        log.error("%s", explain(error), exc_info=None if is_clear else error)
        failures.append(_reason(error))


def _reason(error: Exception) -> str:
    """The kind of an error, and what it means for the user."""
    kind, message = type(error).__name__, explain(error)
    return f"{kind}: {message}" if message else kind


def starts_several_processes(config: DictConfig) -> bool:
    """Whether one run of this config is trained by several processes."""
    return config.trainer.strategy == "ddp" or config.trainer.devices != 1


def refuse_several_processes(config: DictConfig) -> None:
    """Raise a UserError for a job that would start further processes.

    Each of them would start the whole sweep again.
    """
    if starts_several_processes(config):
        raise UserError(
            "trainer.devices: several processes run alone, not in a multirun or a search; "
            "give trainer=auto"
        )


def _has_checkpoint(path: Path) -> bool:
    return any((path / CHECKPOINTS / name).exists() for name in (LAST, PREVIOUS))


def _is_trained(path: Path) -> bool:
    """Whether there is anything to lose."""
    return _has_checkpoint(path) or RunRecord(path).is_finished


def _flatten(config: DictConfig) -> dict[str, Any]:
    """Every value by its dotted key."""
    flat: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        if not isinstance(node, dict):
            flat[prefix] = node
            return
        for key, value in node.items():
            walk(value, f"{prefix}.{key}" if prefix else key)

    walk(OmegaConf.to_container(config), "")
    return flat
