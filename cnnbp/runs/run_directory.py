"""The run directory: what a command that is given the same name finds there, and what it leaves."""

import fcntl
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cnnbp.errors import UserError
from cnnbp.files import remove_parts, replacing
from cnnbp.runs.run_record import LAST, PREVIOUS, read_config, read_result

log = logging.getLogger(__name__)

LOCK = ".lock"
HOW_NOT_WHAT = (
    "jobs",
    "overwrite",
)  # keys that say how a command goes about it, not what is trained

# what a directory below outputs/ can be: how it is told, and the command that continues it
KINDS = {
    "single run": (".hydra", "train.py without -m"),
    "sweep": ("multirun.yaml", "train.py -m"),
    "study": ("trial-*", "python -m cnnbp search"),
}


def refuse_another_kind(directory: Path, own: str) -> None:
    """Raise a UserError when the directory is of another of the `KINDS` than `own`."""
    for kind, (mark, command) in KINDS.items():
        if kind != own and any(directory.glob(mark)):
            shown = os.path.relpath(directory)
            raise UserError(
                f"{shown} is the directory of a {kind}; give another name=, or continue it by {command}"
            )


class Run:
    """One run directory, held by one process at a time.

    The same command with the same name continues an unfinished run from its last checkpoint and returns the
    stored result of a finished one; `overwrite` trains anew, and drops what was there at its first checkpoint. A run
    that fails before its first checkpoint leaves no directory, a failed job of a multirun `error.txt`.

    Raises:
        UserError: another process holds the directory, it is a sweep's, or it was made with another config.
    """

    def __init__(self, config: DictConfig):
        self.config = config
        self.path = Path(config.run_dir)
        self.finished = False

    def __enter__(self) -> "Run":
        if HydraConfig.get().mode == RunMode.RUN:
            refuse_another_kind(self.path, "single run")
        self._lock()
        self.fresh = os.listdir(self.path) == [LOCK]
        for directory in (self.path, self.path / "checkpoints", self.path / ".hydra"):
            remove_parts(directory)
        self._settle()
        if self.config.overwrite:
            self._put_aside()
        self._refuse_another_config()
        self.finished = (self.path / "result.json").exists()
        if self.finished:
            log.info("%s is finished: %s", os.path.relpath(self.path), self._told_score())
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._settle()
        if HydraConfig.get().mode == RunMode.MULTIRUN and isinstance(error, Exception):
            with replacing(self.path / "error.txt") as file:
                file.write(told(error) + "\n")
        elif error and self.fresh and not self.has_checkpoint:
            shutil.rmtree(self.path, ignore_errors=True)
        if error and not isinstance(error, Exception) and self.has_checkpoint:
            without = " without overwrite=true" * self.config.overwrite
            log.info(
                "stopped; the same command%s with name=%s continues", without, self.config.name
            )
        self.lock.close()

    @property
    def has_checkpoint(self) -> bool:
        return any((self.path / "checkpoints" / name).exists() for name in (LAST, PREVIOUS))

    @property
    def is_trained(self) -> bool:
        """Whether there is anything to lose."""
        return self.has_checkpoint or (self.path / "result.json").exists()

    def start(self) -> None:
        """Leave what the run is made with: `.hydra/config.yaml`, `overrides.yaml` and `hydra.yaml`."""
        (self.path / "error.txt").unlink(missing_ok=True)
        records = self.path / ".hydra"
        records.mkdir(exist_ok=True)
        hydra = HydraConfig.get()
        # the name as it came out, so that the same run can be asked for again
        named = OmegaConf.merge(self.config, {"name": str(self.config.name)})
        contents = {
            "config": named,
            "overrides": hydra.overrides.task,
            "hydra": OmegaConf.create({"hydra": hydra}),
        }
        for name, content in contents.items():
            with replacing(records / f"{name}.yaml") as file:
                OmegaConf.save(content, file)
        log.info(
            "%s%s",
            os.path.relpath(self.path),
            ", continued from its last checkpoint" * self.has_checkpoint,
        )

    def finish(self, result: dict) -> None:
        """Store the result; from now on the same command returns it."""
        with replacing(self.path / "result.json") as file:
            json.dump(result, file, indent=2)
        log.info(
            "%s; everything of this run is in %s", self._told_score(), os.path.relpath(self.path)
        )

    def score(self) -> float | None:
        """What a sweep maximises: the validation accuracy, without a validation split the test accuracy."""
        result = read_result(self.path / "result.json")
        return result["val_accuracy"] if "val_accuracy" in result else result["accuracy"]

    def _told_score(self) -> str:
        return (
            f"{'validation' if self.config.data.val_size else 'test'} accuracy {self.score():.2%}"
        )

    def _refuse_another_config(self) -> None:
        record = self.path / ".hydra" / "config.yaml"
        if not record.exists() or not self.is_trained:
            return
        try:
            old, new = _flat(read_config(record)), _flat(self.config)
        except UserError as error:
            raise UserError(f"{error}; remove {self.path}, or give another name=") from None
        old["name"], new["name"] = str(old.get("name")), str(self.config.name)
        differing = [
            key
            for key in {**old, **new}
            if old.get(key) != new.get(key) and key not in HOW_NOT_WHAT
        ]
        if differing:
            changes = ", ".join(f"{key}: {old.get(key)} -> {new.get(key)}" for key in differing)
            advice = "give another name=, or overwrite=true to train anew"
            raise UserError(f"{self.path} was made with another config ({changes}); {advice}")

    @property
    def aside(self) -> Path:
        return self.path / ".replaced"

    @property
    def moving(self) -> Path:
        return self.path / ".moving"

    def _put_aside(self) -> None:
        """Take what there is out of the way of a new training."""
        self.moving.mkdir()
        for item in self.path.iterdir():
            if item.name not in (LOCK, self.moving.name):
                item.rename(self.moving / item.name)
        self.moving.rename(self.aside)

    def _settle(self) -> None:
        """Drop what was put aside, or where the new training came to no checkpoint put it back."""
        if self.aside.exists():
            if self.is_trained:
                shutil.rmtree(self.aside)
            else:
                self.aside.rename(self.moving)
        if self.moving.exists():  # also what a kill left half moved, either way
            for item in self.moving.iterdir():
                replaced = self.path / item.name
                if replaced.is_dir():
                    shutil.rmtree(replaced)
                item.replace(replaced)
            self.moving.rmdir()

    def _lock(self) -> None:
        path = self.path / LOCK
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock = path.open("a+")
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(path.stat(), os.stat(self.lock.fileno())):
                    break
            except BlockingIOError:
                raise UserError(
                    f"{self.path} is in use by {_holder(path)}; wait, or give another name="
                ) from None
            except FileNotFoundError:  # the process that had it failed, and removed its directory
                continue
        self.lock.truncate(0)
        self.lock.write(
            f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}"
        )
        self.lock.flush()


