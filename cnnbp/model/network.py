"""The published network: 19,866 parameters, images (N, 1, 28, 28) to logits (N, 10)."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from cnnbp.config.options import NetworkOptions, check
from cnnbp.errors import UserError
from cnnbp.model import fused
from cnnbp.model.dropout import Dropout

# kernel size, stride and padding of the five blocks
BLOCKS = ((5, 1, 1), (3, 1, 1), (3, 2, 1), (3, 2, 1), (3, 1, 1))

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
# of group normalisation
GROUPS = 4


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels)


NORMS = {"batch": nn.BatchNorm2d, "group": _group_norm}


class Network(nn.Module):
    """Five blocks conv -> activation -> norm -> dropout, a 3x3 convolution to ten channels, a head.

    Args:
        widths: output channels of the five blocks.
        dropout: rates in [0, 1) after blocks 1 to 4; a rate of 0 leaves the layer out.
        activation: a key of `ACTIVATIONS`.
        norm: a key of `NORMS`, or "none".
        order: "activation_norm" (as published) or "norm_activation" (the usual order).
        head: "gap", global average pooling (as published), or "linear", a fully connected layer
            from the 5x5 maps, written as the equivalent 5x5 convolution: 2,510 parameters more.

    Raises:
        UserError: names the argument, its value and what is allowed.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 24, 16, 24, 16),
        dropout: Sequence[float] = (0.05, 0.1, 0.1, 0.1),
        activation: str = "relu",
        norm: str = "batch",
        order: str = "activation_norm",
        head: str = "gap",
    ):
        super().__init__()
        check(
            NetworkOptions,
            {
                "widths": widths,
                "dropout": dropout,
                "activation": activation,
                "norm": norm,
                "order": order,
                "head": head,
            },
        )
        if norm == "group" and any(width % GROUPS for width in widths):
            raise UserError(
                f"widths={widths}: must be multiples of {GROUPS} for group normalisation"
            )
        blocks = []
        inputs = 1
        for geometry, outputs, rate in zip(BLOCKS, widths, [*dropout, 0], strict=True):
            blocks.append(_block(inputs, outputs, geometry, rate, activation, norm, order))
            inputs = outputs
        self.conv1 = nn.Sequential(blocks[0], blocks[1])
        self.conv2, self.conv3, self.conv4 = blocks[2:]
        self.conv5 = nn.Conv2d(inputs, 10, kernel_size=3)
        if head == "gap":
            self.gap = nn.AvgPool2d(kernel_size=5)
        else:
            self.linear = nn.Conv2d(10, 10, kernel_size=5)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 1, 28, 28) to logits (N, 10)."""
        x = images
        for part in self.children():
            x = part(x)
        return x.flatten(1)


class FusedBlock(nn.Sequential):
    """Convolution, ReLU, batch normalisation and dropout; in training the last three as one step.

    Where the kernel for that step does not fit (evaluation, a GPU, a hook on a layer, no C
    compiler), the layers run one after the other.
    """

    norm: nn.BatchNorm2d

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, C, H, W) to (N, C', H', W')."""
        convolution, *others = self
        x = convolution(x)
        if fused.fits(x, others):
            return fused.relu_norm_dropout(x, self.norm, fused.dropout_rate(others))
        for layer in others:
            x = layer(x)
        return x


def _block(
    inputs: int,
    outputs: int,
    geometry: tuple[int, int, int],
    rate: float,
    activation: str,
    norm: str,
    order: str,
) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(inputs, outputs, *geometry)
    layers["activation"] = ACTIVATIONS[activation]()
    if norm in NORMS:
        layers["norm"] = NORMS[norm](outputs)
    if order == "norm_activation":
        layers.move_to_end("activation")
    if rate:
        layers["dropout"] = Dropout(rate)
    fusable = activation == "relu" and norm == "batch" and order == "activation_norm"
    return FusedBlock(layers) if fusable else nn.Sequential(layers)
