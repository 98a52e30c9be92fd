"""Jobs in Slurm's queue: waited for until each has a result, or has ended without one."""

import os
import subprocess
import time
from collections.abc import Sequence
from typing import Any

# of a job that Slurm will not run again
FINAL_STATES = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
}
# Slurm forgets an ended job after some minutes
FORGOTTEN = "ended some time ago"
# between two looks for results, and between two questions to Slurm
LOOK_SECONDS = 0.5
ASK_SECONDS = 10
# how often in a row a job has to be seen as ended: its result may still be on its way, and a job
# that is queued again is between two states
TIMES_SEEN = 3


def wait(jobs: Sequence[Any]) -> dict[Any, str]:
    """Wait until all jobs have ended.

    Args:
        jobs: submitit's, of Slurm.

    Returns:
        By job: why it has no result. The other jobs have one.
    """
    left, reasons = set(jobs), {}
    seen_ended: dict[Any, int] = {}
    asked = time.monotonic()
    while left:
        time.sleep(LOOK_SECONDS)
        left = {job for job in left if not job.paths.result_pickle.exists()}
        if time.monotonic() - asked < ASK_SECONDS:
            continue
        asked = time.monotonic()
        states = _states()
        if states is None:
            continue
        for job in left:
            state = states.get(job.job_id, FORGOTTEN)
            has_ended = state == FORGOTTEN or state in FINAL_STATES
            seen_ended[job] = seen_ended.get(job, 0) + 1 if has_ended else 0
            if seen_ended[job] == TIMES_SEEN:
                reasons[job] = _reason(job, state)
        left -= reasons.keys()
    for job in jobs:
        # an error that came before its run, such as a library that its node lacks
        if job not in reasons and job.exception():
            reasons[job] = _reason(job, "FAILED")
    return reasons


def _states() -> dict[str, str] | None:
    """The states of all jobs of this user that Slurm remembers; None where it does not answer."""
    command = ["squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split() for line in done.stdout.splitlines())


def _reason(job: Any, state: str) -> str:
    """Why a job has no result, with the file that may say more."""
    # Slurm creates it when a job starts, and forgets a waiting job of an array once it is cancelled
    if not job.paths.stdout.exists():
        state = "CANCELLED" if state == FORGOTTEN else state
        return (
            f"Slurm job {job.job_id}: {_words(state)} before it started; the same command runs it"
        )
    log = job.paths.stderr if job.paths.stderr.exists() else job.paths.stdout
    return (
        f"Slurm job {job.job_id}: {_words(state)}, without a result ({os.path.relpath(log)} may "
        "say why); the same command continues it"
    )


def _words(state: str) -> str:
    return state.lower().replace("_", " ")
