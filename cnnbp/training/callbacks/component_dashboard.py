"""What TensorBoard shows of each component while a network trains."""

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from cnnbp.figures.evaluation_images import confusion_matrix, mistake_sheet
from cnnbp.figures.network_images import feature_maps, filters, to_gray
from cnnbp.training.component_values import (
    activations,
    component_weights,
    state_scalars,
    step_scalars,
)

# the first of the split that is evaluated after each epoch
FIXED_IMAGES = 100
EMBEDDED_IMAGES = 1000


def _multiline(names: tuple[str, ...]) -> dict[str, list[Any]]:
    return {name: ["Multiline", [f"^{name}/"]] for name in names}


LAYOUT = {
    "training beside evaluation": _multiline(("loss", "accuracy")),
    "components": _multiline(("gradient", "update_ratio", "dead")),
}


class Dashboard(Callback):
    """Shows each component at the end of an epoch; a run without it is the same.

    By component (conv1.0 to conv5): `gradient`, the norm over all its parameters in the epoch's
    last step, after clipping; `update_ratio`, how far that step moved the convolution's weights, as
    a share of their norm; `dead`, the share of channels whose activation is nowhere above 0 on the
    fixed images; `batch_norm_mean` and `batch_norm_std`, the running statistics, averaged over the
    channels. With several processes, curves and mistakes are those of the first one's share of the
    images.

    Args:
        every_n_epochs: how often.
        pictures: "each", or "last" for pictures, histograms and precision-recall curves of the last
            such epoch alone: TensorBoard opens hundreds of runs only when these are small.
        embedding: also give the last features of up to 1,000 images to the projector, after
            training.
    """

    def __init__(self, every_n_epochs: int = 1, pictures: str = "each", embedding: bool = False):
        self.every_n_epochs, self.pictures, self.embedding = every_n_epochs, pictures, embedding
        self.boards: list[SummaryWriter] = []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.global_step == 0:
            for board in _boards(trainer):
                board.add_custom_scalars(LAYOUT)
        # Lightning leaves this hook out where a run continues in the middle of an epoch
        self.on_train_epoch_start(trainer, module)

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        is_due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        self.boards = _boards(trainer) if is_due else []
        self.before: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self.evaluated: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.boards and batch_idx + 1 == trainer.num_training_batches:
            # copies, because the step changes the weights in place
            for name, parameter in module.network.named_parameters():
                self.before[name] = parameter.detach().clone()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.before:
            # copies, because the evaluation that follows clears the gradients
            for name, parameter in module.network.named_parameters():
                if parameter.grad is not None:
                    self.gradients[name] = parameter.grad.clone()

    def on_validation_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.evaluated = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.boards:
            images, labels = batch
            self.evaluated.append((outputs, labels, images))

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        # not due, or stopped before the epoch's last step
        if not self.before:
            return
        network = module.get_submodule("network")
        images, labels = _evaluated_images(trainer.datamodule, FIXED_IMAGES)
        maps = activations(network, images)
        scalars = step_scalars(network, self.before, self.gradients) | state_scalars(network, maps)
        for board in self.boards:
            for name, value in scalars.items():
                board.add_scalar(name, value, trainer.global_step)
        is_last = trainer.current_epoch + 1 + self.every_n_epochs > trainer.max_epochs
        if self.pictures == "each" or is_last:
            self._add_pictures(trainer, network, maps, images, labels)

    def _add_pictures(
        self,
        trainer: Trainer,
        network: nn.Module,
        maps: dict[str, Tensor],
        images: Tensor,
        labels: Tensor,
    ) -> None:
        """Write feature maps, filters, histograms, and what the evaluation shows.

        Args:
            maps: what the layers give for the images.
            images, labels: the fixed ones.
        """
        weights = component_weights(network)
        # one image of each class
        first = np.unique(labels.cpu(), return_index=True)[1]
        pictures = {}
        for name, activation in maps.items():
            pictures[f"features/{name}"] = feature_maps(images[first].cpu(), activation[first])
        # the others do not read the image
        for name in list(weights)[:1]:
            kernels = _as_filters(weights[name], images)
            if kernels is not None:
                pictures[f"features/{name}_filters"] = filters(kernels)
        histograms = {f"weight/{name}": weight for name, weight in weights.items()}
        for name, gradient in component_weights(network, self.gradients).items():
            histograms[f"weight_gradient/{name}"] = gradient
        curves = {}
        if self.evaluated:
            curves = self._add_evaluation(trainer, pictures)
        for board in self.boards:
            _write(board, trainer.global_step, histograms, pictures, curves)

    def _add_evaluation(
        self, trainer: Trainer, pictures: dict[str, Image.Image]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Add the pictures of the evaluated images; return the precision-recall curves."""
        logits = torch.cat([part[0] for part in self.evaluated]).cpu()
        labels = torch.cat([part[1] for part in self.evaluated]).cpu()
        images = torch.cat([part[2] for part in self.evaluated]).cpu()
        mistaken = trainer.datamodule.as_pixels(images[logits.argmax(1) != labels])
        names = trainer.datamodule.dataset.class_names
        pictures["evaluation/confusion_matrix"] = confusion_matrix(logits, labels, names)
        pictures["evaluation/worst_mistakes"] = mistake_sheet(logits, labels, mistaken, names)
        probabilities = logits.softmax(1).nan_to_num()
        curves = {}
        for label, name in enumerate(names):
            curves[f"precision_recall/{name}"] = (labels == label, probabilities[:, label])
        return curves

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not self.embedding:
            return
        images, labels = _evaluated_images(trainer.datamodule, EMBEDDED_IMAGES)
        maps = list(activations(module.get_submodule("network"), images).values())
        if len(maps) < 2:
            return
        # of the block before the classes
        features = maps[-2].mean((2, 3))
        names = trainer.datamodule.dataset.class_names
        if images.shape[1] not in (1, 3):
            images = images.mean(1, keepdim=True)
        for board in _boards(trainer):
            board.add_embedding(
                features,
                [names[label] for label in labels],
                to_gray(images),
                trainer.global_step,
                tag="features",
            )


def _as_filters(weight: Tensor, images: Tensor) -> Tensor | None:
    """The weight of the first component as (C, _, k, k); None where it reads no images."""
    if weight.ndim == 2 and weight.shape[1] == images[0].numel():
        # a linear layer that reads every pixel
        return weight.view(-1, *images.shape[1:])
    return weight if weight.ndim == 4 else None


def _evaluated_images(data: Any, count: int) -> tuple[Tensor, Tensor]:
    images, labels = data.splits[data.epoch_stage]
    return data.prepare(images[:count]), labels[:count]


def _boards(trainer: Trainer) -> list[SummaryWriter]:
    if not trainer.is_global_zero:
        return []
    loggers = trainer.loggers
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]


def _write(
    board: SummaryWriter,
    step: int,
    histograms: dict[str, Tensor],
    pictures: dict[str, Image.Image],
    curves: dict[str, tuple[Tensor, Tensor]],
) -> None:
    for name, values in histograms.items():
        finite = values[values.isfinite()]
        # else training has diverged, which another callback reports
        if len(finite):
            board.add_histogram(name, finite, step)
    for name, picture in pictures.items():
        board.file_writer.add_summary(_image_summary(name, picture), step)
    for name, (labels, probabilities) in curves.items():
        board.add_pr_curve(name, labels, probabilities, step)


def _image_summary(name: str, picture: Image.Image) -> Summary:
    """As add_image, but gray stays gray and is packed loosely: a quarter of the time."""
    png = io.BytesIO()
    picture.save(png, "PNG", compress_level=1)
    image = Summary.Image(
        width=picture.width,
        height=picture.height,
        colorspace=len(picture.getbands()),
        encoded_image_string=png.getvalue(),
    )
    return Summary(value=[Summary.Value(tag=name, image=image)])
