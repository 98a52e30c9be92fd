"""Normalised moments against analytic Gaussians, the moments themselves and digits moved on purpose."""

import math

import pytest
import torch

from cnnbp import moments
from cnnbp.augment import warp
from cnnbp.data import DataModule
from cnnbp.sources import embedded_mnist

SIDE = 28
PLACE = torch.arange(SIDE, dtype=torch.float64) - (SIDE - 1) / 2


def gaussian(covariance, x=0.0, y=0.0):
    """An image (1, 1, 28, 28) of 255 exp(-d' C^-1 d / 2) about the point (x, y), in pixels from the centre."""
    offsets = torch.stack(torch.meshgrid(PLACE - y, PLACE - x, indexing="ij")[::-1], -1)
    form = torch.einsum("hwi,ij,hwj->hw", offsets, torch.linalg.inv(torch.tensor(covariance).double()), offsets)
    return 255 * (-form / 2).exp()[None, None]


def measured(images):
    """Centre (right, down), slant and spread of the ink of images (N, 1, 28, 28), float64 (N, 4)."""
    ink = images.double() / images.sum((2, 3), keepdim=True)

    def mean(values):
        return (ink * values).sum((2, 3), keepdim=True)

    right, down = mean(PLACE), mean(PLACE[:, None])
    x, y = PLACE - right, PLACE[:, None] - down
    slant = mean(x * y) / mean(y**2)
    return torch.cat([right, down, slant, mean((x - slant * y) ** 2 + y**2).sqrt()], 1)[..., 0, 0]


@pytest.fixture(scope="module")
def digits():
    return embedded_mnist().train_images[:1000, None]


@pytest.mark.parametrize(("x", "y"), [(0, 0), (2.3, -1.6)])
@pytest.mark.parametrize("covariance", [[[4, 0], [0, 9]], [[5, 3], [3, 8]], [[6, -4], [-4, 5]]])
def test_a_gaussian_becomes_upright_centred_and_of_the_spread(covariance, x, y):
    """A shear by s leaves the variance along the slanted axis and takes s times the mixed moment off the other."""
    (across, mixed), (_, along) = covariance
    across -= mixed**2 / along
    scale = moments.SPREAD**2 / (across + along)
    wanted = gaussian([[across * scale, 0], [0, along * scale]])
    found = moments.normalise(gaussian(covariance, x, y))
    torch.testing.assert_close(found, wanted.float(), rtol=0, atol=8)  # of 255: torch's cubic kernel is coarse


def test_every_digit_has_the_moments_afterwards(digits):
    off = (measured(moments.normalise(digits)) - torch.tensor([0, 0, 0, moments.SPREAD])).abs()
    assert (off.mean(0) < torch.tensor([0.03, 0.03, 0.005, 0.05])).all()
    assert (off.amax(0) < torch.tensor([0.3, 0.3, 0.1, 0.4])).all()  # the edges cut off some ink


def test_the_spread_is_that_of_mnist():
    spreads = [measured(part[:, None])[:, 3] for part in embedded_mnist().train_images.split(1000)]
    assert torch.cat(spreads).mean() == pytest.approx(moments.SPREAD, abs=0.005)


def test_a_digit_moved_slanted_and_scaled_looks_the_same(digits):
    few = moments.normalise(digits[:100])
    shear, factor, right, down = (torch.full((100,), v) for v in (math.radians(10), 0.9, 1.5, -0.7))
    moved = warp(few, torch.zeros(100), factor, right, down, shear, None)
    assert (moments.normalise(moved) - few).abs().mean() < (moved - few).abs().mean() / 6  # interpolated thrice


def test_an_empty_image_stays_empty():
    assert not moments.normalise(torch.zeros(2, 1, SIDE, SIDE, dtype=torch.uint8)).any()


def test_the_splits_hold_normalised_images():
    data = DataModule(moments=True, val_size=59_990)
    data.setup("fit")
    raw = embedded_mnist()
    for split, images in ("train", raw.train_images[:10]), ("val", raw.train_images[10:]), ("test", raw.test_images):
        torch.testing.assert_close(data.splits[split][0][:10], data.prepare(images[:10, None])[:, 0])
        assert len(data.splits[split][0]) == len(images)
    assert torch.equal(data.prepare(raw.test_images[:10, None]), moments.normalise(raw.test_images[:10, None]))
    image, label = data.test_image(3)
    assert torch.equal(image, data.splits["test"][0][3])
    assert label == raw.test_labels[3]
