"""Metrics that are added by config, to the result and the leaderboard."""

import json

import pytest
import torch
from launch import TWO_STEPS
from torchmetrics import Metric
from torchmetrics.classification import MulticlassCalibrationError, MulticlassF1Score

from cnnbp.errors import UserError
from cnnbp.training.stage_metrics import lower_is_better, stage_metrics


def test_what_is_measured_is_what_torchmetrics_computes():
    torch.manual_seed(5)
    logits, labels = torch.randn(20, 4), torch.arange(20) % 4
    metrics = stage_metrics(4, {"f1": MulticlassF1Score(4, average="macro"), "gone": None})
    metrics.update(logits, labels)
    assert metrics.compute() == {"f1": MulticlassF1Score(4)(logits, labels)}


def test_a_metric_says_whether_less_of_it_is_better():
    others = {"f1": MulticlassF1Score(4), "error": MulticlassCalibrationError(4)}
    assert lower_is_better(stage_metrics(4, others)) == ["error"]


class Total(Metric):
    """Sums up something of each batch."""

    def __init__(self, counted):
        super().__init__()
        self.counted = counted
        self.add_state("total", torch.tensor(0.0))

    def update(self, preds, target):
        if not len(preds) == len(target):
            raise ValueError("not one label an image")
        self.total += self.counted(preds, target)

    def compute(self):
        return self.total


def test_metrics_that_begin_alike_stay_apart():
    """Torchmetrics would update one alone of those whose states are the same after a batch."""
    seen = Total(lambda preds, target: len(target))
    right = Total(lambda preds, target: (preds.argmax(1) == target).sum())
    metrics = stage_metrics(3, {"seen": seen, "right": right})
    for labels in (torch.arange(3), torch.tensor([0, 0, 0])):
        metrics.update(torch.eye(3), labels)
    assert metrics.compute() == {"seen": 6, "right": 4}


class Number(Total):
    def compute(self):
        return 3.5


class Counts(Metric):
    def update(self, preds):
        pass

    def compute(self):
        return torch.zeros(3)


@pytest.mark.parametrize(
    ("name", "metric", "said"),
    [
        ("loss", MulticlassF1Score(4), "metrics.loss: must have another name"),
        ("a/b", MulticlassF1Score(4), "metrics.a/b: must have another name"),
        ("f1", MulticlassF1Score(4, average="none"), "metrics.f1: gives more than one number"),
        ("number", Number(lambda *_: 0), "metrics.number: gives more than one number"),
        ("f1", MulticlassF1Score(3), "metrics.f1: fails on logits"),
        ("counts", Counts(), "metrics.counts: fails on logits"),
        ("text", str, "metrics.text: fails on logits"),
    ],
)
def test_a_wrong_metric_is_named(name, metric, said):
    with pytest.raises(UserError, match=said):
        stage_metrics(4, {name: metric})


def test_a_metric_and_a_loss_reach_the_result_and_the_leaderboard(tmp_path, train, cnnbp, capsys):
    common = (*TWO_STEPS, "logger=csv", "data.val_size=100")
    train(*common, "name=a", "loss=focal", "metrics=[f1,calibration]")
    f1 = "+metrics.f1._target_=torchmetrics.classification.MulticlassF1Score"
    train(*common, "name=b", f1, "seed=3")
    results = {}
    for name in ("a", "b"):
        results[name] = json.loads((tmp_path / "outputs" / name / "result.json").read_text())
    added = {"calibration_error", "val_calibration_error"}
    assert set(results["a"]) - set(results["b"]) == added | {"lower_is_better"}
    assert results["a"]["lower_is_better"] == ["calibration_error"]
    header = (tmp_path / "outputs/a/metrics.csv").read_text().splitlines()[0]
    assert "f1/val" in header
    capsys.readouterr()
    cnnbp("evaluate", "outputs/a")
    assert "\ncalibration_error: 0." in capsys.readouterr().out
    cnnbp("leaderboard", "outputs", "--metric", "val_f1")
    lines = capsys.readouterr().out.splitlines()
    best = max(results, key=lambda name: results[name]["val_f1"])
    assert lines[1].split()[:3] == ["1", best, f"{results[best]['val_f1']:.4f}"]
    cnnbp("leaderboard", "outputs", "--metric", "calibration_error", "--group")
    assert f"{results['a']['calibration_error']:.4f}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--metric nothing: no run has it; choose accuracy"):
        cnnbp("leaderboard", "outputs", "--metric", "nothing")
