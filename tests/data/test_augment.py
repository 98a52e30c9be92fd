"""Augmentation against exact rotations and shifts, and the distribution of its fields."""

import itertools
import math

import pytest
import torch

from cnnbp.data.augment import Augment, distortion, erase, warp

SIDE = 28


@pytest.fixture
def images():
    return 255 * torch.rand(64, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def bent(images, angle=0.0, factor=1.0, right=0.0, down=0.0, shear=0.0, field=None):
    return warp(
        images, *(torch.full((len(images),), v) for v in (angle, factor, right, down, shear)), field
    )


def close(a, b):
    torch.testing.assert_close(
        a, b, rtol=0, atol=0.01
    )  # of 255: grid_sample's coordinates are in float32


def test_without_ranges_the_image_stays(images):
    close(Augment()(images), images)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns(images, turns):
    close(bent(images, angle=turns * math.pi / 2), images.rot90(turns, (2, 3)))


def test_whole_pixels_are_a_roll_with_zeros(images):
    rolled = images.roll((3, -2), (2, 3))
    rolled[:, :, :3] = 0
    rolled[..., -2:] = 0
    close(bent(images, right=-2.0, down=3.0), rolled)


def test_twice_as_large_shows_the_middle(images):
    """On a ramp, torch's cubic kernel (a = -3/4) is off by (2a + 1) t (1 - t) (1 - 2t) pixels, t =
    1/4 or 3/4 here.
    """
    ramp = torch.arange(SIDE) - (SIDE - 1) / 2
    plane = (ramp + 3 * ramp[:, None]).expand_as(images)
    inner = (..., slice(2, -2), slice(2, -2))
    off = 3 / 64 * ((ramp % 2 - 1).sign() + 3 * (ramp[:, None] % 2 - 1).sign())
    close(bent(128 + plane, factor=2.0)[inner], (128 + plane / 2 + off)[inner])


def test_shear_moves_rows_sideways():
    ramp = (torch.arange(SIDE) - (SIDE - 1) / 2).expand(1, 1, SIDE, SIDE)
    inner = (..., slice(10, 18), slice(10, 18))
    close(bent(128 + ramp, shear=math.pi / 4)[inner], (128 + ramp + ramp.mT)[inner])


def test_a_field_of_whole_pixels_is_a_shift(images):
    field = torch.tensor([2.0, -3.0]).expand(len(images), SIDE, SIDE, 2)
    close(bent(images, field=field), bent(images, right=-2.0, down=3.0))


def test_the_distortion_is_smooth_with_variance_one(images):
    torch.manual_seed(0)
    fields = torch.cat([distortion(images, 4.0) for _ in range(64)])
    assert fields.shape == (4096, SIDE, SIDE, 2)
    torch.testing.assert_close(fields.std(0), torch.ones(SIDE, SIDE, 2), rtol=0, atol=0.06)
    # the correlation of Gaussian-smoothed noise over a distance d is exp(-d^2 / (4 smoothness^2))
    correlation = (fields[:, 14, 10] * fields[:, 14, 14]).mean()
    assert correlation == pytest.approx(math.exp(-0.25), abs=0.06)


def test_erasing_is_a_rectangle(images):
    height, width, row, column = (
        torch.full((len(images),), value) for value in (4.0, 6.0, 10.0, 27.0)
    )
    expected = images.clone()
    expected[:, :, 8:12, 24:] = 0
    assert torch.equal(erase(images, height, width, row, column), expected)


@pytest.mark.parametrize("option", ["degrees", "shift", "scale", "shear", "elastic", "erase"])
def test_each_option_acts_by_the_seed_alone(images, option):
    augment = Augment(**{option: 0.5 if option == "scale" else 5.0})
    torch.manual_seed(1)
    first = augment(images)
    torch.manual_seed(1)
    assert torch.equal(augment(images), first)
    changed = (first - images).abs().amax((1, 2, 3)) > 1
    assert changed.float().mean() > 0.7
    assert not torch.equal(augment(images), first)


def test_ranges_are_kept(monkeypatch, images):
    drawn = {}
    names = ("angle", "factor", "right", "down", "shear")

    def keep(images, *values):
        drawn.update(zip(names, values, strict=False))
        return images

    monkeypatch.setattr("cnnbp.data.augment.warp", keep)
    Augment(degrees=90, shift=2, scale=0.1, shear=45)(images.repeat(100, 1, 1, 1))
    limits = {
        "angle": (-math.pi / 2, math.pi / 2),
        "factor": (0.9, 1.1),
        "right": (-2, 2),
        "down": (-2, 2),
        "shear": (-math.pi / 4, math.pi / 4),
    }
    for name, (low, high) in limits.items():
        span = high - low
        assert low <= drawn[name].min() < low + 0.01 * span, name
        assert high - 0.01 * span < drawn[name].max() <= high, name


def test_the_largest_draw_is_the_end_of_each_range(monkeypatch, images):
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda draws, low, high: draws.fill_(high))
    drawn = Augment(degrees=90, shift=2, scale=0.5, shear=20)(images)
    close(
        drawn,
        bent(images, math.pi / 2, factor=1.5, right=2.0, down=2.0, shear=math.radians(20)),
    )


def test_pixels_between_those_given_stay_in_range():
    """The cubic kernel overshoots at an edge."""
    images = torch.zeros(1, 1, SIDE, SIDE)
    images[..., 14:] = 255
    moved = bent(images, right=0.5)
    assert moved.min() == 0
    assert moved.max() == 255


def test_a_pixel_is_erased_by_its_centre(images):
    images = images[:8] + 1
    draws = torch.rand(4, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    erased = erase(images, *(20 * draws)) == 0
    for image in range(8):
        height, width, row, column = (20 * draws[:, image]).tolist()
        for down, right in itertools.product(range(SIDE), repeat=2):
            is_inside = abs(down + 0.5 - row) < height / 2 and abs(right + 0.5 - column) < width / 2
            assert bool(erased[image, 0, down, right]) == is_inside


def test_all_is_made_on_the_device_of_the_images(images):
    augment = Augment(10, 2, 0.1, 10, elastic=1.0, erase=5.0)
    assert augment(images.to("meta")).device.type == "meta"