class Follower(Run):
    """The part that a further process of a distributed run has in the directory: none, it is the first one's."""

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind, error, trace) -> None: ...

    def start(self) -> None: ...

    def finish(self, result: dict) -> None: ...

    def score(self) -> None: ...


@contextmanager
def told_at_the_end() -> Iterator[list[str]]:
    """Let a job of a multirun fail without stopping the others; what went wrong is put into the list."""
    failures = []
    try:
        yield failures
    except Exception as error:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            raise
        log.error("%s", error, exc_info=None if isinstance(error, UserError) else error)
        failures.append(told(error))


def told(error: Exception) -> str:
    """The kind of an error and its message, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def open_run(config: DictConfig) -> Run:
    """The run directory of a config, for this process of the run."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        refuse_several_processes(config)
    further = any(int(os.environ.get(rank, 0)) for rank in ("LOCAL_RANK", "SLURM_PROCID"))
    return Follower(config) if further else Run(config)


def _holder(lock: Path) -> str:
    for _ in range(20):  # the holder may be about to write who it is
        if holder := lock.read_text():
            return holder
        time.sleep(0.05)
    return "another process"


def refuse_several_processes(config: DictConfig) -> None:
    """Raise a UserError for a job that would start further processes: each would start the whole sweep again."""
    if config.trainer.strategy == "ddp" or config.trainer.devices != 1:
        raise UserError(
            "trainer.devices: several processes run alone, not in a multirun or a search; give trainer=auto"
        )


def _flat(config: DictConfig) -> dict[str, object]:
    flat = {}

    def walk(node, prefix):
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{prefix}.{key}" if prefix else key)
        else:
            flat[prefix] = node

    walk(OmegaConf.to_container(config), "")
    return flat
