"""What a network mistakes: confusion matrix and worst mistakes, for TensorBoard, files and pages.

Drawn with PIL, because training draws them after each epoch and matplotlib would take longer than
the evaluation.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_confusion_matrix

from cnnbp.figures.network_images import to_gray

# width that TensorBoard shows as it is, so that letters stay sharp
CARD_PIXELS = 350
MISTAKES_SHOWN = 20
MISTAKES_A_ROW = 5
GREEN = (225, 240, 225)


def confusion_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """Count how often each class (row) was predicted as which (column).

    Args:
        logits: (N, K).
        labels: (N,), whole numbers.

    Returns:
        (K, K), whole numbers.
    """
    return multiclass_confusion_matrix(logits, labels, num_classes=logits.shape[1])


def confusion_matrix(
    logits: Tensor, labels: Tensor, class_names: Sequence[str] | None = None, scale: int = 1
) -> Image.Image:
    """Draw `confusion_counts`: correct ones green, mistakes redder the more often they occur.

    Args:
        class_names: by label; by default the labels themselves.
        scale: factor of the size, 350 x 350 pixels.
    """
    counts = confusion_counts(logits, labels).tolist()
    names = class_names or _labels_as_names(logits)
    grid = _place_grid(names, scale)
    # without the diagonal, which would drown the mistakes
    most = 1
    for label, row in enumerate(counts):
        most = max(most, *row[:label], *row[label + 1 :])
    side = CARD_PIXELS * scale
    picture = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(picture)
    _write_heads(picture, pen, names, grid)
    for label, row in enumerate(counts):
        for predicted, count in enumerate(row):
            paleness = 255 - round(160 * min(count / most, 1))
            colour = GREEN if label == predicted else (255, paleness, paleness)
            left = grid.heads + predicted * grid.cell
            top = grid.heads + label * grid.cell
            pen.rectangle((left, top, left + grid.cell - 2, top + grid.cell - 2), colour)
            if count and grid.font.getlength(str(count)) < grid.cell:
                middle = (left + grid.cell / 2, top + grid.cell / 2)
                pen.text(middle, str(count), "black", grid.font, anchor="mm")
    return picture


class Grid(NamedTuple):
    """Sizes of a confusion matrix, in pixels: the heads of its rows and columns, and a cell."""

    heads: int
    cell: int
    font: Any


def _place_grid(class_names: Sequence[str], scale: int) -> Grid:
    side, classes = CARD_PIXELS * scale, len(class_names)
    cell = side // (classes + 1)
    font = ImageFont.load_default(max(6 * scale, min(11 * scale, cell // 2)))
    longest = max(map(font.getlength, class_names))
    if longest < cell:
        return Grid(cell, cell, font)
    # long names get room beside the rows, at most a third of the picture
    heads = min(round(longest) + 8 * scale, side // 3)
    return Grid(heads, (side - heads) // classes, font)


def _write_heads(
    picture: Image.Image, pen: ImageDraw.ImageDraw, class_names: Sequence[str], grid: Grid
) -> None:
    """Write the classes beside the rows and above the columns, long names there upright."""
    corner = (grid.heads / 2, grid.heads / 2)
    pen.text(corner, "true \\\npred.", "black", grid.font, anchor="mm", align="center")
    for label, name in enumerate(class_names):
        text = _cut(name, grid.font, grid.heads - 2)
        start = grid.heads + label * grid.cell
        middle = start + grid.cell / 2
        pen.text((grid.heads / 2, middle), text, "black", grid.font, anchor="mm")
        if grid.heads == grid.cell:
            pen.text((middle, grid.heads / 2), text, "black", grid.font, anchor="mm")
        else:
            head = Image.new("RGB", (grid.heads, grid.cell), "white")
            place = (grid.heads / 2, grid.cell / 2)
            ImageDraw.Draw(head).text(place, text, "black", grid.font, anchor="mm")
            picture.paste(head.rotate(90, expand=True), (start, 0))


def _cut(text: str, font: Any, width: float) -> str:
    """A text as it is where it fits into so many pixels, else its beginning."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def _labels_as_names(logits: Tensor) -> list[str]:
    return [str(label) for label in range(logits.shape[1])]


def worst_mistakes(logits: Tensor, labels: Tensor, count: int = MISTAKES_SHOWN) -> list[int]:
    """Where logits (N, K) mistake labels (N,) with the largest loss, the worst first."""
    mistaken = (logits.argmax(1) != labels).nonzero().flatten()
    losses = F.cross_entropy(logits[mistaken], labels[mistaken], reduction="none")
    order = losses.argsort(descending=True, stable=True)
    return mistaken[order][:count].tolist()


def mistake_sheet(
    logits: Tensor,
    labels: Tensor,
    mistaken_images: Tensor,
    class_names: Sequence[str] | None = None,
    scale: int = 1,
) -> Image.Image:
    """Draw the 20 mistakes with the largest loss, each with its class, prediction and confidence.

    Args:
        mistaken_images: (M, C, H, W), those that logits (N, K) and labels (N,) disagree on, in
            their order.
        class_names: by label; by default the labels themselves.
        scale: factor of the size, 350 x 360 pixels.
    """
    names = class_names or _labels_as_names(logits)
    positions = (logits.argmax(1) != labels).nonzero().flatten().tolist()
    place_of = {index: place for place, index in enumerate(positions)}
    confidences, predictions = logits.softmax(1).max(1)
    width, height, side = CARD_PIXELS * scale // MISTAKES_A_ROW, 90 * scale, 56 * scale
    rows = MISTAKES_SHOWN // MISTAKES_A_ROW
    picture = Image.new("RGB", (CARD_PIXELS * scale, rows * height), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(9 * scale)
    for place, index in enumerate(worst_mistakes(logits, labels)):
        left, top = place % MISTAKES_A_ROW * width, place // MISTAKES_A_ROW * height
        true, predicted = names[int(labels[index])], names[int(predictions[index])]
        lines = [f"true {true}", f"pred. {predicted}, {confidences[index]:.0%}"]
        # then the name says more than the number
        if font.getlength(lines[1]) > width:
            lines[1] = f"pred. {predicted}"
        text = "\n".join(_cut(line, font, width) for line in lines)
        middle = (left + width / 2, top + 15 * scale)
        pen.text(middle, text, "black", font, anchor="mm", align="center")
        image = _as_picture(mistaken_images[place_of[index]])
        corner = (left + (width - side) // 2, top + 30 * scale)
        picture.paste(image.resize((side, side), Image.Resampling.NEAREST), corner)
    return picture


def _as_picture(image: Tensor) -> Image.Image:
    """An image (C, H, W) of any range: grey ones as ink on paper, colours as they are.

    Channels that are not red, green and blue are averaged.
    """
    values = to_gray(image.float())
    if len(values) not in (1, 3):
        values = values.mean(0, keepdim=True)
    if len(values) == 1:
        values = 1 - values.expand(3, -1, -1)
    pixels = values.mul(255).to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(pixels.cpu().numpy())
