"""What each value of the config may be, checked before anything heavy is imported or anything is created."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from cnnbp.errors import UserError


class Rule(NamedTuple):
    """What is allowed, in words and as a test."""

    allowed: str
    accepts: Callable[[Any], bool]

    def check(self, key: str, value: Any) -> None:
        """Raise a UserError that names key, value and what is allowed."""
        if not self.accepts(value):
            raise UserError(f"{key}={value}: must be {self.allowed}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def whole(low: int, high: int | None = None) -> Rule:
    """A whole number in [low, high]."""
    allowed = (
        f"a whole number from {low} to {high}"
        if high is not None
        else f"a whole number, {low} or more"
    )
    top = math.inf if high is None else high
    return Rule(
        allowed, lambda value: _is_number(value) and isinstance(value, int) and low <= value <= top
    )


def one_of(*choices: Any) -> Rule:
    """One of the choices, of the same type too."""
    return Rule(
        "one of " + ", ".join(str(choice) for choice in choices),
        lambda value: any(type(value) is type(choice) and value == choice for choice in choices),
    )


def each(count: int, rule: Rule, allowed: str) -> Rule:
    """A list of `count` values that each pass `rule`."""
    return Rule(
        allowed,
        lambda value: (
            isinstance(value, Sequence)
            and not isinstance(value, str)
            and len(value) == count
            and all(map(rule.accepts, value))
        ),
    )


def either(first: Rule, second: Rule) -> Rule:
    """What passes one of the two rules."""
    return Rule(
        f"{first.allowed}, or {second.allowed}",
        lambda value: first.accepts(value) or second.accepts(value),
    )


POSITIVE = Rule("a number above 0", lambda value: _is_number(value) and value > 0)
NOT_NEGATIVE = Rule("a number, 0 or more", lambda value: _is_number(value) and value >= 0)
FRACTION = Rule(
    "a number from 0 up to, not including, 1", lambda value: _is_number(value) and 0 <= value < 1
)
INNER_FRACTION = Rule("a number between 0 and 1", lambda value: _is_number(value) and 0 < value < 1)
BOOLEAN = Rule("true or false", lambda value: isinstance(value, bool))
WORDS = Rule("a text", lambda value: isinstance(value, str))
TEXT = Rule("a text that is not empty", lambda value: isinstance(value, str) and value != "")
NULL = Rule("null", lambda value: value is None)
PIXELS = Rule(
    "a number of pixels from 0 to 28", lambda value: _is_number(value) and 0 <= value <= 28
)
LIMIT = either(
    whole(1),
    Rule("a share above 0, up to 1.0", lambda value: isinstance(value, float) and 0 < value <= 1),
)


def _is_built(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value


GROUP = Rule("a choice of the group, as --help lists them", lambda value: isinstance(value, dict))
BUILT = Rule("a group of keys with a _target_", _is_built)
BUILT_OR_EMPTY = Rule(
    "a group of keys with a _target_, or {}", lambda value: value == {} or _is_built(value)
)

WIDTHS = each(5, whole(1), "five whole numbers above 0")
RATES = each(4, FRACTION, "four rates from 0 up to, not including, 1")
ACTIVATION = one_of("relu", "leaky_relu", "elu", "gelu", "silu", "tanh")
NORM = one_of("batch", "group", "none")
ORDER = one_of("activation_norm", "norm_activation")
HEAD = one_of("gap", "linear")

SEED = whole(0, 2**32 - 1)
SAFE_WRITER = "cnnbp.runs.checkpoint_file.CrashSafeCheckpointIO"
# what TensorBoardLogger takes, and passes on
BOARD = {
    "_target_",
    "save_dir",
    "name",
    "version",
    "default_hp_metric",
    "prefix",
    "sub_dir",
    "max_queue",
    "flush_secs",
}

RULES = {
    "name": Rule(
        "a file name of at most 200 bytes",
        lambda value: (
            value is not None
            and str(value).strip(".") != ""
            and len(os.fsencode(str(value))) <= 200
            and "/" not in str(value)
            and str(value).isprintable()
        ),
    ),
    "seed": SEED,
    "ckpt_path": either(NULL, TEXT),
    "overwrite": BOOLEAN,
    "jobs": whole(1),
    "search.n_trials": whole(1),
    "search.heartbeat": whole(1),
    "data.dataset": one_of("MNIST", "FashionMNIST", "KMNIST", "QMNIST"),
    "data.root": TEXT,
    "data.seed": SEED,
    "data.augment": BUILT_OR_EMPTY,
    "data.batch_size": whole(1, 60_000),
    "data.eval_batch_size": whole(1, 60_000),
    "data.val_size": whole(0, 59_999),
    "augment.degrees": Rule(
        "a number from 0 to 180", lambda value: _is_number(value) and 0 <= value <= 180
    ),
    "augment.shift": PIXELS,
    "augment.scale": FRACTION,
    "augment.shear": Rule(
        "a number of degrees from 0 to 80", lambda value: _is_number(value) and 0 <= value <= 80
    ),
    "augment.elastic": PIXELS,
    "augment.smoothness": POSITIVE,
    "augment.erase": PIXELS,
    "dropout.rates": RATES,
    "model.optimizer": BUILT,
    "model.scheduler": BUILT_OR_EMPTY,
    "model.network": BUILT,
    "model.label_smoothing": FRACTION,
    "model.backprop": one_of("autograd", "by_hand"),
    "model.channels_last": BOOLEAN,
    "model.network.widths": WIDTHS,
    "model.network.dropout": RATES,
    "model.network.activation": ACTIVATION,
    "model.network.norm": NORM,
    "model.network.order": ORDER,
    "model.network.head": HEAD,
    "optimizer._partial_": one_of(True),
    "scheduler._partial_": one_of(True),
    "optimizer.lr": POSITIVE,
    "optimizer.fused": BOOLEAN,
    "optimizer.momentum": FRACTION,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "scheduler.every": whole(1),
    "scheduler.gamma": Rule(
        "a number above 0, up to 1", lambda value: _is_number(value) and 0 < value <= 1
    ),
    "scheduler.final_lr": NOT_NEGATIVE,
    "scheduler.warmup": FRACTION,
    "scheduler.factor": INNER_FRACTION,
    "scheduler.patience": whole(0),
    "callbacks.average.decay": FRACTION,
    "logger.tensorboard": either(
        NULL,
        Rule(
            f"a group of {', '.join(sorted(BOARD))}",
            lambda value: isinstance(value, dict) and set(value) <= BOARD,
        ),
    ),
    "logger.tensorboard.save_dir": TEXT,
    "logger.tensorboard.name": WORDS,
    "logger.tensorboard.version": WORDS,
    "logger.tensorboard.default_hp_metric": BOOLEAN,
    "callbacks.finite.every_n_steps": whole(1),
    "callbacks.finite.rollbacks": whole(0),
    "callbacks.finite.factor": INNER_FRACTION,
    "callbacks.checkpoints.every_n_seconds": POSITIVE,
    "callbacks.dashboard.every_n_epochs": whole(1),
    "callbacks.dashboard.embedding": BOOLEAN,
    "trainer.max_epochs": whole(1),
    "trainer.accelerator": one_of("auto", "cpu", "gpu", "mps"),
    "trainer.devices": whole(1),
    "trainer.strategy": one_of("auto", "ddp"),
    "trainer.sync_batchnorm": BOOLEAN,
    "trainer.precision": one_of("auto", "32-true", "bf16-mixed", "16-mixed"),
    "trainer.default_root_dir": TEXT,
    "trainer.use_distributed_sampler": BOOLEAN,
    "trainer.enable_progress_bar": BOOLEAN,
    "trainer.enable_model_summary": BOOLEAN,
    "trainer.num_sanity_val_steps": whole(-1),
    "trainer.log_every_n_steps": whole(0),
    "trainer.limit_train_batches": LIMIT,
    "trainer.limit_val_batches": LIMIT,
    "trainer.limit_test_batches": LIMIT,
    "search.storage": TEXT,
}

# of the trainer; with these a run would not end where its schedule does, or not be evaluated after each epoch
LEFT_OUT = (
    "max_steps",
    "max_time",
    "min_epochs",
    "min_steps",
    "check_val_every_n_epoch",
    "val_check_interval",
)

# what has to be there at all
GROUPS = {
    "run_dir": TEXT,
    "data": BUILT,
    "augment": BUILT_OR_EMPTY,
    "model": BUILT,
    "dropout": GROUP,
    "optimizer": BUILT,
    "scheduler": BUILT_OR_EMPTY,
    "trainer": Rule(
        f"a group of keys with a _target_, and with {SAFE_WRITER} among its plugins",
        lambda value: (
            _is_built(value)
            and isinstance(plugins := value.get("plugins"), list)
            and {"_target_": SAFE_WRITER} in plugins
        ),
    ),
    "callbacks": GROUP,
    "logger": GROUP,
}


def validate(config: DictConfig) -> None:
    """Check every value of a composed config that has a rule.

    Raises:
        UserError: for the first value that is not allowed.
    """
    unresolved = OmegaConf.to_container(config)
    for key, rule in GROUPS.items():
        rule.check(key, unresolved.get(key))
    for group in ("callbacks", "logger"):
        for name, value in unresolved[group].items():
            either(NULL, BUILT).check(f"{group}.{name}", value)
    for name in LEFT_OUT:
        if config.trainer.get(name) is not None:
            advice = "give trainer.max_epochs and trainer.limit_train_batches"
            raise UserError(f"trainer.{name}={config.trainer[name]}: must be left out; {advice}")
    for key, rule in RULES.items():
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else config
        if isinstance(node, DictConfig) and name in node:
            if OmegaConf.to_container(node)[name] == "${run_dir}":
                continue  # Hydra has not chosen it yet
            value = node[name]
            rule.check(key, OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)
    if (
        config.callbacks.get("finite")
        and config.callbacks.finite.get("rollbacks")
        and config.trainer.get("devices") != 1
    ):
        raise UserError(
            "callbacks.finite.rollbacks: several processes cannot go back; give 0, or trainer.devices=1"
        )
    if (
        config.trainer.get("gradient_clip_val")
        and config.trainer.get("precision") != "32-true"
        and config.optimizer.get("fused")
    ):
        raise UserError(
            "trainer.gradient_clip_val: Lightning cannot clip for fused steps; give optimizer.fused=false"
        )
