"""The study of a search: Optuna's storage, its signs of life, and which of its trials count."""

import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import optuna
from hydra.utils import instantiate
from omegaconf import DictConfig
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial, TrialState

from cnnbp.errors import UserError

# Optuna calls its heartbeats experimental, and the sampler with values that are given
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
# `Heartbeats` does what Optuna's own loop would do
warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed to be used with")
# of a trial that goes on from a checkpoint
warnings.filterwarnings("ignore", message="The reported value is ignored")
# Optuna prints tracebacks of mistakes that the command answers in one line
optuna.logging.set_verbosity(optuna.logging.CRITICAL)

# of a trial whose process died: it may be the trial that kills it
MOST_RETRIES = 3

requeue = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)


def open_storage(settings: DictConfig) -> RDBStorage:
    """Open the database of a study; a trial of a dead process waits in it to be taken up again."""
    return RDBStorage(
        settings.storage,
        heartbeat_interval=settings.heartbeat,
        grace_period=3 * settings.heartbeat,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(
            MOST_RETRIES, inherit_intermediate_values=True
        ),
    )


def open_study(
    storage: RDBStorage, settings: DictConfig, name: str, content: dict[str, Any]
) -> optuna.Study:
    """Create a study or load it.

    Args:
        content: what the study is made of.

    Raises:
        UserError: the study was made of another content.
    """
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        pruner=instantiate(settings.pruner),
        load_if_exists=True,
    )
    known = study.user_attrs or content
    changes = []
    for key, value in content.items():
        if known.get(key) != value:
            changes.append(f"{key}: {known.get(key)} -> {value}")
    if changes:
        raise UserError(
            f"the study {name} was made with another search ({'; '.join(changes)}); "
            "give another name="
        )
    for key, value in content.items():
        study.set_user_attr(key, value)
    return study


class Heartbeats:
    """Tells the storage every few seconds, from a thread of its own, which trials are alive.

    Optuna itself does this within `Study.optimize` alone, which trains one trial at a time.
    """

    def __init__(self, storage: RDBStorage, seconds: float):
        self.storage, self.seconds = storage, seconds
        # Optuna's numbers of them within the storage
        self.alive: set[int] = set()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Heartbeats":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def begin(self, trial: Trial) -> None:
        """Tell that a trial is alive, from now on again and again."""
        self.storage.record_heartbeat(trial._trial_id)
        self.alive.add(trial._trial_id)

    def end(self, trial: Trial) -> None:
        """Tell no more of a trial."""
        self.alive.discard(trial._trial_id)

    def _beat(self) -> None:
        while not self._is_over.wait(self.seconds):
            for number in tuple(self.alive):
                # the training itself tells of a storage that cannot be reached
                with suppress(StorageInternalError):
                    self.storage.record_heartbeat(number)


def count_begun(trials: Sequence[FrozenTrial]) -> int:
    """How many trials count to the total: a trial that others go on with counts once."""
    retried = set()
    for trial in trials:
        retried.update(retry_history(trial))
    begun = 0
    for trial in trials:
        if trial.state != TrialState.WAITING and trial.number not in retried:
            begun += 1
    return begun


def retry_history(trial: FrozenTrial) -> list[int]:
    """The numbers of the trials that a trial goes on with, the first one first."""
    return trial.system_attrs.get("retry_history", [])
