"""The classes that a network reads from pictures."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cnnbp.data.datamodule import DataModule
from cnnbp.data.user_pictures import Box
from cnnbp.errors import UserError
from cnnbp.training.restore import restore
from cnnbp.views.likeness import Likeness
from cnnbp.views.reading_sheet import draw_readings


class Reading(NamedTuple):
    """What was read at one place of a picture.

    Attributes:
        pixels: what the network saw, (H, W) or (C, H, W), uint8.
        box: left, top, right, bottom in pixels of the upright picture; None: all of it.
        probabilities: (K,).
        is_doubtful: unlike the training images of its class; None where that is not measured.
    """

    pixels: Tensor
    box: Box | None
    probabilities: Tensor
    is_doubtful: bool | None

    @property
    def label(self) -> int:
        """The class that is read."""
        return int(self.probabilities.argmax())


def predict(
    directory: str, files: Sequence[str], checkpoint: str = "last", show: str | None = None
) -> int:
    """Print the class and the probabilities of each digit on each picture.

    Args:
        show: a PNG file to draw what the network saw.

    Returns:
        The exit status: 1 where a picture could not be read.

    Raises:
        UserError: there is no such run, or the PNG file cannot be written.
    """
    if show and Path(show).suffix.lower() != ".png":
        raise UserError(f"--show {show}: must end in .png")
    _, data, model = restore(directory, checkpoint)
    likeness = _likeness(data)
    width = max(map(len, files))
    names = data.dataset.class_names
    all_readings: dict[str, list[Reading]] = {}
    errors = []
    for file in files:
        try:
            readings = read_picture(data, model, likeness, file)
        except UserError as error:
            errors.append(f"error: {error}")
            continue
        if not all_readings:
            columns = "  ".join(f" p({name})" for name in names)
            print(f"{'file':{width}}  class  {columns}  left,top,right,bottom")
        for reading in readings:
            print(f"{file:{width}}  {_row(reading, names)}")
        all_readings[file] = readings
    for error in errors:
        print(error, file=sys.stderr)
    if show and all_readings:
        draw_readings(Path(show), all_readings, names)
        print(show)
    return 1 if errors else 0


def read_picture(
    data: DataModule, model: torch.nn.Module, likeness: Likeness | None, file: str
) -> list[Reading]:
    """Read the digits of a picture, or the whole picture where the data set has no digits.

    Raises:
        UserError: names the file that cannot be read.
    """
    places = data.read_places(file)
    images = torch.stack([pixels for pixels, _ in places])
    with torch.inference_mode():
        probabilities = model(data.prepare(images)).softmax(1)
    doubts: list[bool | None] = [None] * len(places)
    if likeness:
        found = likeness.measure(images, probabilities.argmax(1))
        doubts = (found < likeness.doubtful_below).tolist()
    return [
        Reading(pixels, box, shares, doubt)
        for (pixels, box), shares, doubt in zip(places, probabilities, doubts, strict=True)
    ]


def _likeness(data: DataModule) -> Likeness | None:
    """What tells digits from other drawings; None for photographs, which it cannot judge."""
    if not data.dataset.is_ink_on_paper:
        return None
    data.setup("fit")
    return Likeness(*data.splits["train"])


def _row(reading: Reading, names: Sequence[str]) -> str:
    shares = "  ".join(f"{share:.3f}" for share in reading.probabilities)
    place = ",".join(map(str, reading.box)) if reading.box else "all"
    row = f"{names[reading.label]:>5}  {shares}  {place}"
    if reading.is_doubtful:
        row += f"  doubtful: unlike the training images of {names[reading.label]}"
    return row
