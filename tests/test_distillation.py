"""Learning from a teacher: its loss against the closed form, and the two runs against what is promised of them."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnbp.checkpoint import load
from cnnbp.configs import compose
from cnnbp.distillation import Teacher
from cnnbp.errors import UserError
from cnnbp.leaderboard import ranked
from cnnbp.run import teacher_config

TAUGHT = ("teacher=wide", "trainer=smoke", "data.batch_size=16", "data.eval_batch_size=100", "name=run")
RUN = Path("outputs/run")


def weights(run):
    return load(run / "checkpoints/last.ckpt")["state_dict"]


@pytest.mark.parametrize("temperature", [0.5, 1, 3])
def test_the_gradient_is_the_difference_of_the_softened_probabilities(temperature):
    torch.manual_seed(1)
    images = torch.randn(6, 1, 2, 5, dtype=torch.float64)
    logits = torch.randn(6, 10, dtype=torch.float64, requires_grad=True)
    Teacher(nn.Flatten(), temperature, 0).loss(images, logits).backward()
    own, taught = ((x / temperature).softmax(1) for x in (logits.detach(), images.flatten(1).float().double()))
    torch.testing.assert_close(logits.grad, (own - taught) / (6 * temperature), rtol=1e-6, atol=1e-9)


def test_a_teacher_without_doubt_teaches_the_labels():
    torch.manual_seed(1)
    labels, logits = torch.randint(10, (8,)), torch.randn(8, 10)
    sure = 1e4 * F.one_hot(labels, 10).view(8, 1, 2, 5).float()
    torch.testing.assert_close(Teacher(nn.Flatten(), 1, 0).loss(sure, logits), F.cross_entropy(logits, labels))


def test_the_teacher_sees_each_shift_of_the_images_alike_often():
    torch.manual_seed(1)
    images, logits, seen = torch.randn(3, 1, 4, 4), torch.randn(3, 10), []
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 10))
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    teacher = Teacher(network, 3, 1)
    for _ in range(900):
        teacher.loss(images, logits)
    shifts = [images.roll((down, right), (2, 3)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    counts = [sum(torch.equal(shift, view) for view in seen) for shift in shifts]
    assert sum(counts) == 900
    assert all(60 < count < 140 for count in counts)  # four standard deviations of 100


def test_the_teacher_is_trained_first_and_then_learnt_from(train):
    train(*TAUGHT)
    student, teacher = (json.loads((run / "result.json").read_text()) for run in (RUN, RUN / "teacher"))
    assert (student["parameters"], teacher["parameters"]) == (19_866, 74_282)
    assert weights(RUN).keys() == weights(RUN / "teacher").keys()
    (row,) = ranked(Path("outputs"))
    assert row["seconds"] == student["train_seconds"] + teacher["train_seconds"]


def test_what_is_learnt_is_the_teachers_answers_and_not_the_labels(train, monkeypatch):
    seen = []
    loss = Teacher.loss

    def watched(self, images, logits):
        seen.append((images, self.network, loss(self, images, logits)))
        return seen[-1][2]

    monkeypatch.setattr(Teacher, "loss", watched)
    train(*TAUGHT, "trainer.precision=32-true")
    assert len(seen) == 2
    trained = {name.removeprefix("network."): value for name, value in weights(RUN / "teacher").items()}
    for _, network, _ in seen:
        assert not network.training
        for name, value in network.state_dict().items():
            assert torch.equal(value, trained[name])
    rows = (RUN / "metrics.csv").read_text().splitlines()
    logged = float(dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))["loss/train"])
    assert logged == pytest.approx(sum(value.item() for *_, value in seen) / 2)


def test_a_run_that_fails_keeps_its_teacher_and_goes_on_with_it(train, capsys, monkeypatch):
    def fail(*_):
        raise UserError("no")

    with monkeypatch.context() as patch:
        patch.setattr(Teacher, "loss", fail)
        with pytest.raises(SystemExit):
            train(*TAUGHT)
    stored = (RUN / "teacher/result.json").stat()
    train(*TAUGHT)
    assert "teacher is finished" in capsys.readouterr().out
    assert (RUN / "teacher/result.json").stat() == stored
    assert (RUN / "result.json").exists()


def test_a_run_whose_teacher_fails_at_once_leaves_nothing(train):
    with pytest.raises(SystemExit):
        train(*TAUGHT, "optimizer.nesterov=nonsense")
    assert not RUN.exists()


def test_the_teachers_config_differs_by_the_changes_alone():
    config = compose([*TAUGHT, "teacher.changes.model.network.widths=[4,4,4,4,4]", "ckpt_path=x"], "here")
    taught = teacher_config(config)
    config.teacher, config.ckpt_path, config.run_dir = {}, None, "here/teacher"
    config.model.network.widths = [4, 4, 4, 4, 4]
    assert taught == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher.temperature=0", "teacher.temperature=0: must be a number above 0"),
        ("+teacher.changes.depth=3", "teacher.changes: Key 'depth' is not in struct"),
        ("teacher.changes.model.network.widths=[1]", "model.network.widths=[1]: must be five whole numbers above 0"),
        ("model.label_smoothing=0.1", "teacher: its answers take the labels' place"),
        ("model.backprop=by_hand", "teacher: its answers take the labels' place"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(train, override, message):
    with pytest.raises(SystemExit, match=re.escape(message)):
        train(*TAUGHT, override)
    assert not RUN.exists()
