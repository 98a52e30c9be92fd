"""A signal in the middle of a fleet."""

import os
import signal
from contextlib import contextmanager

import pytest

from cnnbp.training.lockstep import Member


@contextmanager
def stopping(turn):
    """Send SIGTERM when a member is about to run for the turn of this number, from 1.

    Raises:
        AssertionError: the command within goes on, or ends otherwise than by the signal.
    """
    turns = []

    def go_on(member, own=Member.go_on):
        turns.append(member)
        if len(turns) == turn:
            os.kill(os.getpid(), signal.SIGTERM)
        own(member)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Member, "go_on", go_on)
        with pytest.raises(SystemExit) as exit:
            yield
    assert exit.value.code == 143
