"""Pictures with more than a digit: what is beside it is left out, and several are told apart."""

import numpy as np
import pytest
from generated_pictures import PAPERS, framed, inverted, noisy, ruled, tilted, vignetted, written
from PIL import Image, ImageDraw
from test_user_pictures import distance

from cnnbp.data.datasets import MNIST_ARCHIVE
from cnnbp.data.picture_parts import connected
from cnnbp.data.user_pictures import find_digits, prepare
from cnnbp.errors import UserError

# grey levels; resampled by a turn, or blurred. Two different digits of one font are 15 apart.
TURNED = 14


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("digit", "0123456789")
def test_paper_does_not_matter(paper, digit):
    found = find_digits(PAPERS[paper](written(digit)))
    assert len(found) == 1
    limit = TURNED if "tilted" in paper or paper == "blurred" else 9
    assert distance(found[0].pixels, prepare(written(digit))) < limit


@pytest.mark.parametrize("paper", ["plain", "framed", "ruled", "noise on black"])
def test_digits_are_found_from_left_to_right_with_their_places(paper):
    found = find_digits(PAPERS[paper](written("7163", size=(500, 200))))
    for digit, one in zip("7163", found, strict=True):
        assert distance(one.pixels, prepare(written(digit))) < 9
    places = [one.box[0] for one in found]
    assert places == sorted(places)
    for one in found:
        left, top, right, bottom = one.box
        assert right - left < 110
        assert abs(bottom - top - 140) < 8


def test_two_lines_are_read_one_after_the_other():
    page = Image.new("L", (300, 400), 255)
    page.paste(written("27", size=(300, 200)), (0, 0))
    page.paste(written("58", size=(300, 200)), (0, 200))
    for digit, one in zip("2758", find_digits(page), strict=True):
        assert distance(one.pixels, prepare(written(digit))) < 5


def test_box_is_in_pixels_of_the_whole_picture():
    page = Image.new("L", (3000, 2000), 255)
    page.paste(written("4", high=700, size=(1000, 1000)), (1600, 300))
    (found,) = find_digits(page)
    ink = inverted(page).point(lambda grey: 255 if grey > 100 else 0).getbbox()
    assert np.abs(np.subtract(found.box, ink)).max() <= 12


def test_pieces_of_one_digit_are_one():
    picture = written("5")
    # the bar of the 5 stands free, and the stroke of the bow is broken
    ImageDraw.Draw(picture).rectangle((40, 62, 160, 66), fill=255)
    assert len(find_digits(picture)) == 1


def test_dash_and_dot_are_no_digits():
    assert len(find_digits(written("-3.", size=(300, 200)))) == 1


def test_digit_in_a_circle():
    picture = written("3", high=90)
    ImageDraw.Draw(picture).ellipse((20, 20, 180, 180), outline=20, width=5)
    (found,) = find_digits(picture)
    assert distance(found.pixels, prepare(written("3", high=90))) < 5


def test_lines_alone_are_no_digit():
    with pytest.raises(UserError, match=r"no digit found \(nothing but lines\)"):
        find_digits(ruled(Image.new("L", (200, 200), 255)))


def test_hairlines_are_as_thick_as_a_pen():
    picture = Image.new("L", (400, 400), 255)
    pen = ImageDraw.Draw(picture)
    pen.ellipse((120, 40, 280, 360), outline=40, width=3)
    # thick in one place, as a nib writes
    pen.line((120, 150, 120, 250), fill=0, width=14)
    bright = np.asarray(prepare(picture)) > 128
    # the hairline on the right as well as the thick stroke on the left
    assert bright[:, 15:].any(1).sum() >= 18


@pytest.mark.parametrize("scale", [1, 5])
@pytest.mark.parametrize(
    "change", [noisy, lambda x: noisy(inverted(x)), lambda x: vignetted(inverted(x))]
)
def test_mnist_comes_back_from_noise_and_shade(change, scale):
    with np.load(MNIST_ARCHIVE) as arrays:
        images = arrays["train_images"][-40:]
    found = []
    for image in images:
        picture = Image.fromarray(image)
        large = picture.resize((28 * scale, 28 * scale), Image.Resampling.BICUBIC)
        found.append(distance(prepare(change(large)), prepare(picture)))
    assert np.median(found) < (14 if scale == 1 else 10)


def test_connected_parts():
    """On random pixels, whose parts wind."""
    mask = np.random.default_rng(0).random((40, 60)) < 0.4
    labels = connected(mask)
    assert ((labels > 0) == mask).all()
    rows, columns = mask.nonzero()
    same = labels[rows, columns]
    for row, column, own in zip(rows, columns, same, strict=True):
        around = labels[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        assert set(around[around > 0]) == {own}
    for label in range(1, labels.max() + 1):
        own = labels == label
        reached = np.zeros_like(own)
        reached[tuple(np.argwhere(own)[0])] = True
        while True:
            wide = np.pad(reached, 1)
            grown = own & np.any(
                [wide[i : i + 40, j : j + 60] for i in range(3) for j in range(3)], axis=0
            )
            if (grown == reached).all():
                break
            reached = grown
        assert (reached == own).all()


def test_a_tilted_frame_that_is_cut_off():
    picture = tilted(framed(written("6", high=110), inside=2), 2)
    assert distance(prepare(picture), prepare(written("6"))) < TURNED
