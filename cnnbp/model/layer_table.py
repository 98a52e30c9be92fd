"""The table of layers, measured on a real forward pass, in the format of torchsummary."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cnnbp.model.evaluation_mode import evaluation_mode

MEBIBYTE = 2**20
# of float32
VALUE_BYTES = 4

HEADS = ("Layer (type)", "Output Shape", "Param #")
# of the columns, each after a blank but the first
WIDTHS = (20, 26, 15)
WIDE_HEADS = (*HEADS, "Field", "Jump", "MACs")
WIDE_WIDTHS = (*WIDTHS, 8, 8, 15)
# of the rules above and below, as torchsummary draws them
RULE, WIDE_RULE = 64, 98


@dataclass(frozen=True)
class Layer:
    """One layer as it ran in a forward pass.

    Attributes:
        shape: of the output, without the batch dimension.
        macs: multiply-accumulates for one image; normalisation, activation and dropout count none.
        receptive_field, jump: side of the input window that one output depends on, and the distance
            between the windows of neighbouring outputs, in input pixels (Dumoulin and Visin, 2016;
            Araujo et al., 2019).
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    trainable: int
    macs: int
    receptive_field: int
    jump: int


def measure(network: nn.Module, image: torch.Tensor) -> list[Layer]:
    """Run `image` (1, C, H, W) through the network; describe its leaves in order of execution."""
    layers: list[Layer] = []

    def describe(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            layers.append(_describe(name, module, output, layers[-1] if layers else None))

        return hook

    hooks = []
    try:
        for name, module in network.named_modules():
            if not any(module.children()):
                hooks.append(module.register_forward_hook(describe(name)))
        with torch.no_grad(), evaluation_mode(network):
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return layers


def _describe(name: str, module: nn.Module, output: torch.Tensor, before: Layer | None) -> Layer:
    field, jump = (before.receptive_field, before.jump) if before else (1, 1)
    if hasattr(module, "kernel_size"):
        field += (_side(module.kernel_size) - 1) * jump
        jump *= _side(module.stride)
    parameters = trainable = 0
    for values in module.parameters():
        parameters += values.numel()
        if values.requires_grad:
            trainable += values.numel()
    return Layer(
        name=name,
        kind=type(module).__name__,
        shape=tuple(output.shape[1:]),
        parameters=parameters,
        trainable=trainable,
        macs=output[0].numel() * _taps(module),
        receptive_field=field,
        jump=jump,
    )


def _side(size: Any) -> int:
    """Return the height of a kernel or a stride, which may be one number or a pair."""
    return size if isinstance(size, int) else size[0]


def _taps(module: nn.Module) -> int:
    """Multiply-accumulates for one output value."""
    if isinstance(module, nn.Conv2d):
        return module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
    if isinstance(module, nn.Linear):
        return module.in_features
    return 0


def table(layers: list[Layer], wide: bool = False, image_shape: Sequence[int] = (1, 28, 28)) -> str:
    """Lay the layers out as torchsummary does.

    Args:
        wide: add receptive field, jump and MACs.
        image_shape: of the network's input (C, H, W).
    """
    rule = WIDE_RULE if wide else RULE
    lines = ["-" * rule, _line(WIDE_HEADS if wide else HEADS), "=" * rule]
    for number, layer in enumerate(layers, 1):
        cells = [f"{layer.kind}-{number}", str([-1, *layer.shape]), f"{layer.parameters:,}"]
        if wide:
            cells += [str(layer.receptive_field), str(layer.jump), f"{layer.macs:,}"]
        lines.append(_line(cells))
    total = sum(layer.parameters for layer in layers)
    trainable = sum(layer.trainable for layer in layers)
    lines += [
        "=" * rule,
        f"Total params: {total:,}",
        f"Trainable params: {trainable:,}",
        f"Non-trainable params: {total - trainable:,}",
    ]
    if wide:
        lines.append(f"Total multiply-accumulates: {sum(layer.macs for layer in layers):,}")
    lines += ["-" * rule, *_sizes(layers, total, image_shape), "-" * rule]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    shown = [f"{cell:>{width}}" for cell, width in zip(cells, WIDE_WIDTHS, strict=False)]
    return " ".join(shown)


def _sizes(layers: list[Layer], parameters: int, image_shape: Sequence[int]) -> list[str]:
    """Estimate the memory for one image as torchsummary does, in MiB though it says MB."""
    values = sum(torch.Size(layer.shape).numel() for layer in layers)
    image = math.prod(image_shape) * VALUE_BYTES / MEBIBYTE
    # each output counts twice, once for its gradient
    outputs = 2 * values * VALUE_BYTES / MEBIBYTE
    weights = parameters * VALUE_BYTES / MEBIBYTE
    return [
        f"Input size (MB): {image:.2f}",
        f"Forward/backward pass size (MB): {outputs:.2f}",
        f"Params size (MB): {weights:.2f}",
        f"Estimated Total Size (MB): {image + outputs + weights:.2f}",
    ]
