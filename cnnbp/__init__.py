"""Train one small network on MNIST, and see what its components and their back-propagation do."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnbp.trained_run import Predictions, TrainedRun, load, train

__all__ = ["Predictions", "TrainedRun", "load", "train"]


def __getattr__(name: str) -> Any:
    # importing PyTorch takes seconds, which `import cnnbp` leaves to the first use
    if name not in __all__:
        raise AttributeError(f"module 'cnnbp' has no attribute '{name}'")
    from cnnbp import trained_run

    return getattr(trained_run, name)
