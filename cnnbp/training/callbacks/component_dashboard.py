"""What TensorBoard shows of the network while it trains: numbers, histograms and pictures of each component."""

import io

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from cnnbp.figures.evaluation_images import confusion_matrix, mistake_sheet
from cnnbp.figures.network_images import feature_maps, filters, to_gray

FIXED_IMAGES = 100  # the first of the split that is evaluated after each epoch
EMBEDDED_IMAGES = 1000
LAYOUT = {
    "training beside evaluation": {
        name: ["Multiline", [f"^{name}/"]] for name in ("loss", "accuracy")
    },
    "components": {
        name: ["Multiline", [f"^{name}/"]] for name in ("gradient", "update_ratio", "dead")
    },
}


class Dashboard(Callback):
    """Shows each component at the end of an epoch; it only reads, so that a run is the same without it.

    By component (conv1.0 to conv5): `gradient`, the norm over all its parameters in the epoch's last step;
    `update_ratio`, how far that step moved the convolution's weights, as a share of their norm; `dead`, the share
    of channels whose activation is nowhere above 0 on the fixed images; `batch_norm_mean` and `batch_norm_std`,
    the running statistics, averaged over the channels. With several processes, curves and mistakes are those of
    the first one's share of the images.

    Args:
        every_n_epochs: how often.
        embedding: also give the last features of up to 1,000 images to the projector, after training.
    """

    def __init__(self, every_n_epochs: int = 1, embedding: bool = False):
        self.every_n_epochs, self.embedding = every_n_epochs, embedding
        self.boards: list[SummaryWriter] = []

    def on_train_start(self, trainer, module):
        for board in _boards(trainer):
            board.add_custom_scalars(LAYOUT)
        self.on_train_epoch_start(
            trainer, module
        )  # Lightning leaves it out where a run continues mid-epoch

    def on_train_epoch_start(self, trainer, module):
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        self.boards = _boards(trainer) if due else []
        self.before, self.gradients, self.evaluated = {}, {}, []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if self.boards and trainer.is_last_batch:
            parameters = dict(module.network.named_parameters())
            # copies: the step changes the weights in place, and clipping the gradients
            self.before = {
                name: parameter.detach().clone() for name, parameter in parameters.items()
            }
            self.gradients = {
                name: p.grad.clone() for name, p in parameters.items() if p.grad is not None
            }

    def on_validation_epoch_start(self, trainer, module):
        self.evaluated = []

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        if self.boards:
            images, labels = batch
            self.evaluated.append((outputs, labels, images[outputs.argmax(1) != labels]))

    def on_train_epoch_end(self, trainer, module):
        if not self.before:  # not due, or stopped before the epoch's last step
            return
        network, weights = module.network, convolution_weights(module.network)
        images, labels = _evaluated_images(trainer.datamodule, FIXED_IMAGES)
        maps = activations(network, images)
        scalars = step_scalars(network, self.before, self.gradients) | state_scalars(network, maps)
        first = np.unique(labels.cpu(), return_index=True)[1]  # one image of each class
        pictures = {
            f"features/{name}": feature_maps(images[first].cpu(), x[first])
            for name, x in maps.items()
        }
        pictures[f"features/{next(iter(weights))}_filters"] = filters(next(iter(weights.values())))
        curves = {}
        if self.evaluated:
            logits, labels, wrong = (
                torch.cat(parts).cpu() for parts in zip(*self.evaluated, strict=True)
            )
            pictures["evaluation/confusion_matrix"] = confusion_matrix(logits, labels)
            pictures["evaluation/worst_mistakes"] = mistake_sheet(logits, labels, wrong)
            probabilities = logits.softmax(1).nan_to_num()
            curves = {
                f"precision_recall/{c}": (labels == c, probabilities[:, c]) for c in range(10)
            }
        histograms = {f"weight/{name}": weight for name, weight in weights.items()}
        histograms |= {
            f"weight_gradient/{k}": w
            for k, w in convolution_weights(network, self.gradients).items()
        }
        for board in self.boards:
            _write(board, trainer.global_step, scalars, histograms, pictures, curves)

    def on_train_end(self, trainer, module):
        if self.embedding:
            images, labels = _evaluated_images(trainer.datamodule, EMBEDDED_IMAGES)
            *_, features, _ = activations(
                module.network, images
            ).values()  # of the block before the classes
            for board in _boards(trainer):
                board.add_embedding(
                    features.mean((2, 3)),
                    labels.tolist(),
                    to_gray(images),
                    trainer.global_step,
                    tag="features",
                )


