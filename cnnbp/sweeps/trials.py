"""The trials of a search: Optuna draws them, and is told how those that were trained here end."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from optuna.samplers import BaseSampler, PartialFixedSampler
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState

from cnnbp.config.compose import compose
from cnnbp.errors import on_one_line
from cnnbp.runs.checkpoint_file import find_checkpoint
from cnnbp.runs.run_directory import RunDirectory
from cnnbp.sweeps.fleet_jobs import NUMBERS, FleetJob
from cnnbp.sweeps.fleet_training import Fleet, train_in_fleets
from cnnbp.sweeps.search_space import SearchSpace, as_overrides
from cnnbp.sweeps.study import (
    Heartbeats,
    count_begun,
    open_storage,
    open_study,
    requeue,
    retry_history,
)
from cnnbp.sweeps.trial_pruning import Pruning
from cnnbp.training.build import build, fit, summarise
from cnnbp.training.callbacks.divergence import Diverged
from cnnbp.training.trackers import tracked

# errors of one trial, which do not end the search; the latter for example with too little memory
TRIAL_ERRORS = (Diverged, RuntimeError)


class TrialJob(FleetJob):
    """A trial that is trained here, in a run directory of its own.

    Args:
        tell: called with the trial and with what the study is to be told of its end.
    """

    noun = "trials"
    option = "search.parallel"

    def __init__(
        self,
        trial: Trial,
        overrides: list[str],
        config: DictConfig,
        tell: Callable[[Trial, dict[str, Any]], None],
    ):
        hydra = copy.deepcopy(HydraConfig.instance().cfg)
        super().__init__(overrides, trial.number, config, hydra)
        self.trial, self.tell = trial, tell

    @contextmanager
    def failing(self) -> Iterator[None]:
        try:
            yield
        except TRIAL_ERRORS as error:
            print(f"trial {self.number}: {on_one_line(error)}")
            self.tell(self.trial, {"state": TrialState.FAIL})

    def logging(self) -> AbstractContextManager[None]:
        # a trial has no train.log
        return nullcontext()

    def train(self, run: RunDirectory, parts: Any, checkpoint: Path | None) -> None:
        """Train, and store the result or why the trial was pruned."""
        data, model, trainer = parts
        pruning = Pruning(self.trial, self.config.trainer.max_epochs)
        trainer.callbacks.append(pruning)
        with tracked(trainer, run, self.config.hyperparameters):
            validation = fit(data, model, trainer, checkpoint)
        if pruning.reason:
            run.write_error(pruning.reason)
        else:
            run.finish(summarise(trainer, validation, self.config.seed))

    def end(self, score: float | None) -> None:
        """Tell the study the validation accuracy after the last epoch; None: it was pruned."""
        told = {"state": TrialState.PRUNED} if score is None else {"values": score}
        self.tell(self.trial, told)


class Trials:
    """Draws the trials of a study, trains them, and tells the study how they ended.

    Args:
        settings: the group `search`.
        seed: of the draws.
        space: what is drawn.
        fixed: overrides of every trial.
        directory: of the study.

    Raises:
        UserError: the study was made with another space or other overrides.
    """

    def __init__(
        self, settings: DictConfig, seed: int, space: SearchSpace, fixed: list[str], directory: Path
    ):
        self.settings, self.seed, self.space = settings, seed, space
        self.fixed, self.directory = fixed, directory
        # no two processes create the tables, count or draw at a time
        self.drawing = FileLock(directory / ".lock")
        with self.drawing:
            storage = open_storage(settings)
            content = {"overrides": fixed, "space": space.domains}
            self.study = open_study(storage, settings, directory.name, content)
        self.heartbeats = Heartbeats(storage, settings.heartbeat)
        # by their numbers: those that are drawn, and not told yet how they ended
        self.begun: dict[int, Trial] = {}
        # those that were drawn for a fleet that they cannot join
        self.left: list[TrialJob] = []

    def run(self) -> None:
        """Run trials up to the total, and wait for those of other processes.

        When another process dies, its trials are taken over here. A trial that is stopped waits in
        the study to be taken up again.

        Raises:
            KeyboardInterrupt: a signal has stopped the trials, after a save.
            UserError: trials cannot be trained, or not be stored.
        """
        with self.heartbeats:
            try:
                self._run()
            except SystemExit as stop:
                raise KeyboardInterrupt(stop.code) from None
            finally:
                for trial in list(self.begun.values()):
                    requeue(self.study, self._stored(trial))
                    self._tell(trial, {"state": TrialState.FAIL})

    def _run(self) -> None:
        is_waiting = False
        while True:
            jobs, self.left = self.left, []
            jobs += self._draw(self.settings.parallel - len(jobs))
            if jobs:
                self._train(jobs)
                continue
            if not self._are_any(TrialState.RUNNING):
                return
            if not is_waiting:
                print("waiting for the trials of other processes")
                is_waiting = True
            time.sleep(self.settings.heartbeat)

    def _draw(self, most: int, shared: dict[str, Any] | None = None) -> list[TrialJob]:
        """Draw as many trials as the total allows, at most so many.

        Args:
            shared: values that all of them have; None: of the first one, what a fleet shares.
        """
        drawn: list[Trial] = []
        with self.drawing:
            fail_stale_trials(self.study)
            while len(drawn) < most:
                trials = self.study.get_trials(deepcopy=False)
                if count_begun(trials) >= self.settings.n_trials:
                    break
                self.study.sampler = self._sampler(len(trials), shared or {})
                trial = self.study.ask()
                self.begun[trial.number] = trial
                self.heartbeats.begin(trial)
                self.space.suggest(trial)
                drawn.append(trial)
                if shared is None:
                    shared = _shared_in_a_fleet(trial)
        return [self._job(trial) for trial in drawn]

    def _sampler(self, known: int, shared: dict[str, Any]) -> BaseSampler:
        # the draws follow from the seed and the number of trials, so that a continued study draws
        # anew
        sampler = instantiate(self.settings.sampler, seed=self.seed + known)
        return PartialFixedSampler(shared, sampler) if shared else sampler

    def _job(self, trial: Trial) -> TrialJob:
        first = [*retry_history(self._stored(trial)), trial.number][0]
        name = f"trial-{first:04}"
        overrides = [*self.fixed, *as_overrides(trial.params), f"name={name}"]
        return TrialJob(trial, overrides, compose(overrides, self.directory / name), self._tell)

    def _train(self, jobs: list[TrialJob]) -> None:
        alone: Sequence[FleetJob] = jobs
        if len(jobs) > 1:
            alone = train_in_fleets(jobs, None, self._draw_more)
        for job in alone:
            _train_alone(job)

    def _draw_more(self, fleet: Fleet, free: int) -> list[TrialJob]:
        """Draw trials in the place of those of a fleet that have ended."""
        shared = _shared_in_a_fleet(fleet.jobs[0].trial)
        is_young = any(job.number in self.begun for job in fleet.jobs)
        # once all that it began with have ended, networks of other kinds have their turn
        if (shared and not is_young) or self._are_any(TrialState.WAITING):
            return []
        fitting = []
        for job in self._draw(free, shared):
            if job.path.exists():
                # what is there may not be its beginning
                self.left.append(job)
            else:
                fitting.append(job)
        return fitting

    def _are_any(self, state: TrialState) -> bool:
        return bool(self.study.get_trials(deepcopy=False, states=(state,)))

    def _tell(self, trial: Trial, told: dict[str, Any]) -> None:
        """Tell the study how a trial ended, and print it."""
        ended = self.study.tell(trial, **told, skip_if_finished=True)
        self.heartbeats.end(trial)
        del self.begun[trial.number]
        value = "" if ended.value is None else f", validation accuracy {ended.value:.2%}"
        overrides = " ".join(as_overrides(ended.params))
        print(f"trial {ended.number} {ended.state.name.lower()}{value}: {overrides}")

    def _stored(self, trial: Trial) -> FrozenTrial:
        """The trial as the study holds it now, with its intermediate values."""
        return self.study.get_trials(deepcopy=False)[trial.number]


def _shared_in_a_fleet(trial: Trial) -> dict[str, Any]:
    """The values of a trial that the others of its fleet must have too."""
    return {key: value for key, value in trial.params.items() if key not in NUMBERS}


def _train_alone(job: FleetJob) -> None:
    with job.current(), job.failing(), RunDirectory(job.config) as run:
        if not run.finished:
            checkpoint = find_checkpoint(run.path, None)
            parts = build(job.config)
            run.start()
            job.train(run, parts, checkpoint)
        job.end(run.score())
