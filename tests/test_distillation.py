"""Learning from a teacher: its loss against the closed form, and what is refused."""

import csv
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnbp.checkpoint import load
from cnnbp.distillation import Teacher

SMALL = ("trainer=smoke", "data.batch_size=16", "data.eval_batch_size=100", "trainer.precision=32-true")
TEACHER = ("name=teacher", "experiment=best", "teacher=none", *SMALL)
TAUGHT = ("experiment=best", "name=run", *SMALL)


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 10)).double()


@pytest.mark.parametrize("temperature", [0.5, 1, 3])
def test_the_gradient_is_the_difference_of_the_softened_probabilities(temperature):
    networks = [network(1), network(2)]
    images = torch.randn(6, 1, 4, 4, dtype=torch.float64)
    logits = torch.randn(6, 10, dtype=torch.float64, requires_grad=True)
    Teacher(networks, temperature).loss(images, logits).backward()
    mean = (networks[0](images) + networks[1](images)).detach() / 2
    own, taught = ((x / temperature).softmax(1) for x in (logits.detach(), mean))
    torch.testing.assert_close(logits.grad, (own - taught) / (6 * temperature), rtol=1e-5, atol=1e-8)
    assert all(parameter.grad is None for one in networks for parameter in one.parameters())


def test_a_teacher_without_doubt_teaches_the_labels():
    torch.manual_seed(1)
    labels, logits = torch.randint(10, (8,)), torch.randn(8, 10)
    sure = 1e4 * F.one_hot(labels, 10).float()
    torch.testing.assert_close(Teacher([nn.Identity()], 1).loss(sure, logits), F.cross_entropy(logits, labels))


def test_the_fingerprint_tells_ensembles_apart():
    one, same, other = ([network(seed) for seed in seeds] for seeds in ((1, 2), (1, 2), (1, 3)))
    assert Teacher(one, 3).fingerprint() == Teacher(same, 1).fingerprint() != Teacher(other, 3).fingerprint()


def test_the_runs_of_a_sweep_are_learnt_from_as_they_ended(train, monkeypatch):
    train("-m", "seed=1,2", *TEACHER)
    seen, loss = [], Teacher.loss

    def watched(self, images, logits):
        seen.append((self.networks, loss(self, images, logits)))
        return seen[-1][1]

    monkeypatch.setattr(Teacher, "loss", watched)
    train(*TAUGHT)
    assert len(seen) == 2
    runs = sorted(Path("outputs/teacher").glob("*/checkpoints/last.ckpt"))
    for networks, _ in seen:
        for run, taught in zip(runs, networks, strict=True):
            assert not taught.training
            trained = load(run)["state_dict"]
            assert all(torch.equal(value, trained[f"network.{name}"]) for name, value in taught.state_dict().items())
    with Path("outputs/run/metrics.csv").open() as file:
        logged = float(next(csv.DictReader(file))["loss/train"])
    assert logged == pytest.approx(sum(value.item() for _, value in seen) / 2)
    weights = load("outputs/run/checkpoints/last.ckpt")["state_dict"]
    assert weights.keys() == trained.keys()
    assert sum(value.numel() for name, value in weights.items() if name.endswith((".weight", ".bias"))) == 19_866


def test_a_run_goes_on_with_the_same_teacher_only(train):
    train(*TEACHER)
    train(*TAUGHT, "trainer.max_epochs=2")
    Path("outputs/run/result.json").unlink()
    train(*TEACHER, "seed=2", "overwrite=true")
    with pytest.raises(SystemExit, match="the checkpoint was trained with another teacher, or none"):
        train(*TAUGHT, "trainer.max_epochs=2")


def test_a_teacher_that_has_seen_the_images_held_out_is_refused(train):
    train(*TEACHER)
    with pytest.raises(SystemExit, match="outputs/teacher: a teacher of data.val_size=0, which is 5000 here"):
        train(*TAUGHT, "data.val_size=5000")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=1", "teacher.directory=outputs/teacher: no finished run there; train some: python train.py -m"),
        ("teacher.temperature=0", "teacher.temperature=0: must be a number above 0"),
        ("++teacher.shift=1", "must be directory and temperature, or {}"),
        ("model.label_smoothing=0.1", "teacher: its answers take the labels' place"),
        ("model.backprop=by_hand", "teacher: its answers take the labels' place"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(train, override, message):
    with pytest.raises(SystemExit, match=re.escape(message)):
        train(*TAUGHT, override)
    assert not Path("outputs/run").exists()
