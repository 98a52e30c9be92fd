"""The table of layers, measured on a real forward pass, in the format of torchsummary."""

from dataclasses import dataclass

import torch
from torch import nn

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Layer:
    """One layer as it was seen at work.

    Attributes:
        shape: of the output, without the batch dimension.
        macs: multiply-accumulates for one image; normalisation, activation and dropout count none.
        receptive_field, jump: side of the input window that one output sees, and the distance in input pixels
            between the windows of neighbouring outputs (Dumoulin and Visin, 2016; Araujo et al., 2019).
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
    """Run `image` (1, 1, 28, 28) through the network and describe each leaf module in the order of execution."""
    layers: list[Layer] = []

    def record(name):
        def hook(module, inputs, output):
            field, jump = (layers[-1].receptive_field, layers[-1].jump) if layers else (1, 1)
            if hasattr(module, "kernel_size"):
                field += (_side(module.kernel_size) - 1) * jump
                jump *= _side(module.stride)
            sizes = [(p.numel(), p.numel() * p.requires_grad) for p in module.parameters()]
            parameters, trainable = (sum(column) for column in zip((0, 0), *sizes, strict=True))
            macs = output[0].numel() * _taps(module)
            kind = type(module).__name__
            layers.append(
                Layer(name, kind, tuple(output.shape[1:]), parameters, trainable, macs, field, jump)
            )

        return hook

    leaves = [
        (name, module) for name, module in network.named_modules() if not list(module.children())
    ]
    hooks = [module.register_forward_hook(record(name)) for name, module in leaves]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(image)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return layers


def _side(size: int | tuple[int, int]) -> int:
    return size if isinstance(size, int) else size[0]


def _taps(module: nn.Module) -> int:
    """Multiply-accumulates for one output value."""
    if isinstance(module, nn.Conv2d):
        return module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
    if isinstance(module, nn.Linear):
        return module.in_features
    return 0


def table(layers: list[Layer], wide: bool = False) -> str:
    """Lay the layers out as torchsummary does; `wide` adds receptive field, jump and multiply-accumulates."""
    heads, width = ("Layer (type)", "Output Shape", "Param #"), 64
    if wide:
        heads, width = (*heads, "Field", "Jump", "MACs"), 98

    def line(name, shape, parameters, *rest):
        return f"{name:>20}  {shape:>25} {parameters:>15}" + "".join(
            f" {x:>{w}}" for x, w in zip(rest, (8, 8, 15), strict=False)
        )

    rows = [
        line(
            f"{layer.kind}-{number}",
            str([-1, *layer.shape]),
            f"{layer.parameters:,}",
            *((layer.receptive_field, layer.jump, f"{layer.macs:,}") if wide else ()),
        )
        for number, layer in enumerate(layers, 1)
    ]
    total, trainable = (
        sum(layer.parameters for layer in layers),
        sum(layer.trainable for layer in layers),
    )
    # torchsummary counts each output twice, once for its gradient, at four bytes a value
    size = 28 * 28 * 4 / MEBIBYTE
    activations = 2 * sum(torch.Size(layer.shape).numel() for layer in layers) * 4 / MEBIBYTE
    weights = total * 4 / MEBIBYTE
    return "\n".join(
        [
            "-" * width,
            line(*heads),
            "=" * width,
            *rows,
            "=" * width,
            f"Total params: {total:,}",
            f"Trainable params: {trainable:,}",
            f"Non-trainable params: {total - trainable:,}",
            *(
                [f"Total multiply-accumulates: {sum(layer.macs for layer in layers):,}"]
                if wide
                else []
            ),
            "-" * width,
            f"Input size (MB): {size:.2f}",
            f"Forward/backward pass size (MB): {activations:.2f}",
            f"Params size (MB): {weights:.2f}",
            f"Estimated Total Size (MB): {size + activations + weights:.2f}",
            "-" * width,
        ]
    )
