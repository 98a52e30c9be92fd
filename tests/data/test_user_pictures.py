"""A picture of a digit, whatever its make, comes out as MNIST's digits do."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from cnnbp.data.datasets import MNIST_ARCHIVE
from cnnbp.data.user_pictures import load, prepare
from cnnbp.errors import UserError

matplotlib = pytest.importorskip("matplotlib")
FONTS = {"default": None} | {
    name: Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
    for name in (
        "DejaVuSans",
        "DejaVuSans-BoldOblique",
        "DejaVuSerif",
        "DejaVuSansMono",
        "STIXGeneral",
    )
}


def draw(digit: int, font: str = "DejaVuSans", size: int = 100) -> Image.Image:
    """A digit in black on white, with room around it."""
    face = (
        ImageFont.truetype(str(FONTS[font]), size) if FONTS[font] else ImageFont.load_default(size)
    )
    image = Image.new("L", (2 * size, 2 * size), 255)
    ImageDraw.Draw(image).text((size, size), str(digit), fill=0, font=face, anchor="mm")
    return image


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean absolute difference in grey levels, over the shifts by at most a pixel that rounding the
    centre allows.
    """
    one, other = one.float(), other.float()
    shifts = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return min((one.roll(shift, (0, 1)) - other).abs().mean().item() for shift in shifts)


def assert_like_mnist(picture: torch.Tensor) -> None:
    assert picture.dtype == torch.uint8
    assert picture.shape == (28, 28)
    assert picture.max() == 255
    rows, columns = picture.nonzero().unbind(1)
    for positions, other in ((rows, 1), (columns, 0)):
        assert positions.max() - positions.min() < 20
        mass = picture.double().sum(other)
        assert abs((mass @ torch.arange(28.0).double() / mass.sum()).item() - 14) <= 1


@pytest.fixture(scope="module")
def mnist() -> np.ndarray:
    with np.load(MNIST_ARCHIVE) as arrays:
        return arrays["test_images"][:50]


RENDERINGS = {
    "as it is": lambda image: image,
    "nearest": lambda image: image.resize((140, 140), Image.Resampling.NEAREST),
    "bicubic": lambda image: image.resize((140, 140), Image.Resampling.BICUBIC),
    "inverted": lambda image: ImageOps.invert(image.resize((140, 140), Image.Resampling.BICUBIC)),
    "RGB": lambda image: ImageOps.invert(image.resize((140, 140))).convert("RGB"),
    "RGBA": lambda image: image.resize((140, 140)).convert("RGBA"),
    "P": lambda image: image.resize((140, 140)).convert("P"),
    "padded": lambda image: ImageOps.expand(image.resize((140, 140)), (200, 10, 30, 90)),
}


@pytest.mark.parametrize("rendering", RENDERINGS)
def test_mnist_comes_back(mnist, rendering):
    """Moved by one pixel, an image is 16 grey levels in the mean from itself.

    All stay below, most far below.
    """
    found = [
        distance(prepare(RENDERINGS[rendering](Image.fromarray(x))), torch.from_numpy(x))
        for x in mnist
    ]
    assert np.max(found) < (1 if rendering == "as it is" else 16)
    assert np.mean(found) < 7


@pytest.mark.parametrize("font", FONTS)
@pytest.mark.parametrize("size", [12, 30, 100, 400])
def test_drawn_digits_are_like_mnist(font, size):
    for digit in range(10):
        assert_like_mnist(prepare(draw(digit, font, size)))


BLACK, WHITE, CLEAR = (0, 0, 0, 255), (255, 255, 255, 255), (0, 0, 0, 0)


def on_clear(image: Image.Image, ink: tuple, paper: tuple = CLEAR) -> Image.Image:
    """The digit as a drawing program leaves it on a transparent sheet."""
    return Image.composite(
        Image.new("RGBA", image.size, paper), Image.new("RGBA", image.size, ink), image
    )


def clear_palette(image: Image.Image) -> Image.Image:
    image = image.convert("P")
    image.info["transparency"] = 255
    return image


def coloured(image: Image.Image) -> Image.Image:
    return ImageOps.colorize(image, black=(20, 30, 120), white=(250, 240, 230))


def margin(image: Image.Image) -> Image.Image:
    """An opaque sheet on a transparent ground."""
    sheet = Image.new("RGBA", (400, 300), CLEAR)
    sheet.paste(image, (150, 50))
    return sheet


def lit_from_one_side(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 3, image.size)
    light = np.linspace(110, 230, image.width) + noise
    return Image.fromarray((light * (0.3 + 0.7 * np.asarray(image) / 255)).astype(np.uint8))


