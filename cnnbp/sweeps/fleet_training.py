"""The jobs of a sweep trained in fleets, each job in a run directory as if it ran alone."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cnnbp.config.check import check_arguments, validate
from cnnbp.runs.checkpoint_file import load, newest
from cnnbp.runs.run_directory import RunDirectory
from cnnbp.runs.run_record import CHECKPOINTS, LAST, PREVIOUS
from cnnbp.signals import REQUEUE, interrupt, on_stop
from cnnbp.sweeps.fleet_jobs import FleetJob, by_position, in_parts, kind
from cnnbp.sweeps.fleet_progress import FleetProgress
from cnnbp.training.build import build
from cnnbp.training.callbacks.checkpoints import Checkpoints, Requests, requeue_job
from cnnbp.training.lockstep import Lockstep, Member
from cnnbp.training.mapping_check import most_members, why_not_mapped

# the checkpoints that a job can continue from, by their steps; None stands for its beginning
States = dict[int, Path | None]


class Fleet(NamedTuple):
    """Jobs that are trained as one network, and the step that all of them continue from."""

    step: int
    jobs: list[Any]


# asked at the beginning of an epoch for jobs in the place of those of a fleet that have ended, at
# most so many: new ones, which fit to the others
MoreJobs = Callable[[Fleet, int], Sequence[FleetJob]]


class Training(NamedTuple):
    """What trains a job."""

    job: FleetJob
    run: RunDirectory
    # data, model and trainer; Lightning sets its callbacks and its data when it runs
    parts: Any
    checkpoint: Path | None


def train_in_fleets(
    jobs: Sequence[FleetJob], most: int | None, more_jobs: MoreJobs = lambda fleet, free: ()
) -> list[FleetJob]:
    """Train jobs in fleets, each of at most `most` jobs; None: as many as the memory holds.

    Returns:
        The jobs that were not trained, because torch cannot map them; the others have their score
        or their failure.

    Raises:
        KeyboardInterrupt: a signal has stopped the jobs, after a save.
    """
    kinds: dict[str, list[tuple[FleetJob, States]]] = {}
    for job in jobs:
        states = _checked_states(job)
        if states is not None:
            kinds.setdefault(kind(job.config), []).append((job, states))
    fleets: list[Fleet] = []
    alone: list[FleetJob] = []
    for positions in kinds.values():
        similar = [job for job, _ in positions]
        reason, fitting = _check_mapping(similar[0])
        if reason:
            first = similar[0]
            print(
                f"{first.option}: {reason}; "
                f"{first.noun} that run one after the other: {len(similar)}"
            )
            alone.extend(similar)
            continue
        for step, together in by_position(positions):
            for part in in_parts(together, most or fitting):
                fleets.append(Fleet(step, part))
    if fleets:
        print(_summary(fleets), flush=True)
    for number, fleet in enumerate(fleets):
        with FleetProgress(f"fleet {number + 1} of {len(fleets)}") as progress:
            train_fleet(fleet, progress, more_jobs)
    return alone


def _checked_states(job: FleetJob) -> States | None:
    """Check a job; return its saved states, or None where it fails, as it would alone."""
    states = None
    with job.current(), job.failing():
        try:
            validate(job.config)
            check_arguments(job.config)
            states = saved_states(job)
        except Exception as error:
            # which leaves the reason in the job's directory
            with RunDirectory(job.config):
                raise error
    return states


def _check_mapping(job: FleetJob) -> tuple[str, int]:
    """Why jobs such as this cannot be mapped, or "", and how many fit into the memory."""
    with job.current():
        try:
            parts: Any = build(job.config)
        except Exception:
            # each of the jobs tells the reason when it is built
            return "", 1
        reason = why_not_mapped(*parts)
        return reason, 0 if reason else most_members(*parts)


def saved_states(job: FleetJob) -> States:
    """The states that a job can continue from now.

    Raises:
        UserError: no whole checkpoint is left.
    """
    start = job.config.ckpt_path and Path(job.config.ckpt_path)
    if start and start.is_dir():
        start = newest(start / CHECKPOINTS)
    folder = job.path / CHECKPOINTS
    last = None if job.config.overwrite else newest(folder)
    if last is None:
        return {_step_of(start): start}
    # the one before it, where the last is not damaged
    before = folder / PREVIOUS if last.name == LAST else last
    if not before.exists():
        before = start
    return {_step_of(before): before, _step_of(last): last}


def _step_of(checkpoint: Path | None) -> int:
    return load(checkpoint)["global_step"] if checkpoint else 0


def _summary(fleets: Sequence[Fleet]) -> str:
    """The line that says how many fleets of what size there are."""
    sizes = ", ".join(str(len(fleet.jobs)) for fleet in fleets)
    jobs = sum(len(fleet.jobs) for fleet in fleets)
    noun = fleets[0].jobs[0].noun
    note = ""
    if not torch.cuda.is_available():
        note = "; on a CPU this is not faster than one after the other"
    return f"{noun}: {jobs}, in fleets of {sizes}{note}"


def train_fleet(fleet: Fleet, progress: FleetProgress, more_jobs: MoreJobs) -> None:
    """Train the jobs of a fleet; each has its score or its failure then.

    Raises:
        KeyboardInterrupt: a signal has stopped them, after a save.
    """
    with ExitStack() as logs:
        training = FleetTraining(fleet, progress, more_jobs, logs)
        for job in fleet.jobs:
            training.begin(job, fleet.step)
        requests = training.requests
        on_stop(requests.on_signal)
        try:
            training.run()
        finally:
            on_stop(interrupt)
    if requests.signal:
        if requests.signal == REQUEUE:
            requeue_job()
        raise KeyboardInterrupt(128 + requests.signal)
    # no failure of a job, which is noted, but a user's own way to end the process
    if training.error:
        raise training.error


class FleetTraining:
    """A fleet while it is trained.

    Args:
        logs: closes the logs of the jobs.
    """

    def __init__(self, fleet: Fleet, progress: FleetProgress, more_jobs: MoreJobs, logs: ExitStack):
        self.fleet, self.progress, self.more_jobs, self.logs = fleet, progress, more_jobs, logs
        # those that are trained, and the first error that ended one
        self.members: dict[Member, Training] = {}
        self.error: BaseException | None = None
        # without checkpoints there is nothing to save, but still signals that stop
        self.requests = Requests(float("inf"))

    def begin(self, job: FleetJob, step: int) -> None:
        """Make a job a member of the fleet, unless it is finished or fails."""
        self.logs.enter_context(job.logging())
        training = _prepare(job, step)
        if training:
            self._share(training)
            member = Member(lambda: _train(training))
            training.parts.model.join_fleet = member.join
            self.members[member] = training

    def _share(self, training: Training) -> None:
        """Let the members have one copy of the data, and save and stop after the same step."""
        data, _, trainer = training.parts
        if self.members:
            data.splits = next(iter(self.members.values())).parts.data.splits
        for callback in trainer.callbacks:
            if isinstance(callback, Checkpoints):
                if not self.members:
                    self.requests = callback.requests
                callback.join_fleet(self.requests)

    def run(self) -> None:
        """Train side by side to the end of all members."""
        if not self.members:
            return
        _, model, trainer = next(iter(self.members.values())).parts
        precision = trainer.precision_plugin.train_step_context
        members = list(self.members)
        Lockstep(members, precision, model.graph, self._before_step, self._refill).run()
        self._forget_ended()

    def _trainers(self, members: Sequence[Member]) -> list[Any]:
        return [self.members[member].parts.trainer for member in members]

    def _before_step(self, living: Sequence[Member], images: int) -> None:
        self.requests.renew()
        self.progress.step(self._trainers(living), images)

    def _refill(self, living: Sequence[Member]) -> list[Member]:
        """At the beginning of an epoch, begin jobs in the place of those that have ended."""
        (first, *_) = self._trainers(living)
        free = len(self.fleet.jobs) - len(living)
        if not free or first.fit_loop.epoch_loop.batch_idx > 0:
            return []
        self._forget_ended()
        before = len(self.members)
        for job in self.more_jobs(self.fleet, free):
            self.begin(job, 0)
        return list(self.members)[before:]

    def _forget_ended(self) -> None:
        """Let go of members that have ended: a search may replace them hundreds of times."""
        for member in list(self.members):
            if member.has_ended:
                del self.members[member]
                self.error = self.error or member.error


def _prepare(job: FleetJob, step: int) -> Training | None:
    """Open a job's run directory and build what trains it; None where it is finished or fails."""
    with job.current(), job.failing(), ExitStack() as stack:
        run = stack.enter_context(RunDirectory(job.config))
        if run.finished:
            job.end(run.score())
            return None
        # again, now that no other process can train the job
        checkpoint = saved_states(job)[step]
        parts = build(job.config)
        run.start()
        # from here on the member's thread closes it
        stack.pop_all()
        return Training(job, run, parts, checkpoint)
    return None


def _train(training: Training) -> None:
    """Train a job to its end; runs in the member's thread."""
    job, run, parts, checkpoint = training
    with job.current(), job.failing(), ExitStack() as stack:
        stack.push(run)
        job.train(run, parts, checkpoint)
        job.end(run.score())
