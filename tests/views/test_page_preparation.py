"""The page prepares a drawing as `predict` prepares a picture."""

import json

import numpy as np
import pytest
from generated_pictures import PAPERS, written
from PIL import Image, ImageDraw, ImageFilter
from py_mini_racer import MiniRacer

from cnnbp.data import user_pictures
from cnnbp.errors import UserError
from cnnbp.views.page import FOLDER


@pytest.fixture(scope="module")
def prepare():
    """Prepare a picture by the page's code; uint8 (28, 28), or the words of its error."""
    context = MiniRacer()
    for name in ("picture_ink", "picture_lines", "picture_parts", "picture_strokes", "preparation"):
        context.eval((FOLDER / f"{name}.js").read_text())
    context.eval("""
    function prepared(picture) {
      try { return Array.from(prepare(picture)); } catch (error) { return error.message; }
    }
    """)

    def call(picture):
        pixels = picture.convert("RGBA")
        argument = {
            "data": list(pixels.tobytes()),
            "width": pixels.width,
            "height": pixels.height,
        }
        found = json.loads(context.eval(f"JSON.stringify(prepared({json.dumps(argument)}))"))
        return found if isinstance(found, str) else np.array(found, np.uint8).reshape(28, 28)

    return call


def drawn(ink, paper, mode="L", size=(280, 280), width=26, shift=0):
    picture = Image.new(mode, size, paper)
    pen = ImageDraw.Draw(picture)
    points = [(60 + shift, 50), (200 + shift, 60), (120 + shift, 150), (110 + shift, 240)]
    pen.line(points, ink, width, joint="curve")
    return picture


def noisy(picture):
    noise = np.random.default_rng(1).normal(0, 6, (picture.height, picture.width))
    slope = np.linspace(-20, 20, picture.width)[None]
    return Image.fromarray((np.asarray(picture) + noise + slope).clip(0, 255).astype(np.uint8))


PICTURES = {
    "dark on white": drawn(0, 255),
    "bright on black": drawn(255, 0),
    "thin": drawn(40, 230, width=5),
    "at the edge": drawn(0, 255, shift=75),
    "large, averaged down": drawn(0, 255).resize((1300, 900)),
    "coloured": drawn((180, 20, 60), (250, 240, 200), "RGB"),
    "bare ink on nothing": drawn((20, 20, 20, 255), (0, 0, 0, 0), "RGBA"),
    "blurred": drawn(0, 255).filter(ImageFilter.GaussianBlur(4)),
    "on noisy, sloping paper": noisy(drawn(30, 200)),
    "as small as MNIST's": drawn(0, 255).resize((28, 28), Image.Resampling.BOX),
    "two digits": written("12", size=(300, 200)),
    "hairline": drawn(0, 255, width=2),
} | {paper: change(written("4")) for paper, change in PAPERS.items()}


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_prepared_as_predict_does(prepare, name):
    found, expected = prepare(PICTURES[name]), user_pictures.prepare(PICTURES[name]).numpy()
    # float32 sums in another order may fall on the other side of a half
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found != expected).mean() < 0.02


def test_blank_picture_is_refused(prepare):
    blank = Image.new("L", (280, 280), 255)
    with pytest.raises(UserError):
        user_pictures.prepare(blank)
    assert "blank" in prepare(blank)
