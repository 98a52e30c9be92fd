"""Check a composed config, before anything heavy is imported and before anything is created."""

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cnnbp.config.hydra_errors import PARTIAL_PARTS
from cnnbp.config.options import PARTS, SECTIONS, check
from cnnbp.config.own_arguments import check_call
from cnnbp.errors import UserError

SAFE_WRITER = "cnnbp.runs.checkpoint_file.CrashSafeCheckpointIO"
NEEDED_PARTS = ("data", "model", "optimizer", "trainer")
# {} leaves them out
OPTIONAL_PARTS = ("augment", "scheduler", "loss")
GROUPS = ("dropout", "callbacks", "logger", "metrics")
# with these a run would not end where its schedule does, or not be evaluated after each epoch
REFUSED_TRAINER_KEYS = (
    "max_steps",
    "max_time",
    "min_epochs",
    "min_steps",
    "check_val_every_n_epoch",
    "val_check_interval",
)


def validate(config: DictConfig) -> None:
    """Check the structure of a config and every value that `options` describes.

    Raises:
        UserError: names the first key that is wrong, its value and what is allowed.
    """
    # first what the other checks, and everything after them, rely on
    _check_structure(config)
    _check_trainer(config.trainer)
    for place, options in SECTIONS.items():
        node = OmegaConf.select(config, place) if place else config
        if node is not None:
            check(options, _values(node, options), place)
    for place, part in _parts(config, ""):
        for key in part:
            if OmegaConf.is_missing(part, key):
                raise UserError(f"{place}.{key}: must be given")
        options = PARTS.get(part["_target_"])
        if options:
            check(options, _values(part, part), place)


def check_arguments(config: DictConfig) -> None:
    """Check parts that `options` does not describe, by the signatures of their classes.

    Imports what the parts name, so that it takes as long as torch's import where they need it.

    Raises:
        UserError: names the first key that its class does not take, that has another type than the
            class declares, or that is missing.
    """
    for place, part in _parts(config, ""):
        if part["_target_"] not in PARTS:
            check_call(place, part, is_partial=place in PARTIAL_PARTS)


def _check_structure(config: DictConfig) -> None:
    """Everything that a run is built from is there, and is something that Hydra can build."""
    tree = OmegaConf.to_container(config)
    if not isinstance(tree.get("run_dir"), str) or not tree["run_dir"]:
        raise UserError(f"run_dir={tree.get('run_dir')}: must be a text that is not empty")
    for group in GROUPS:
        if not isinstance(tree.get(group), dict):
            raise UserError(
                f"{group}={tree.get(group)}: must be a choice of the group; --help lists them"
            )
    if not isinstance(tree.get("hyperparameters"), dict):
        raise UserError(
            f"hyperparameters={tree.get('hyperparameters')}: must be a group of keys, or {{}}"
        )
    _check_parts(tree)
    for group in ("callbacks", "logger", "metrics"):
        _check_members(group, tree[group])


def _check_parts(tree: dict[str, Any]) -> None:
    for part in NEEDED_PARTS:
        if not _is_part(tree.get(part)):
            raise UserError(f"{part}={tree.get(part)}: must be a group of keys with a _target_")
    for part in OPTIONAL_PARTS:
        if tree.get(part) != {} and not _is_part(tree.get(part)):
            raise UserError(
                f"{part}={tree.get(part)}: must be {{}}, or a group of keys with a _target_"
            )
    for part in PARTIAL_PARTS:
        if tree[part] and tree[part].get("_partial_") is not True:
            raise UserError(
                f"{part}._partial_={tree[part].get('_partial_')}: must be true, "
                "because training adds the parameters and the number of steps"
            )


def _check_members(group: str, members: dict[str, Any]) -> None:
    for name, value in members.items():
        if value is not None and not _is_part(value):
            raise UserError(
                f"{group}.{name}={value}: must be null, or a group of keys with a _target_"
            )


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("_target_"), str)


def _parts(node: DictConfig, place: str) -> Iterator[tuple[str, DictConfig]]:
    """Every node with a `_target_`, and where it stands; what is interpolated is checked there."""
    for key in node:
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        value = node[key]
        if isinstance(value, DictConfig):
            own = f"{place}.{key}" if place else str(key)
            if isinstance(value.get("_target_"), str):
                yield own, value
            yield from _parts(value, own)


def _values(node: DictConfig, wanted: Any) -> dict[str, Any]:
    """The values of a node, less those that depend on a run directory not yet chosen."""
    unresolved = OmegaConf.to_container(node)
    keys = wanted.__annotations__ if isinstance(wanted, type) else wanted
    values = {}
    for key in keys:
        if key == "_target_" or key not in unresolved:
            continue
        # asking Hydra for it before it has chosen the directory would be an error
        if "${run_dir}" in str(unresolved[key]):
            continue
        value = node[key]
        values[key] = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return values


def _check_trainer(trainer: DictConfig) -> None:
    for key in REFUSED_TRAINER_KEYS:
        if key in trainer:
            raise UserError(
                f"trainer.{key}={trainer[key]}: must be left out; "
                "give trainer.max_epochs and trainer.limit_train_batches"
            )
    plugins = OmegaConf.to_container(trainer).get("plugins")
    if not isinstance(plugins, list) or {"_target_": SAFE_WRITER} not in plugins:
        raise UserError(f"trainer.plugins={plugins}: must have {SAFE_WRITER} among them")
