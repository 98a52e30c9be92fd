"""A trained run on the test set: its own numbers, class by class, and its worst mistakes."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from cnnbp.data.datamodule import DataModule
from cnnbp.errors import UserError
from cnnbp.figures.evaluation_images import confusion_counts, confusion_matrix, mistake_sheet
from cnnbp.files import replacing
from cnnbp.training.callbacks.progress_bar import result_line
from cnnbp.training.classifier import Classifier
from cnnbp.training.restore import restore
from cnnbp.views.inference import Evaluation, compute_logits, evaluate_test_set

# down and right, in pixels
SHIFTS = tuple(product((0, -1, 1), repeat=2))
PLOT_SCALE = 2
# pixels
PLOT_MARGIN = 20


def evaluate(
    directory: str, checkpoint: str = "last", plot: str | None = None, tta: bool = False
) -> None:
    """Print loss, accuracy and the accuracy of each class.

    Args:
        checkpoint: "last" or "best".
        plot: file for the confusion matrix and the worst mistakes.
        tta: also print loss and accuracy under test-time augmentation, apart from the run's own.
    """
    config, data, model = restore(directory, checkpoint)
    result = evaluate_test_set(config, data, model)
    print(result_line("test", result.loss, result.accuracy, len(result.labels)))
    for name, value in result.others.items():
        print(f"{name}: {value:.4f}")
    names = data.dataset.class_names
    print(class_table(confusion_counts(result.logits, result.labels), names))
    if plot:
        write_plot(result, names, Path(plot))
        print(plot)
    if tta:
        probabilities = average_over_shifts(config, data, model, result.images)
        loss = F.nll_loss(probabilities.log(), result.labels).item()
        correct = int((probabilities.argmax(1) == result.labels).sum())
        accuracy = correct / len(result.labels)
        print(
            f"Mean of {len(SHIFTS)} shifts by at most one pixel: Average loss: {loss:.4f}, "
            f"Accuracy: {correct}/{len(result.labels)} ({accuracy:.2%})"
        )


def average_over_shifts(
    config: DictConfig, data: DataModule, model: Classifier, images: Tensor
) -> Tensor:
    """Average the probabilities (N, K) over images (N, C, H, W) and their shifts by one pixel.

    Zeros are moved in at the border.
    """
    height, width = images.shape[-2:]
    # zeros are the paper of a digit
    padded = F.pad(images, (1, 1, 1, 1))
    total = torch.zeros(())
    for down, right in tqdm(SHIFTS, desc="shifts", leave=False, disable=None):
        top, left = 1 - down, 1 - right
        shifted = padded[..., top : top + height, left : left + width]
        total = total + compute_logits(config, data, model, shifted).softmax(1)
    return total / len(SHIFTS)


def class_table(confusion: Tensor, class_names: Sequence[str]) -> str:
    """Lay out for each class how many images were right, and the most frequent mistake.

    Args:
        confusion: counts (K, K), true classes down, predictions across.
    """
    width = max(5, *map(len, class_names))
    lines = [f"{'class':>{width}}  images  correct  accuracy  most often mistaken for"]
    for label, row in enumerate(confusion):
        total, correct = int(row.sum()), int(row[label])
        others = row.clone()
        others[label] = 0
        mistake = "-"
        if others.any():
            mistake = f"{class_names[int(others.argmax())]} ({int(others.max())} times)"
        accuracy = f"{correct / total:.2%}" if total else "-"
        name = class_names[label]
        lines.append(f"{name:>{width}}  {total:>6}  {correct:>7}  {accuracy:>8}  {mistake}")
    return "\n".join(lines)


def write_plot(result: Evaluation, class_names: Sequence[str], path: Path) -> None:
    """Write the confusion matrix beside the 20 mistakes with the largest loss.

    Raises:
        UserError: the file cannot be written, or is of no kind that Pillow writes.
    """
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None:
        raise UserError(f"{path}: unknown kind of picture; name it FILE.png")
    mistaken = result.images[result.is_mistaken]
    matrix = confusion_matrix(result.logits, result.labels, class_names, PLOT_SCALE)
    sheet = mistake_sheet(result.logits, result.labels, mistaken, class_names, PLOT_SCALE)
    width = matrix.width + PLOT_MARGIN + sheet.width
    picture = Image.new("RGB", (width, max(matrix.height, sheet.height)), "white")
    picture.paste(matrix, (0, 0))
    picture.paste(sheet, (matrix.width + PLOT_MARGIN, 0))
    with replacing(path, "wb") as file:
        picture.save(file, kind)