SAME = {
    **{
        mode: lambda image, mode=mode: image.convert(mode)
        for mode in ("LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "1")
    },
    "I;16": lambda image: Image.fromarray(np.asarray(image).astype(np.uint16) * 257),
    "I;16, dim": lambda image: Image.fromarray(np.asarray(image).astype(np.uint16) + 1000),
    "F, 0 to 1": lambda image: Image.fromarray(np.asarray(image, np.float32) / 255),
    "inverted": ImageOps.invert,
    "faint": lambda image: image.point(lambda grey: 200 + grey // 8),
    "coloured": coloured,
    "coloured, inverted": lambda image: ImageOps.invert(coloured(image)),
    "black on clear": lambda image: on_clear(image, BLACK),
    "white on clear": lambda image: on_clear(image, WHITE),
    "white on clear white": lambda image: on_clear(image, WHITE, (255, 255, 255, 0)),
    "half clear": lambda image: on_clear(image, (0, 0, 0, 90)),
    "clear palette": clear_palette,
    "clear margin": margin,
    "border": lambda image: ImageOps.expand(image, (300, 20, 5, 90), fill=255),
    "cropped": lambda image: image.crop(ImageOps.invert(image).getbbox()),
    "large": lambda image: image.resize((1000, 1000), Image.Resampling.BICUBIC),
    "small": lambda image: image.resize((60, 60), Image.Resampling.BICUBIC),
    "lit from one side": lit_from_one_side,
}
RESAMPLED = {"border", "large", "small"}


@pytest.mark.parametrize("change", SAME)
@pytest.mark.parametrize("digit", [0, 4, 5])
def test_result_does_not_depend_on(change, digit):
    image = draw(digit)
    limit = (
        10 if change in RESAMPLED else 5
    )  # a fitted width rounded the other way moves every stroke a little
    assert distance(prepare(SAME[change](image)), prepare(image)) < limit


def test_different_digits_differ_more():
    prepared = [prepare(draw(digit)) for digit in range(10)]
    assert min(distance(one, other) for one, other in itertools.combinations(prepared, 2)) > 15


def test_speck_of_dust_is_left_out():
    image = draw(5)
    image.putpixel((3, 190), 0)
    image.putpixel((197, 4), 60)
    assert distance(prepare(image), prepare(draw(5))) < 3


def test_thin_strokes_stay_bright():
    image = Image.new("L", (2000, 2000), 255)
    ImageDraw.Draw(image).ellipse((200, 200, 1500, 1800), outline=0, width=8)
    assert_like_mnist(prepare(image))


def test_large_photograph():
    image = Image.new("RGB", (5000, 3000), "white")
    image.paste(draw(5, size=1000), (1500, 500))
    assert distance(prepare(image), prepare(draw(5))) < 5


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 5000), (28, 28), (300, 200)])
@pytest.mark.parametrize("mode", ["1", "L", "RGBA", "P", "I", "F"])
def test_blank_is_one_line(size, mode):
    with pytest.raises(UserError, match=r"^no digit found \(the image is blank\)$"):
        prepare(Image.new(mode, size))


def test_noisy_paper_is_blank():
    noise = np.random.default_rng(0).normal(235, 4, (600, 400))
    with pytest.raises(UserError, match="blank"):
        prepare(Image.fromarray(noise.astype(np.uint8)))


@pytest.mark.parametrize("size", [(1, 200), (200, 1)])
def test_lines_are_prepared(size):
    image = Image.new("L", (300, 300), 255)
    image.paste(0, (50, 50, 50 + size[0], 50 + size[1]))
    assert_like_mnist(prepare(image))


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "webp", "tif"])
def test_load_reads_files(tmp_path, kind):
    draw(5).save(tmp_path / f"five.{kind}")
    assert distance(load(tmp_path / f"five.{kind}"), prepare(draw(5))) < 3


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
def test_load_turns_as_exif_says(tmp_path, kind):
    exif = Image.Exif()
    exif[0x112] = 6  # turn by 90 degrees clockwise
    draw(5).transpose(Image.Transpose.ROTATE_90).save(tmp_path / f"five.{kind}", exif=exif)
    assert distance(load(str(tmp_path / f"five.{kind}")), prepare(draw(5))) < 3


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "No such file"),
        (b"", "not a picture"),
        (b"five", "not a picture"),
        (png(draw(5))[:500], "cannot be read"),
        (png(draw(5))[:100] + bytes(50) + png(draw(5))[150:], "cannot be read"),
        (png(Image.new("L", (30, 20))), "no digit found (the image is blank)"),
    ],
    ids=["missing", "empty", "text", "truncated", "damaged", "blank"],
)
def test_unusable_file_is_one_line(tmp_path, content, part):
    path = tmp_path / "five.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "limit", [100 * 100, 150 * 200]
)  # Pillow raises beyond twice its limit, and warns before
def test_decompression_bomb_is_one_line(tmp_path, monkeypatch, limit, recwarn):
    path = tmp_path / "five.png"
    draw(5).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UserError, match="too many pixels"):
        load(path)
    assert not recwarn.list


def test_directory_is_one_line(tmp_path):
    with pytest.raises(UserError, match="Is a directory"):
        load(tmp_path)
