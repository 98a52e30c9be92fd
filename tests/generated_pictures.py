"""Pictures of digits, drawn on papers of many kinds."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

# where it is not installed, the tests that draw are left out
matplotlib = pytest.importorskip("matplotlib")

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSerif",
    "DejaVuSansMono",
    "STIXGeneral",
    "STIXGeneralItalic",
    "cmr10",
    "cmss10",
)


def written(text, font="DejaVuSans", high=140, size=(200, 200), ink=30, paper=255):
    """A text in the middle, its digits `high` pixels tall."""
    file = str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf"))
    _, top, _, bottom = ImageFont.truetype(file, 200).getbbox("0123456789")
    face = ImageFont.truetype(file, round(200 * high / (bottom - top)))
    picture = Image.new("L", size, paper)
    pen = ImageDraw.Draw(picture)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=face)
    place = ((size[0] - right - left) / 2, (size[1] - bottom - top) / 2)
    pen.text(place, text, fill=ink, font=face)
    return picture


def framed(picture, ink=0, width=4, inside=3):
    picture = picture.copy()
    corner = (picture.width - 1 - inside, picture.height - 1 - inside)
    ImageDraw.Draw(picture).rectangle((inside, inside, *corner), outline=ink, width=width)
    return picture


def ruled(picture, ink=170, width=2, every=25, squared=False):
    rules = Image.new("L", picture.size, 255)
    pen = ImageDraw.Draw(rules)
    for place in range(every, max(picture.size), every):
        pen.rectangle((0, place, picture.width, place + width - 1), fill=ink)
        if squared:
            pen.rectangle((place, 0, place + width - 1, picture.height), fill=ink)
    return Image.fromarray(np.minimum(np.asarray(picture), np.asarray(rules)))


def inverted(picture):
    return picture.point(lambda grey: 255 - grey)


def noisy(picture, deviation=50, seed=0):
    noise = np.random.default_rng(seed).normal(0, deviation, (picture.height, picture.width))
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def vignetted(picture, strength=0.97, power=2):
    y, x = np.mgrid[-1 : 1 : picture.height * 1j, -1 : 1 : picture.width * 1j]
    shade = 1 - strength * ((x * x + y * y) / 2) ** (power / 2)
    return Image.fromarray((np.asarray(picture) * shade).astype(np.uint8))


def tilted(picture, degrees=3):
    return picture.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=255)


def speckled(picture, seed=0):
    picture = picture.copy()
    pen = ImageDraw.Draw(picture)
    for x, y in np.random.default_rng(seed).integers(0, picture.size, (12, 2)).tolist():
        pen.ellipse((x, y, x + 3, y + 3), fill=60)
    return picture


def scribble(seed):
    """A pen that wanders without sense."""
    picture = Image.new("L", (200, 200), 255)
    points = np.random.default_rng(seed).uniform(30, 170, (8, 2)).tolist()
    ImageDraw.Draw(picture).line([tuple(point) for point in points], 20, 8, joint="curve")
    return picture


PAPERS = {
    "plain": lambda picture: picture,
    "framed": framed,
    "tilted frame": lambda picture: tilted(framed(picture, inside=12)),
    "ruled": ruled,
    "squared": lambda picture: ruled(picture, 190, 2, 30, squared=True),
    "tilted rules": lambda picture: tilted(ruled(picture)).crop(
        (12, 12, picture.width - 12, picture.height - 12)
    ),
    "noise on white": noisy,
    "noise on black": lambda picture: noisy(inverted(picture)),
    "framed and noisy": lambda picture: noisy(framed(picture), 20),
    "vignetted": vignetted,
    "dark corners": lambda picture: vignetted(picture, 0.97, 4),
    "speckled": speckled,
    "blurred": lambda picture: picture.filter(ImageFilter.GaussianBlur(2)),
}


def several(count, seed=0):
    """Yield so many (text of one to four digits, what it is drawn with, picture)."""
    generator = np.random.default_rng(seed)
    for k in range(count):
        paper = list(PAPERS)[k % len(PAPERS)]
        font = FONTS[int(generator.integers(len(FONTS)))]
        digits = 1 if generator.random() < 0.67 else int(generator.integers(2, 5))
        text = "".join(map(str, generator.integers(0, 10, digits)))
        side = int(generator.choice([120, 200, 280, 400]))
        high = side * generator.uniform(0.4, 0.7)
        size = (side if digits == 1 else int(high * 0.8 * (digits + 1)), side)
        ink, ground = int(generator.integers(0, 90)), int(generator.integers(225, 256))
        yield text, f"{font}, {paper}", PAPERS[paper](written(text, font, high, size, ink, ground))
