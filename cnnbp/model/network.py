"""The published network: 19,866 parameters on grey images of 28 x 28 pixels and ten classes."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from cnnbp.config.options import NetworkOptions, check
from cnnbp.errors import UserError
from cnnbp.model import fused
from cnnbp.model.dropout import Dropout

# kernel size, stride and padding of the five blocks
BLOCKS = ((5, 1, 1), (3, 1, 1), (3, 2, 1), (3, 2, 1), (3, 1, 1))
# of the convolution to the classes
LAST_KERNEL = 3
# height and width in pixels that leave one pixel to the head
SMALLEST_IMAGE = 11

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
    """Five blocks conv -> activation -> norm -> dropout, a 3x3 convolution to K channels, a head.

    Args:
        widths: output channels of the five blocks.
        dropout: rates in [0, 1) after blocks 1 to 4; a rate of 0 leaves the layer out.
        activation: a key of `ACTIVATIONS`.
        norm: a key of `NORMS`, or "none".
        order: "activation_norm" (as published) or "norm_activation" (the usual order).
        head: "gap", global average pooling (as published), or "linear", a fully connected layer
            from the last maps, written as the equivalent convolution: with the published shapes
            the maps are 5x5 and it has 2,510 parameters more.
        channels: C, of the images.
        image_size: S, their height and width in pixels.
        classes: K.

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
        channels: int = 1,
        image_size: int = 28,
        classes: int = 10,
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
                "channels": channels,
                "image_size": image_size,
                "classes": classes,
            },
        )
        if norm == "group" and any(width % GROUPS for width in widths):
            raise UserError(
                f"widths={widths}: must be multiples of {GROUPS} for group normalisation"
            )
        blocks = []
        inputs = channels
        for geometry, outputs, rate in zip(BLOCKS, widths, [*dropout, 0], strict=True):
            blocks.append(_block(inputs, outputs, geometry, rate, activation, norm, order))
            inputs = outputs
        self.conv1 = nn.Sequential(blocks[0], blocks[1])
        self.conv2, self.conv3, self.conv4 = blocks[2:]
        self.conv5 = nn.Conv2d(inputs, classes, kernel_size=LAST_KERNEL)
        side = _last_side(image_size)
        if head == "gap":
            self.gap = nn.AvgPool2d(kernel_size=side)
        else:
            self.linear = nn.Conv2d(classes, classes, kernel_size=side)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, C, S, S) to logits (N, K)."""
        x = images
        for part in self.children():
            x = part(x)
        return x.flatten(1)


def _last_side(image_size: int) -> int:
    """The height and width of the maps that the head gets, in pixels.

    Raises:
        UserError: nothing is left of images that are so small.
    """
    side = image_size
    for kernel, stride, padding in BLOCKS:
        side = (side + 2 * padding - kernel) // stride + 1
    side -= LAST_KERNEL - 1
    if side < 1:
        raise UserError(
            f"image_size={image_size}: too small for this network, which needs "
            f"{SMALLEST_IMAGE} pixels or more"
        )
    return side


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
