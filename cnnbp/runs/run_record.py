"""What a run directory holds, read back: its files may be damaged, or come from somebody else."""

import csv
import json
import os
import shlex
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cnnbp.errors import UserError

# below checkpoints/; where the last is damaged or missing, the one before it is used
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"

# below a run directory
HYDRA = ".hydra"
CONFIG, OVERRIDES, HYDRA_CONFIG = (
    f"{HYDRA}/config.yaml",
    f"{HYDRA}/overrides.yaml",
    f"{HYDRA}/hydra.yaml",
)
RESULT, METRICS, ERROR, CHECKPOINTS = "result.json", "metrics.csv", "error.txt", "checkpoints"
TRACKERS = "trackers.json"
# keys that say how a command runs, not what it trains
KEYS_OF_THE_COMMAND = ("jobs", "overwrite")
# keys that runs of one recipe may differ by
VARYING = ("seed", "data.fold", "name", "run_dir", *KEYS_OF_THE_COMMAND)


class RunRecord:
    """A run directory, `outputs/NAME`, each of its files read at most once.

    Reading never fails because a file is missing; a damaged one raises a `UserError` with its name.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @classmethod
    def open(cls, path: str | Path) -> "RunRecord":
        """The record of an existing run.

        Raises:
            UserError: `path` is not a run directory.
        """
        record = cls(path)
        if not record.exists:
            raise UserError(
                f"{path}: no run here; give a directory such as outputs/NAME that training made"
            )
        return record

    @classmethod
    def below(cls, directory: str | Path) -> Iterator["RunRecord"]:
        """Every run at or below a directory, in the order of their paths, also failed ones."""
        for path, folders, files in os.walk(directory):
            if HYDRA in folders or RESULT in files or ERROR in files:
                yield cls(path)
            # in place, so that os.walk leaves the others out
            folders[:] = sorted(
                name for name in folders if name != CHECKPOINTS and not name.startswith(".")
            )

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return (self.path / CONFIG).exists()

    @property
    def is_finished(self) -> bool:
        """Whether the run has a result, which may be damaged."""
        return (self.path / RESULT).exists()

    @cached_property
    def config(self) -> DictConfig:
        """The config as Hydra composed it; a missing key raises instead of giving None."""
        return _read_config(self.path / CONFIG)

    @cached_property
    def config_text(self) -> str:
        """The config file as it stands, for people."""
        return _read_text(self.path / CONFIG)

    @cached_property
    def values(self) -> dict[str, Any]:
        """The config as plain data, interpolations unresolved; many times faster than `config`."""
        return _mapping(self.path / CONFIG)

    @cached_property
    def overrides(self) -> list[str]:
        """The overrides that the run was started with, as on the command line."""
        overrides = _plain(self.path / OVERRIDES)
        return [str(override) for override in overrides] if isinstance(overrides, list) else []

    @cached_property
    def choices(self) -> dict[str, str]:
        """What was chosen of each config group, by its name."""
        return _nested(_mapping(self.path / HYDRA_CONFIG), "hydra", "runtime", "choices")

    @cached_property
    def command(self) -> str | None:
        """The command line that starts the run again; None where Hydra left no record of it."""
        return command_of(self.path / HYDRA_CONFIG)

    @cached_property
    def recipe(self) -> str:
        """What the run was made with, less what may vary.

        Runs with the same recipe differ by chance alone.
        """
        if not self.exists:
            return str(self.path)
        kept = {key: value for key, value in self.values.items() if key not in VARYING}
        data = dict(_nested(kept, "data"))
        data.pop("fold", None)
        return json.dumps(kept | {"data": data}, sort_keys=True)

    @property
    def fold(self) -> int | None:
        """Which part of the training images the run held out, as `data.fold` says."""
        return _nested(self.values, "data").get("fold")

    @cached_property
    def result(self) -> dict[str, Any] | None:
        """What `result.json` holds; None for a run that has not finished."""
        return _read_result(self.path / RESULT) if self.is_finished else None

    @cached_property
    def error(self) -> str | None:
        """Why the run has no result that can be used, in words; None where it has one."""
        try:
            if self.result is not None:
                return None
        except UserError:
            return f"{RESULT} cannot be read"
        reason = self.path / ERROR
        return _read_text(reason).strip() if reason.exists() else "unfinished"

    @cached_property
    def trackers(self) -> dict[str, str]:
        """The id of the run of each experiment tracker, by the tracker's package."""
        content = _mapping(self.path / TRACKERS)
        return {str(name): str(own) for name, own in content.items()}

    @cached_property
    def metrics(self) -> list[dict[str, str]]:
        """The rows of `metrics.csv`, one a step; empty where there is none."""
        return read_metrics(self.path / METRICS)


def _read_config(path: Path) -> DictConfig:
    """Read the config of a run; a key that is missing in it raises instead of giving None.

    Raises:
        UserError: it is no config.
    """
    try:
        config = OmegaConf.load(path)
        if not isinstance(config, DictConfig):
            raise YAMLError("it is no mapping")
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None
    OmegaConf.set_struct(config, True)
    return config


def command_of(record: Path) -> str | None:
    """The command line in a record of Hydra's; None where there is none."""
    hydra = _nested(_mapping(record), "hydra")
    overrides = _nested(hydra, "overrides").get("task")
    if not isinstance(overrides, list):
        return None
    # a job of a sweep is repeated in its place by -m, too
    options = ["-m"] if hydra.get("mode") == "MULTIRUN" else []
    sources = _nested(hydra, "runtime").get("config_sources")
    for source in sources if isinstance(sources, list) else []:
        if isinstance(source, dict) and source.get("provider") == "command-line":
            options += ["--config-dir", os.path.relpath(str(source.get("path")))]
    return shlex.join(["python", "train.py", *options, *map(str, overrides)])


def _read_result(path: Path) -> dict[str, Any]:
    """Read a run's `result.json`.

    Raises:
        FileNotFoundError: the run has not finished.
        UserError: the file is damaged.
    """
    try:
        result = json.loads(path.read_text())
        for name in {"val_accuracy", "val_loss", "accuracy", "loss"} & set(result) or {"accuracy"}:
            float(result[name])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: cannot be read; remove it to train again") from None
    return result


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Read a run's `metrics.csv`, a row a step; nothing where it wrote none.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            int(row["step"])
            for value in row.values():
                float(value or 0)
    except (ValueError, KeyError, TypeError, csv.Error):
        raise UserError(
            f"{path}: cannot be read; remove it, its values are in TensorBoard's files too"
        ) from None
    return rows


def _mapping(path: Path) -> dict[str, Any]:
    """What a YAML file holds, where that is a mapping; else an empty one."""
    content = _plain(path)
    return content if isinstance(content, dict) else {}


def _nested(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The mapping below the keys; an empty one where there is none."""
    for key in keys:
        value = content.get(key)
        content = value if isinstance(value, dict) else {}
    return content


def _read_text(path: Path) -> str:
    """A file for people to read, whatever bytes somebody has put into it."""
    return path.read_text(errors="replace")


def _plain(path: Path) -> Any:
    """What a YAML file holds; None where there is none that can be read."""
    try:
        # the loader in C is ten times as fast, and a leaderboard reads hundreds of files
        return yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, YAMLError):
        return None
