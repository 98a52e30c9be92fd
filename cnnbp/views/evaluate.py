"""A trained run on the test set: the run's own numbers, class by class, and its worst mistakes."""

from itertools import product
from pathlib import Path

import torch
from omegaconf import DictConfig
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_confusion_matrix
from tqdm import tqdm

from cnnbp.figures.figure_file import figure
from cnnbp.figures.network_images import worst
from cnnbp.training.build import resolve_precision
from cnnbp.training.callbacks.progress_bar import result_line
from cnnbp.training.restore import restore

SHIFTS = tuple(product((0, -1, 1), repeat=2))  # down and right, in pixels


class _Logits(Callback):
    def __init__(self):
        self.batches = []

    def on_test_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        self.batches.append(outputs.cpu())


def evaluate(
    directory: str, checkpoint: str = "last", plot: str | None = None, tta: bool = False
) -> None:
    """Print loss, accuracy and the accuracy of each class; with `plot` draw the confusion matrix and mistakes.

    With `tta` the loss and accuracy under test-time augmentation come last, apart from the run's own.
    """
    config, data, model = restore(directory, checkpoint)
    loss, accuracy, logits = on_test_set(config, data, model)
    images, labels = (tensor.cpu() for tensor in data.splits["test"])
    print(result_line("test", loss, accuracy, len(labels)))
    confusion = multiclass_confusion_matrix(logits, labels, num_classes=10)
    print(class_table(confusion))
    if plot:
        draw(images, labels, logits, confusion, Path(plot))
        print(plot)
    if tta:
        probabilities = over_shifts(config, data, model)
        loss = F.nll_loss(probabilities.log(), labels).item()
        correct = int((probabilities.argmax(1) == labels).sum())
        print(
            f"Mean of {len(SHIFTS)} shifts by at most one pixel: Average loss: {loss:.4f}, "
            f"Accuracy: {correct}/{len(labels)} ({correct / len(labels):.2%})"
        )


def on_test_set(
    config: DictConfig, data: LightningDataModule, model: LightningModule
) -> tuple[float, float, Tensor]:
    """Run the whole test set through a model in the precision of its run; return loss, accuracy and logits (N, 10)."""
    collected = _Logits()
    trainer = Trainer(
        accelerator="cpu"
        if config.trainer.accelerator == "cpu"
        else "auto",  # this machine may not be the run's
        devices=1,
        precision=resolve_precision(config.trainer),
        callbacks=[collected],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.test(model, data, verbose=False)
    loss, accuracy = (
        trainer.callback_metrics[f"{name}/test"].item() for name in ("loss", "accuracy")
    )
    return loss, accuracy, torch.cat(collected.batches)


def over_shifts(config: DictConfig, data: LightningDataModule, model: LightningModule) -> Tensor:
    """Average the probabilities (N, 10) over each test image and its shifts by one pixel, with zeros moved in."""
    images, labels = data.splits["test"]
    side, padded, total = images.shape[-1], F.pad(images, (1, 1, 1, 1)), 0
    for down, right in tqdm(SHIFTS, desc="shifts", leave=False, disable=None):
        data.splits["test"] = (
            padded[:, 1 - down : 1 - down + side, 1 - right : 1 - right + side],
            labels,
        )
        total += on_test_set(config, data, model)[2].softmax(1)
    data.splits["test"] = images, labels
    return total / len(SHIFTS)


def class_table(confusion: Tensor) -> str:
    """Say for each class of the confusion matrix (10, 10), rows true, how many were right and the main confusion."""
    lines = ["class  images  correct  accuracy  most often taken for"]
    for label, row in enumerate(confusion):
        total, correct = int(row.sum()), int(row[label])
        others = row.clone()
        others[label] = 0
        mistake = f"{int(others.argmax())} ({int(others.max())} times)" if others.any() else "-"
        accuracy = f"{correct / total:.2%}" if total else "-"
        lines.append(f"{label:>5}  {total:>6}  {correct:>7}  {accuracy:>8}  {mistake}")
    return "\n".join(lines)


def draw(images: Tensor, labels: Tensor, logits: Tensor, confusion: Tensor, path: Path) -> None:
    """Draw the confusion matrix beside the 20 images with the largest loss, each with its true and taken class."""
    probabilities = logits.softmax(1)
    mosaic = [
        ["matrix"] * 5 + [f"worst{row * 5 + column}" for column in range(5)] for row in range(4)
    ]
    with figure(path, width=15, height=7, mosaic=mosaic) as axes:
        matrix = axes.pop("matrix")
        shown = confusion.float().fill_diagonal_(
            float("nan")
        )  # the diagonal would drown the mistakes
        matrix.imshow(
            shown, cmap="Reds", vmax=2 * max(1.0, shown.nan_to_num().max().item())
        )  # pale enough for the counts
        for true, row in enumerate(confusion.tolist()):
            for taken, count in enumerate(row):
                matrix.text(taken, true, count or "", ha="center", va="center", fontsize=9)
        matrix.set(
            xticks=range(10),
            yticks=range(10),
            xlabel="taken for",
            ylabel="true class",
            title=f"{int(confusion.diagonal().sum())} of {len(labels)} right",
        )
        for place, index in zip(axes.values(), worst(logits, labels, 20), strict=False):
            taken = int(logits[index].argmax())
            place.imshow(images[index], cmap="gray_r")
            place.set_title(
                f"{labels[index]} taken for {taken}\n({probabilities[index, taken]:.0%} sure)",
                fontsize=9,
            )
        for place in axes.values():
            place.axis("off")
