"""What kinds of layers are called, and what happens in them, for a reader."""

from typing import NamedTuple

from torch import nn


class Description(NamedTuple):
    """A kind of layer: its name, and what it does on the way forward and on the way back."""

    title: str
    forward: str
    backward: str


DESCRIPTIONS = {
    "Conv2d": Description(
        "conv",
        "each kernel slides over all maps and takes their weighted sum",
        "each pixel sums the gradients of all windows that it was in",
    ),
    "Linear": Description(
        "linear",
        "each output is a weighted sum of all inputs",
        "each input sums the gradients of all outputs by weight",
    ),
    "ReLU": Description(
        "ReLU",
        "negative values become 0",
        "it passes where the value was positive and stops elsewhere",
    ),
    "BatchNorm2d": Description(
        "batch norm",
        "each map is shifted and scaled as learnt in training",
        "each map's gradient is scaled alike",
    ),
    "GroupNorm": Description(
        "group norm",
        "each group of maps gets mean 0 and variance 1, then a learnt scale and shift",
        "each group's gradient is centred and scaled",
    ),
    "AvgPool2d": Description(
        "mean of each map",
        "each map is averaged to one value",
        "each pixel gets an equal share",
    ),
    "MaxPool2d": Description(
        "max pool",
        "the largest value of each window is kept",
        "it goes to the pixel that was the largest",
    ),
    "Flatten": Description("flatten", "all values are laid out in a row", "it is laid out as maps"),
    "input": Description("normalised pixels", "the pixels of the image", ""),
    "scores": Description(
        "probabilities", "softmax turns the logits into probabilities that sum to 1", ""
    ),
    "cross_entropy": Description(
        "loss",
        "minus the logarithm of the label's probability",
        "probabilities, less 1 at the label",
    ),
}
ACTIVATIONS = ("LeakyReLU", "ELU", "GELU", "SiLU", "Tanh", "Sigmoid")


def describe(kind: str) -> Description:
    """Describe a layer by the name of its class, also "scores" and "cross_entropy"."""
    if kind in DESCRIPTIONS:
        return DESCRIPTIONS[kind]
    if kind in ACTIVATIONS:
        return Description(
            kind, "each value is mapped on its own", "it is multiplied by the slope at each value"
        )
    return Description(kind, "its output", "as autograd computes it")


def title_of(module: nn.Module) -> str:
    """The name of a layer's kind, with the size and the stride of a convolution."""
    if not isinstance(module, nn.Conv2d):
        return describe(type(module).__name__).title
    height, width = module.kernel_size
    stride = f", stride {module.stride[0]}" if module.stride[0] > 1 else ""
    return f"conv {height}x{width}{stride}"
