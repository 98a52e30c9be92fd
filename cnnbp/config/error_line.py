"""How a user's mistake is told: one line on stderr and exit status 1, without a traceback."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cnnbp.config.hydra_errors import HYDRA_ERRORS, explain, is_wrong_group_choice
from cnnbp.errors import UserError
from cnnbp.signals import exiting

# The processes that a run starts inherit HYDRA_FULL_ERROR as it is set below, which is not what
# the user asked for: the user's wish has a variable of its own.
WANTS_TRACEBACKS = (
    os.environ.setdefault("CNNBP_FULL_ERROR", os.environ.get("HYDRA_FULL_ERROR", "0")) == "1"
)


@contextmanager
def errors_on_one_line() -> Iterator[None]:
    """End the process with one line for a user's mistake; HYDRA_FULL_ERROR=1 keeps tracebacks."""
    # lets Hydra raise its errors instead of printing them
    os.environ["HYDRA_FULL_ERROR"] = "1"
    threading.excepthook = _report_from_thread
    try:
        with exiting():
            yield
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        # Python flushes stdout once more at its end, which would fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if WANTS_TRACEBACKS or not is_users(error):
            raise
        # every process of a run meets the same mistake, and the first one tells it
        is_first = not int(os.environ.get("LOCAL_RANK", 0))
        sys.exit(f"error: {explain(error)}" if is_first else 1)


def is_users(error: Exception) -> bool:
    """Whether the user can mend it, so that its message is clear without a traceback."""
    # Lightning's class of errors goes by its name: importing it would take seconds
    return (
        isinstance(error, (UserError, OSError, *HYDRA_ERRORS))
        or type(error).__name__ == "MisconfigurationException"
        or is_wrong_group_choice(error)
    )


def _report_from_thread(args: threading.ExceptHookArgs) -> None:
    # TensorBoard's thread fails on a full disk; the main thread fails too, and tells it
    if not issubclass(args.exc_type, OSError) and args.exc_value is not None:
        sys.__excepthook__(args.exc_type, args.exc_value, args.exc_traceback)
