"""The jobs of a sweep trained in fleets, each job in a run directory as if it ran alone."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cnnbp.config.check import check_arguments, validate
from cnnbp.data.datamodule import DataModule
from cnnbp.runs.checkpoint_file import load, newest
from cnnbp.runs.run_directory import RunDirectory
from cnnbp.runs.run_record import CHECKPOINTS, LAST, PREVIOUS
from cnnbp.signals import REQUEUE, interrupt, on_stop
from cnnbp.sweeps.fleet_jobs import CURRENT, FleetJob, by_position, in_parts, job_log, kind
from cnnbp.sweeps.fleet_progress import FleetProgress
from cnnbp.training.build import build, fit, summarise
from cnnbp.training.callbacks.checkpoints import Checkpoints, Requests, requeue_job
from cnnbp.training.classifier import Classifier
from cnnbp.training.lockstep import Lockstep, Member
from cnnbp.training.mapping_check import most_members, why_not_mapped

# the checkpoints that a job can continue from, by their steps; None stands for its beginning
States = dict[int, Path | None]


class Fleet(NamedTuple):
    """Jobs that are trained as one network, and the step that all of them continue from."""

    step: int
    jobs: list[FleetJob]


class Training(NamedTuple):
    """What trains a job."""

    job: FleetJob
    run: RunDirectory
    data: DataModule
    model: Classifier
    # Lightning sets its callbacks and its data when it runs
    trainer: Any
    checkpoint: Path | None


def train_in_fleets(jobs: Sequence[FleetJob], most: int | None) -> list[FleetJob]:
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
            print(f"launcher=fleet: {reason}; jobs that run one after the other: {len(similar)}")
            alone.extend(similar)
            continue
        for step, together in by_position(positions):
            for part in in_parts(together, most or fitting):
                fleets.append(Fleet(step, part))
    if fleets:
        print(_summary(fleets), flush=True)
    for number, fleet in enumerate(fleets):
        with FleetProgress(f"fleet {number + 1} of {len(fleets)}") as progress:
            train_fleet(fleet, progress)
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
    note = ""
    if not torch.cuda.is_available():
        note = "; on a CPU this is not faster than one job after the other"
    return f"jobs: {jobs}, in fleets of {sizes}{note}"


def train_fleet(fleet: Fleet, progress: FleetProgress) -> None:
    """Train the jobs of a fleet; each has its score or its failure then.

    Raises:
        KeyboardInterrupt: a signal has stopped them, after a save.
    """
    with ExitStack() as logs:
        trainings = []
        for job in fleet.jobs:
            logs.enter_context(job_log(job))
            training = _prepare(job, fleet.step)
            if training:
                trainings.append(training)
        if not trainings:
            return
        requests = _share(trainings)
        on_stop(requests.on_signal)
        try:
            errors = _run(trainings, requests, progress)
        finally:
            on_stop(interrupt)
    if requests.signal:
        if requests.signal == REQUEUE:
            requeue_job()
        raise KeyboardInterrupt(128 + requests.signal)
    # no failure of a job, which is noted, but a user's own way to end the process
    if errors:
        raise errors[0]


def _prepare(job: FleetJob, step: int) -> Training | None:
    """Open a job's run directory and build what trains it; None where it is finished or fails."""
    with job.current(), job.failing(), ExitStack() as stack:
        run = stack.enter_context(RunDirectory(job.config))
        if run.finished:
            job.score = run.score()
            return None
        # again, now that no other process can train the job
        checkpoint = saved_states(job)[step]
        parts: Any = build(job.config)
        data, model, trainer = parts
        run.start()
        # from here on the member's thread closes it
        stack.pop_all()
        return Training(job, run, data, model, trainer, checkpoint)
    return None


def _share(trainings: Sequence[Training]) -> Requests:
    """Let the members have one copy of the data, and save and stop after the same step."""
    requests: Requests | None = None
    for training in trainings:
        training.data.splits = trainings[0].data.splits
        for callback in training.trainer.callbacks:
            if isinstance(callback, Checkpoints):
                requests = requests or callback.requests
                callback.join_fleet(requests)
    # without checkpoints there is nothing to save, but still signals that stop
    return requests or Requests(float("inf"))


def _run(
    trainings: Sequence[Training], requests: Requests, progress: FleetProgress
) -> list[BaseException]:
    """Train side by side to the end of all; return the errors that ended members."""
    trainers: dict[Member, Any] = {}
    for training in trainings:
        member = Member(lambda own=training: _train(own))
        training.model.join_fleet = member.join
        trainers[member] = training.trainer

    def before_step(living: Sequence[Member], images: int) -> None:
        requests.renew()
        progress.step([trainers[member] for member in living], images)

    first = trainings[0]
    precision = first.trainer.precision_plugin.train_step_context
    Lockstep(list(trainers), precision, first.model.graph, before_step).run()
    return [member.error for member in trainers if member.error]


def _train(training: Training) -> None:
    """Fit, test and store the result, as `train.py` does; runs in the member's thread."""
    job, run, trainer = training.job, training.run, training.trainer
    CURRENT.set(job)
    with job.failing(), ExitStack() as stack:
        stack.push(run)
        validation = fit(training.data, training.model, trainer, training.checkpoint)
        trainer.test(training.model, training.data, verbose=False)
        if not job.config.trainer.get("fast_dev_run"):
            run.finish(summarise(trainer, validation, job.config.seed))
        job.score = run.score()
