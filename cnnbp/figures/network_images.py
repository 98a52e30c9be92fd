"""What a trained network sees and mistakes, drawn from tensors for TensorBoard's cards."""

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_confusion_matrix

CARD = 350  # pixels across that TensorBoard shows as they are, so that letters stay sharp


def filters(weight: Tensor) -> Image.Image:
    """Draw the first input channel of filters (C, _, k, k), eight a row: red above 0, blue below, white at 0."""
    w = weight[:, :1].cpu().nan_to_num()
    w = w / w.abs().max().clamp(min=1e-12)
    return _tiles(torch.cat([1 - F.relu(-w), 1 - w.abs(), 1 - F.relu(w)], 1), columns=8, zoom=8)


def feature_maps(images: Tensor, maps: Tensor) -> Image.Image:
    """Draw a column for each image (N, 1, 28, 28): itself above its maps (N, C, H, W), a row a channel, black at 0."""
    maps = maps.nan_to_num().clamp(min=0)
    maps = maps / maps.amax((0, 2, 3), keepdim=True).clamp(min=1e-12)
    zoom = images.shape[-1] // maps.shape[-1]
    maps = maps.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    border = images.shape[-1] - maps.shape[-1]
    maps = F.pad(maps, (border // 2, border - border // 2) * 2)
    rows = torch.cat([gray(images), maps], 1).transpose(0, 1)
    return _tiles(rows.flatten(0, 1).unsqueeze(1), columns=len(images))


def confusion_matrix(logits: Tensor, labels: Tensor) -> Image.Image:
    """Draw the counts behind logits (N, 10): a row for each true class, redder the more often it was mistaken."""
    counts = multiclass_confusion_matrix(logits, labels, num_classes=10)
    most = max(1, counts.clone().fill_diagonal_(0).max().item())
    cell = CARD // 11
    picture = Image.new("RGB", (CARD, CARD), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(11)

    def text(row, column, words):
        pen.text(
            ((column + 0.5) * cell, (row + 0.5) * cell),
            words,
            "black",
            font,
            anchor="mm",
            align="center",
        )

    text(0, 0, "true \\\ntaken")
    for i in range(10):
        text(i + 1, 0, str(i))
        text(0, i + 1, str(i))
        for j, count in enumerate(counts[i].tolist()):
            x, y, pale = (j + 1) * cell, (i + 1) * cell, 255 - round(160 * min(count / most, 1))
            colour = (225, 240, 225) if i == j else (255, pale, pale)
            pen.rectangle((x, y, x + cell - 2, y + cell - 2), colour)
            text(i + 1, j + 1, str(count or ""))
    return picture


def worst(logits: Tensor, labels: Tensor, count: int) -> list[int]:
    """Where logits (N, 10) mistake labels (N,) with the largest loss, the worst first."""
    wrong = (logits.argmax(1) != labels).nonzero().flatten()
    losses = F.cross_entropy(logits[wrong], labels[wrong], reduction="none")
    return wrong[losses.argsort(descending=True, stable=True)][:count].tolist()


def worst_mistakes(logits: Tensor, labels: Tensor, wrong: Tensor) -> Image.Image:
    """Draw the 20 mistakes with the largest loss, each with its true class, the one it was taken for, and how surely.

    Args:
        wrong: the images (M, 1, 28, 28) that logits (N, 10) and labels (N,) disagree on, in their order.
    """
    place_of = {
        index: place
        for place, index in enumerate((logits.argmax(1) != labels).nonzero().flatten().tolist())
    }
    sure, taken = logits.softmax(1).max(1)
    width, height, side = CARD // 5, 90, 56
    picture = Image.new("RGB", (CARD, 4 * height), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(10)
    for place, i in enumerate(worst(logits, labels, 20)):
        x, y = place % 5 * width, place // 5 * height
        words = f"{labels[i]} taken for {taken[i]}\n{sure[i]:.0%} sure"
        pen.text((x + width / 2, y + 15), words, "black", font, anchor="mm", align="center")
        digit = Image.fromarray((1 - gray(wrong[place_of[i], 0])).mul(255).byte().numpy())
        picture.paste(
            digit.resize((side, side), Image.Resampling.NEAREST), (x + (width - side) // 2, y + 30)
        )
    return picture


def gray(images: Tensor) -> Tensor:
    """Stretch images of any range to [0, 1]."""
    low, high = images.amin(), images.amax()
    return (images - low) / (high - low).clamp(min=1e-12)


def _tiles(images: Tensor, columns: int, zoom: int = 1) -> Image.Image:
    """Lay images (N, C, H, W) in [0, 1], of one channel or three, out row by row."""
    images = images.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    images = F.pad(images, (2, 0, 2, 0, 0, 0, 0, -len(images) % columns), value=0.5)
    picture = images.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    return Image.fromarray(picture.mul(255).byte().squeeze(-1).numpy())
