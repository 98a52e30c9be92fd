"""What a network reads on a picture, digit by digit, with a word of doubt."""

from typing import NamedTuple

import torch
from torch import Tensor

from cnnbp.data.datamodule import DataModule
from cnnbp.data.user_pictures import Box
from cnnbp.views.likeness import Likeness


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


def likeness_of(data: DataModule) -> Likeness | None:
    """What tells digits from other drawings; None for photographs, which it cannot judge."""
    if not data.dataset.is_ink_on_paper:
        return None
    data.setup("fit")
    return Likeness(*data.splits["train"])
