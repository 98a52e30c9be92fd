"""Losses beside cross-entropy, against their formula and against mistakes."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnbp.errors import UserError
from cnnbp.training.classifier import Classifier
from cnnbp.training.losses import Focal, check_loss
from cnnbp.training.step import TrainingStep


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


@pytest.mark.parametrize("gamma", [0, 0.5, 2, 5])
def test_focal_is_its_formula_and_autograd_agrees_with_differences(gamma):
    torch.manual_seed(3)
    logits = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(7) % 5
    p = logits.softmax(1)[torch.arange(7), labels]
    expected = ((1 - p) ** gamma * -p.log()).mean()
    torch.testing.assert_close(Focal(gamma)(logits, labels), expected)
    assert torch.autograd.gradcheck(lambda x: Focal(gamma)(x, labels), logits)
    if gamma == 0:
        torch.testing.assert_close(Focal(0)(logits, labels), F.cross_entropy(logits, labels))


def test_focal_has_a_finite_slope_where_an_image_is_sure():
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    for gamma in (0, 0.5, 2):
        Focal(gamma)(logits, torch.tensor([0])).backward()
    assert logits.grad.isfinite().all()


def test_a_step_goes_down_the_slope_of_the_own_loss():
    torch.manual_seed(4)
    images = torch.randint(256, (6, 28, 28), dtype=torch.uint8)
    labels = torch.arange(6)
    own, reference = network(), network()
    reference.load_state_dict(own.state_dict())

    def pixels(stored):
        return stored[:, None].float()

    def normalise(values):
        return values / 255

    optimizer = torch.optim.SGD(own.parameters(), lr=0.1)
    step = TrainingStep(own, optimizer, pixels, normalise, own_loss=nn.MultiMarginLoss())
    loss = step(images, labels)
    expected = nn.MultiMarginLoss()(reference(normalise(pixels(images))), labels)
    expected.backward()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter -= 0.1 * parameter.grad
    torch.testing.assert_close(loss, expected.detach())
    for value, other in zip(own.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(value, other)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (nn.MSELoss(), "MSELoss fails on logits .*: The size of tensor a"),
        (nn.CrossEntropyLoss(reduction="none"), r"gives \(11,\); must be one number"),
        (lambda logits, labels: 0.0, "gives float; must be one number"),
        (lambda logits, labels: torch.tensor(1.0), "depends on the logits"),
        (lambda logits: logits.sum(), "takes 1 positional argument"),
    ],
)
def test_a_wrong_loss_is_named(loss, said):
    with pytest.raises(UserError, match=said):
        check_loss(loss, 10)


def test_a_trial_of_a_loss_leaves_the_filters_of_warnings():
    before = list(warnings.filters)
    check_loss(nn.CrossEntropyLoss(), 10)
    assert warnings.filters == before


def test_what_belongs_to_cross_entropy_alone_is_refused():
    for options in ({"label_smoothing": 0.1}, {"backprop": "by_hand"}):
        with pytest.raises(UserError, match="loss=cross_entropy"):
            Classifier(network(), torch.optim.SGD, loss=Focal(2), **options)
    with pytest.raises(UserError, match="gamma=-1"):
        Focal(-1)


def test_an_evaluation_takes_the_own_loss_or_plain_cross_entropy():
    logits, labels = torch.randn(4, 10), torch.arange(4)
    plain = Classifier(network(), torch.optim.SGD, label_smoothing=0.2)
    assert plain.evaluation_loss(logits, labels) == F.cross_entropy(logits, labels)
    focal = Classifier(network(), torch.optim.SGD, loss=Focal(3.0))
    assert focal.evaluation_loss(logits, labels) == Focal(3.0)(logits, labels)