def convolution_weights(
    network: nn.Module, values: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The weight of each component's convolution, or what `values` holds under the weight's name."""
    values = dict(network.named_parameters()) if values is None else values
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    kept = [name for name in names if f"{name}.weight" in values]
    return {name.removesuffix(".conv"): values[f"{name}.weight"].detach() for name in kept}


def step_scalars(
    network: nn.Module, before: dict[str, Tensor], gradients: dict[str, Tensor]
) -> dict[str, Tensor]:
    """How strongly a step pulled at each component and how far it moved it.

    Args:
        before: the parameters in front of the step, by name.
        gradients: those of the step, by name of the parameter.
    """
    scalars = {}
    old = convolution_weights(network, before)
    for name, new in convolution_weights(network).items():
        own = [gradient for key, gradient in gradients.items() if key.startswith(f"{name}.")]
        scalars[f"gradient/{name}"] = nn.utils.get_total_norm(own)
        scalars[f"update_ratio/{name}"] = (new - old[name]).norm() / old[name].norm()
    return scalars


def state_scalars(network: nn.Module, maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """The share of dead channels in activations (N, C, H, W) by component, and the state of each BatchNorm."""
    scalars = {}
    for name, x in maps.items():
        component = network.get_submodule(name)
        if hasattr(component, "activation"):
            scalars[f"dead/{name}"] = (x.amax((0, 2, 3)) <= 0).float().mean()
        if isinstance(norm := getattr(component, "norm", None), nn.BatchNorm2d):
            scalars[f"batch_norm_mean/{name}"] = norm.running_mean.mean()
            scalars[f"batch_norm_std/{name}"] = norm.running_var.sqrt().mean()
    return scalars


def activations(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Run normalised images (N, 1, 28, 28) in evaluation mode and leave every module in the mode it was in.

    Returns:
        On the CPU, by component: the output (N, C, H, W) of its activation, or its own where it has none.
    """
    maps, hooks = {}, []
    modes = {module: module.training for module in network.modules()}
    for name in convolution_weights(network):
        component = network.get_submodule(name)
        hook = getattr(component, "activation", component).register_forward_hook(
            lambda module, inputs, output, name=name: maps.update({name: output.cpu()})
        )
        hooks.append(hook)
    try:
        with torch.no_grad():
            network.eval()(images)
    finally:
        for module, mode in modes.items():
            module.training = mode
        for hook in hooks:
            hook.remove()
    return maps


def _evaluated_images(data, count: int) -> tuple[Tensor, Tensor]:
    images, labels = (tensor[:count] for tensor in data.splits[data.epoch_stage])
    return data.prepare(images), labels


def _boards(trainer) -> list[SummaryWriter]:
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]


def _write(board: SummaryWriter, step: int, scalars, histograms, pictures, curves) -> None:
    for name, value in scalars.items():
        board.add_scalar(name, value, step)
    for name, values in histograms.items():
        finite = values[values.isfinite()]
        if len(finite):  # else training has diverged, which is not ours to report
            board.add_histogram(name, finite, step)
    for name, picture in pictures.items():
        board.file_writer.add_summary(_image_summary(name, picture), step)
    for name, (labels, probabilities) in curves.items():
        board.add_pr_curve(name, labels, probabilities, step)


def _image_summary(name: str, picture: Image.Image) -> Summary:
    """As add_image does it, but gray stays gray and is packed loosely: a quarter of the time."""
    png = io.BytesIO()
    picture.save(png, "PNG", compress_level=1)
    size = {"width": picture.width, "height": picture.height, "colorspace": len(picture.getbands())}
    return Summary(
        value=[
            Summary.Value(
                tag=name, image=Summary.Image(**size, encoded_image_string=png.getvalue())
            )
        ]
    )
