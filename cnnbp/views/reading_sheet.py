"""A sheet of pictures with what the network saw on them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from cnnbp.data.picture_files import open_picture
from cnnbp.files import replacing
from cnnbp.views.readings import Reading

# pixels: of a picture at most, of what the network saw, of a line of text, between all of them
PICTURE, SEEN, LINE, GAP = 280, 112, 16, 12
INK, SURE, DOUBTFUL = "#1a1a1a", "#1f6fb2", "#c2410c"


def draw_readings(path: Path, readings: dict[str, list[Reading]], names: Sequence[str]) -> None:
    """Draw each picture with boxes, and beside it what the network saw, its class and probability.

    Args:
        path: the PNG file.
        readings: by the file of the picture.
        names: of the classes.

    Raises:
        UserError: the file cannot be written.
    """
    rows = [_row(file, found, names) for file, found in readings.items()]
    width = max(row.width for row in rows)
    sheet = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    with replacing(path, "wb") as stream:
        sheet.save(stream, "PNG")


def _row(file: str, readings: Sequence[Reading], names: Sequence[str]) -> Image.Image:
    """One picture and its readings."""
    picture = ImageOps.exif_transpose(open_picture(file)).convert("RGBA")
    # a transparent picture lies on grey, on which black and white ink can be seen
    ground = Image.new("RGBA", picture.size, "#b0b0b0")
    picture = Image.alpha_composite(ground, picture).convert("RGB")
    scale = PICTURE / max(picture.size)
    picture = picture.resize([max(1, round(scale * side)) for side in picture.size])
    pen = ImageDraw.Draw(picture)
    for reading in readings:
        if reading.box:
            pen.rectangle([scale * place for place in reading.box], outline=_colour(reading))
    width = 3 * GAP + PICTURE + len(readings) * (SEEN + GAP)
    height = 2 * GAP + LINE + max(picture.height, SEEN + 2 * LINE)
    row = Image.new("RGB", (width, height), "white")
    text = ImageDraw.Draw(row)
    font = ImageFont.load_default(12)
    text.text((GAP, GAP), file, INK, font)
    row.paste(picture, (GAP, GAP + LINE))
    left = 2 * GAP + PICTURE
    for reading in readings:
        row.paste(_seen(reading), (left, GAP + LINE))
        words = f"{names[reading.label]}  {reading.probabilities.max():.1%}"
        text.text((left, GAP + LINE + SEEN + 2), words, _colour(reading), font)
        if reading.is_doubtful:
            text.text((left, GAP + 2 * LINE + SEEN + 2), "doubtful", DOUBTFUL, font)
        left += SEEN + GAP
    return row


def _seen(reading: Reading) -> Image.Image:
    """The network's input, enlarged."""
    pixels = np.asarray(reading.pixels)
    if pixels.ndim == 3:
        # (C, H, W), of one or three channels
        pixels = pixels.transpose(1, 2, 0).squeeze()
    return Image.fromarray(pixels).convert("RGB").resize((SEEN, SEEN), Image.Resampling.NEAREST)


def _colour(reading: Reading) -> str:
    return DOUBTFUL if reading.is_doubtful else SURE
