"""What is measured on validation and test images beside loss and accuracy."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from cnnbp.errors import UserError, on_one_line
from cnnbp.training.epoch_sums import MEANS


def stage_metrics(classes: int, others: Mapping[str, Metric] | None = None) -> MetricCollection:
    """The metrics that somebody has added to loss and accuracy.

    Args:
        others: by the names that they are logged under.

    Raises:
        UserError: one of the others takes no logits, gives more than one number, or has a name that
            is in use.
    """
    metrics: dict[str, Metric | MetricCollection] = {}
    for name, metric in (others or {}).items():
        # which ~metrics.NAME leaves out, and metrics.NAME=null too
        if metric is None:
            continue
        if name in MEANS or "/" in name:
            raise UserError(f"metrics.{name}: must have another name")
        _check_metric(name, metric, classes)
        metrics[name] = metric
    return MetricCollection(metrics, compute_groups=False)


def lower_is_better(metrics: MetricCollection) -> list[str]:
    """The names of added metrics of which less is better, as far as they say so."""
    names = []
    for name, metric in metrics.items():
        if metric.higher_is_better is False:
            names.append(str(name))
    return names


def _check_metric(name: str, metric: Metric, classes: int) -> None:
    try:
        trial = metric.clone()
        logits = torch.eye(classes).repeat(2, 1)
        trial.update(logits, torch.arange(2 * classes) % classes)
        value = trial.compute()
    except Exception as error:  # it is somebody else's code
        raise UserError(
            f"metrics.{name}: fails on logits ({2 * classes}, {classes}): {on_one_line(error)}"
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise UserError(f"metrics.{name}: gives more than one number; give average=macro or so")
