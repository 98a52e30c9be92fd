"""What a network mistakes: confusion matrix and worst mistakes, for TensorBoard, files and pages.

Drawn with PIL, because training draws them after each epoch and matplotlib would take longer than
the evaluation.
"""

from collections.abc import Sequence

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
    counts = confusion_counts(logits, labels)
    classes = len(counts)
    names = class_names or [str(label) for label in range(classes)]
    # without the diagonal, which would drown the mistakes
    most = max(1, counts.clone().fill_diagonal_(0).max().item())
    side = CARD_PIXELS * scale
    cell = side // (classes + 1)
    picture = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(picture)
    font_size = max(6, min(11, cell // 3)) * scale
    font = ImageFont.load_default(font_size)

    def write(row: int, column: int, text: str) -> None:
        middle = ((column + 0.5) * cell, (row + 0.5) * cell)
        pen.text(middle, text, "black", font, anchor="mm", align="center")

    write(0, 0, "true \\\npred.")
    # characters that fit into a cell
    longest = max(2, 3 * cell // (2 * font_size))
    for label, name in enumerate(names):
        write(label + 1, 0, name[:longest])
        write(0, label + 1, name[:longest])
    for label, row in enumerate(counts.tolist()):
        for predicted, count in enumerate(row):
            paleness = 255 - round(160 * min(count / most, 1))
            colour = GREEN if label == predicted else (255, paleness, paleness)
            left, top = (predicted + 1) * cell, (label + 1) * cell
            pen.rectangle((left, top, left + cell - 2, top + cell - 2), colour)
            write(label + 1, predicted + 1, str(count or ""))
    return picture


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
    names = class_names or [str(label) for label in range(logits.shape[1])]
    positions = (logits.argmax(1) != labels).nonzero().flatten().tolist()
    place_of = {index: place for place, index in enumerate(positions)}
    confidences, predictions = logits.softmax(1).max(1)
    width, height, side = CARD_PIXELS * scale // MISTAKES_A_ROW, 90 * scale, 56 * scale
    rows = MISTAKES_SHOWN // MISTAKES_A_ROW
    picture = Image.new("RGB", (CARD_PIXELS * scale, rows * height), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(10 * scale)
    for place, index in enumerate(worst_mistakes(logits, labels)):
        left, top = place % MISTAKES_A_ROW * width, place // MISTAKES_A_ROW * height
        prediction = names[int(predictions[index])]
        text = f"{names[int(labels[index])]}, read as {prediction}\n{confidences[index]:.0%}"
        middle = (left + width / 2, top + 15 * scale)
        pen.text(middle, text, "black", font, anchor="mm", align="center")
        image = _as_picture(mistaken_images[place_of[index]])
        corner = (left + (width - side) // 2, top + 30 * scale)
        picture.paste(image.resize((side, side), Image.Resampling.NEAREST), corner)
    return picture


def _as_picture(image: Tensor) -> Image.Image:
    """An image (C, H, W) of any range: grey ones as ink on paper, colours as they are."""
    values = to_gray(image.float())
    if len(values) == 1:
        values = 1 - values.expand(3, -1, -1)
    pixels = values.mul(255).to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(pixels.cpu().numpy())
