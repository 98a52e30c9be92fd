"""Forward and backward of every component of the network by hand: no autograd, only the equations.

A component is one function. It returns its output y and a function `backward` that maps dy, the
gradient of the loss at y, to a tuple of gradients: at the input x first, then at each parameter.
`forward` chains the components of a whole network, `backward` follows the chain back (Rumelhart,
Hinton & Williams, 1986).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, einsum, nn
from torch.nn import functional as F

from cnnbp.errors import UserError

Backward = Callable[[Tensor], tuple[Tensor, ...]]


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
) -> tuple[Tensor, Backward]:
    """Slide each kernel over the image and take the inner product at every position.

    y[n,o,i,j] = bias[o] + sum over c,a,b of weight[o,c,a,b] x[n,c,si+a-p,sj+b-p]; pixels outside x
    count as 0.
    Shapes: x (N, C, H, W), weight (O, C, A, B), bias (O,), y (N, O, I, J); stride and padding are
    (vertical, horizontal) pairs.
    Source: Goodfellow, Bengio & Courville, Deep Learning, 2016, sections 9.1 (forward) and 9.5
    (stride, gradients).
    """
    height, width = x.shape[2:]
    rows, columns = weight.shape[2:]
    s, t = stride
    p, q = padding
    # channels last: the sums then read memory in whole runs
    padded = F.pad(x, (q, q, p, p)).contiguous(memory_format=torch.channels_last)
    # (N, C, I, J, A, B), a view
    windows = padded.unfold(2, rows, s).unfold(3, columns, t)
    y = einsum("ncijab,ocab->noij", windows, weight) + _per_channel(bias)

    def backward(dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dweight = einsum("noij,ncijab->ocab", dy, windows)
        dwindows = einsum("noij,ocab->abncij", dy, weight)
        dpadded = torch.zeros_like(padded)
        down, right = s * y.shape[2], t * y.shape[3]
        # a pixel collects a share from every window that covered it
        for a in range(rows):
            for b in range(columns):
                dpadded[:, :, a : a + down : s, b : b + right : t] += dwindows[a, b]
        dx = dpadded[:, :, p : p + height, q : q + width]
        return dx, dweight, dy.sum((0, 2, 3))

    # as PyTorch's convolution lays it out; the order in which dropout's mask is drawn depends on it
    channels_last = 1 in (x.stride(1), weight.stride(1))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return y.contiguous(memory_format=layout), backward


def relu(x: Tensor) -> tuple[Tensor, Backward]:
    """Pass what is positive: y = max(x, 0), dx = dy where x > 0 (Nair & Hinton, 2010)."""

    def backward(dy: Tensor) -> tuple[Tensor]:
        return (dy * (x > 0),)

    return x.clamp(min=0), backward


def leaky_relu(x: Tensor, slope: float = 0.01) -> tuple[Tensor, Backward]:
    """Weaken what is negative: y = x where x > 0, else slope x (Maas, Hannun & Ng, 2013)."""

    def backward(dy: Tensor) -> tuple[Tensor]:
        return (torch.where(x > 0, dy, slope * dy),)

    return torch.where(x > 0, x, slope * x), backward


def elu(x: Tensor, alpha: float = 1.0) -> tuple[Tensor, Backward]:
    """Bend what is negative towards -alpha (Clevert et al., 2016).

    y = x and dx = dy where x > 0, else y = alpha (exp(x) - 1) and dx = dy (y + alpha).
    """
    y = torch.where(x > 0, x, alpha * x.expm1())

    def backward(dy: Tensor) -> tuple[Tensor]:
        return (torch.where(x > 0, dy, dy * (y + alpha)),)

    return y, backward


def gelu(x: Tensor) -> tuple[Tensor, Backward]:
    """Weigh x with the normal distribution (Hendrycks & Gimpel, 2016).

    y = x Phi(x), dy/dx = Phi(x) + x phi(x); Phi is the cumulative distribution, phi the density.
    """
    cumulative = (1 + (x / math.sqrt(2)).erf()) / 2
    density = (-x.square() / 2).exp() / math.sqrt(2 * math.pi)

    def backward(dy: Tensor) -> tuple[Tensor]:
        return (dy * (cumulative + x * density),)

    return x * cumulative, backward


def silu(x: Tensor) -> tuple[Tensor, Backward]:
    """Weigh x with its own sigmoid (Elfwing et al., 2018).

    y = x g with g = sigmoid(x), dy/dx = g (1 + x (1 - g)).
    """
    gate = x.sigmoid()

    def backward(dy: Tensor) -> tuple[Tensor]:
        return (dy * gate * (1 + x * (1 - gate)),)

    return x * gate, backward


def tanh(x: Tensor) -> tuple[Tensor, Backward]:
    """Squash x into (-1, 1): y = tanh(x), dy/dx = 1 - y^2."""
    y = x.tanh()

    def backward(dy: Tensor) -> tuple[Tensor]:
        return (dy * (1 - y.square()),)

    return y, backward


def batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, Backward]:
    """Give each channel mean 0 and variance 1 over the batch, then a learnt scale and shift.

    y = weight x_hat + bias, x_hat = (x - mean) / sqrt(variance + eps); with d = weight dy and means
    over N, H, W dx = (d - mean(d) - x_hat mean(d x_hat)) / sqrt(variance + eps).
    In training the running statistics move, in place, by `momentum` towards the batch's mean and
    unbiased variance;
    in evaluation they stand in for the batch's, are constants, and both means in dx vanish.
    Shapes: x, y (N, C, H, W), all others (C,).
    Source: Ioffe & Szegedy, 2015, algorithm 1 and the gradients of section 3.
    """
    if training:
        mean, variance = _batch_moments(x)
        count = x.numel() / x.shape[1]
        unbiased = variance * count / (count - 1)
        running_mean += momentum * (mean.flatten() - running_mean)
        running_var += momentum * (unbiased.flatten() - running_var)
        return _normalise(x, mean, variance, weight, bias, eps, _batch_mean)
    mean, variance = _per_channel(running_mean), _per_channel(running_var)
    return _normalise(x, mean, variance, weight, bias, eps, _mean_of_constants)


def normalise_by_batch(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Backward]:
    """Apply the equations of `batch_norm` in training, without running statistics."""
    return _normalise(x, *_batch_moments(x), weight, bias, eps, _batch_mean)


def _batch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = _batch_mean(x)
    return mean, _batch_mean((x - mean).square())


def _batch_mean(values: Tensor) -> Tensor:
    return values.mean((0, 2, 3), keepdim=True)


def _mean_of_constants(values: Tensor) -> Tensor:
    """What running statistics put in the place of both means in dx: nothing, as constants."""
    return torch.zeros_like(values)


def group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5
) -> tuple[Tensor, Backward]:
    """Give the groups of channels of each image mean 0 and variance 1, then a scale and shift.

    The equations are `batch_norm`'s with means over a group's channels, H and W, in training and
    evaluation alike.
    Shapes: x, y (N, C, H, W), weight and bias (C,); C is a multiple of `groups`.
    Source: Wu & He, 2018, section 3.
    """

    def average(values: Tensor) -> Tensor:
        means = values.reshape(len(x), groups, -1).mean(2)
        return _per_channel(means.repeat_interleave(x.shape[1] // groups, 1))

    mean = average(x)
    variance = average((x - mean).square())
    return _normalise(x, mean, variance, weight, bias, eps, average)


def _normalise(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    average: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Backward]:
    """Give x mean 0 and variance 1 where `mean` and `variance` are its own.

    `average` takes the means in dx, over the elements that `mean` and `variance` come from.
    """
    deviation = (variance + eps).sqrt()
    x_hat = (x - mean) / deviation

    def backward(dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        d = dy * _per_channel(weight)
        dx = (d - average(d) - x_hat * average(d * x_hat)) / deviation
        return dx, (dy * x_hat).sum((0, 2, 3)), dy.sum((0, 2, 3))

    return x_hat * _per_channel(weight) + _per_channel(bias), backward


def _per_channel(values: Tensor) -> Tensor:
    """Let one value for each channel, (..., C), meet images (..., C, H, W)."""
    return values[..., None, None]


def dropout(x: Tensor, mask: Tensor) -> tuple[Tensor, Backward]:
    """Set some elements to 0 and scale up the others: y = mask x, dx = mask dy.

    Shapes: x, mask and y alike; the mask is 0 where an element is dropped and 1 / (1 - rate) where
    it is kept.
    Source: Srivastava et al., 2014, section 4, in its inverted form.
    """

    def backward(dy: Tensor) -> tuple[Tensor]:
        return (dy * mask,)

    return x * mask, backward


def avg_pool2d(x: Tensor, size: int) -> tuple[Tensor, Backward]:
    """Average each tile of size x size pixels; each pixel gets 1 / size^2 of its tile's gradient.

    y[n,c,i,j] = mean over a,b < size of x[n,c,size i + a,size j + b]; a remainder at the right and
    bottom is left out.
    Shapes: x (N, C, H, W), y (N, C, H // size, W // size).
    Source: Lin, Chen & Yan, 2014, section 3.2, for its use in place of a dense layer.
    """
    y = x.unfold(2, size, size).unfold(3, size, size).mean((4, 5))

    def backward(dy: Tensor) -> tuple[Tensor]:
        dx = torch.zeros_like(x)
        shares = (dy / size**2).repeat_interleave(size, 2).repeat_interleave(size, 3)
        dx[:, :, : shares.shape[2], : shares.shape[3]] = shares
        return (dx,)

    return y, backward


def flatten(x: Tensor) -> tuple[Tensor, Backward]:
    """Lay the maps of each image out in a row: x (N, C, H, W) to y (N, C H W)."""

    def backward(dy: Tensor) -> tuple[Tensor]:
        return (dy.view_as(x),)

    return x.flatten(1), backward


def cross_entropy(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0
) -> tuple[Tensor, Backward]:
    """Take the mean negative log-likelihood of the labels under softmax(logits).

    loss = -mean over n of sum over k of target[n,k] log p[n,k], log p = logits - log(sum over k of
    exp(logits));
    dlogits = (p - target) / N. The target is 1 at the label; smoothing s spreads s of it evenly
    over the K classes.
    Shapes: logits (N, K), labels (N,) whole numbers, loss ().
    Source: Bishop, Pattern Recognition and Machine Learning, 2006, section 4.3.4; smoothing:
    Szegedy et al., 2016, section 7.
    """
    count, classes = logits.shape
    # the softmax stays the same, and exp cannot overflow
    shifted = logits - logits.amax(1, keepdim=True)
    log_p = shifted - shifted.exp().sum(1, keepdim=True).log()
    at_label = F.one_hot(labels, classes).to(logits)
    target = at_label * (1 - label_smoothing) + label_smoothing / classes
    loss = -(target * log_p).sum(1).mean()

    def backward(dloss: Tensor) -> tuple[Tensor]:
        return (dloss * (log_p.exp() - target) / count,)

    return loss, backward


def _conv2d(module: Any, x: Tensor) -> tuple[Tensor, Backward]:
    return conv2d(x, module.weight, module.bias, module.stride, module.padding)


def _batch_norm(module: Any, x: Tensor) -> tuple[Tensor, Backward]:
    if module.training:
        module.num_batches_tracked += 1
    return batch_norm(
        x,
        module.weight,
        module.bias,
        module.running_mean,
        module.running_var,
        module.training,
        module.momentum,
        module.eps,
    )


def _group_norm(module: Any, x: Tensor) -> tuple[Tensor, Backward]:
    return group_norm(x, module.weight, module.bias, module.num_groups, module.eps)


def _dropout(module: Any, x: Tensor) -> tuple[Tensor, Backward]:
    # the module itself draws the mask: the same numbers, in the same order, as in its own forward
    return dropout(x, module(torch.ones_like(x)))


# by the name of a module's class: what maps the module and its input to output and backward;
# `check_component` has seen before that the module has all that the equations need
COMPONENTS: dict[str, Callable[[Any, Tensor], tuple[Tensor, Backward]]] = {
    "Conv2d": _conv2d,
    "ReLU": lambda module, x: relu(x),
    "LeakyReLU": lambda module, x: leaky_relu(x, module.negative_slope),
    "ELU": lambda module, x: elu(x, module.alpha),
    "GELU": lambda module, x: gelu(x),
    "SiLU": lambda module, x: silu(x),
    "Tanh": lambda module, x: tanh(x),
    "BatchNorm2d": _batch_norm,
    "GroupNorm": _group_norm,
    "Dropout": _dropout,
    "AvgPool2d": lambda module, x: avg_pool2d(x, module.kernel_size),
}
# the options for which the equations above hold, where a module has such an attribute
OPTIONS = {
    "dilation": (1, 1),
    "groups": 1,
    "padding_mode": "zeros",
    "approximate": "none",
    "ceil_mode": False,
    "divisor_override": None,
}
# what some modules may leave out, but the equations above need
NEEDED = ("weight", "bias", "running_mean", "momentum")


@dataclass
class Record:
    """One component's input and output, and the gradient of the loss at the output.

    `name` is the module's ("conv1.0.norm", or "flatten" and "loss" for the last two), `kind` the
    name of its class.
    """

    name: str
    kind: str
    input: Tensor
    output: Tensor
    backward: Backward
    gradient: Tensor | None = None


@torch.no_grad()
def forward(
    network: nn.Module, images: Tensor, labels: Tensor, label_smoothing: float = 0.0
) -> list[Record]:
    """Send images (N, C, H, W) and labels (N,) through a `Network`, and record each component.

    The last record's input are the logits (N, K) and its output is the loss (). In training mode
    running statistics move and masks are drawn as in the network's own forward.

    Raises:
        UserError: the equations here do not cover a component of the network, or an option of it.
    """
    modules = []
    for name, module in network.named_modules():
        if not any(module.children()):
            check_component(name, module)
            modules.append((name, module))
    records = []
    x = images
    for name, module in modules:
        kind = type(module).__name__
        y, back = COMPONENTS[kind](module, x)
        records.append(Record(name, kind, x, y, back))
        x = y
    logits, back = flatten(x)
    records.append(Record("flatten", "Flatten", x, logits, back))
    loss, back = cross_entropy(logits, labels, label_smoothing)
    records.append(Record("loss", "CrossEntropyLoss", logits, loss, back))
    return records


def check_component(name: str, module: nn.Module) -> None:
    """Raise a UserError where the equations here are not those of `module`."""
    kinds = ", ".join(COMPONENTS)
    if type(module).__name__ not in COMPONENTS:
        raise UserError(f"{name}={module}: must be one of {kinds} to be propagated by hand")
    for option, known in OPTIONS.items():
        value = getattr(module, option, known)
        if value != known:
            raise UserError(f"{name}: {option}={value} must be {known} to be propagated by hand")
    for attribute in NEEDED:
        if getattr(module, attribute, module) is None:
            raise UserError(f"{name}: {attribute}=None cannot be propagated by hand")
    if isinstance(module, nn.Conv2d) and isinstance(module.padding, str):
        raise UserError(
            f"{name}: padding={module.padding} must be given in pixels to be propagated by hand"
        )
    if isinstance(module, nn.AvgPool2d):
        size = module.kernel_size
        if not isinstance(size, int) or module.stride != size or module.padding != 0:
            raise UserError(f"{name}={module}: must be tiles, side by side, without padding")


@torch.no_grad()
def backward(records: list[Record]) -> tuple[dict[str, Tensor], Tensor]:
    """Follow the records back by the chain rule, starting from d loss / d loss = 1.

    Fills each record's `gradient`; returns each parameter's by its state-dict name, and the images'
    (N, C, H, W).
    """
    gradients: dict[str, Tensor] = {}
    dy = torch.ones_like(records[-1].output)
    for record in reversed(records):
        record.gradient = dy
        dy, *parameters = record.backward(dy)
        if parameters:
            dweight, dbias = parameters
            gradients[f"{record.name}.weight"] = dweight
            gradients[f"{record.name}.bias"] = dbias
    return gradients, dy


def loss_and_logits(
    network: nn.Module, images: Tensor, labels: Tensor, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the loss () and the logits (N, K); `loss.backward()` computes the gradients by hand.

    Works in the parameters' precision, also under autocast. The logits take no part in
    differentiation, and the gradients cannot be differentiated again.
    """
    names, parameters = zip(*network.named_parameters(), strict=True)
    return _ByHand.apply(network, images, labels, label_smoothing, names, *parameters)


class _ByHand(torch.autograd.Function):
    """The whole chain as one step of autograd, which only passes our gradients on."""

    @staticmethod
    def forward(
        ctx: Any,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        label_smoothing: float,
        names: Sequence[str],
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(images.device.type, enabled=False):
            ctx.records = forward(network, images, labels, label_smoothing)
        ctx.names = names
        # not for their values: autograd then refuses parameters that changed before the backward
        # pass
        ctx.save_for_backward(*parameters)
        logits = ctx.records[-1].input
        ctx.mark_non_differentiable(logits)
        return ctx.records[-1].output, logits

    @staticmethod
    def backward(ctx: Any, dloss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        # `once_differentiable` would return constants where dloss itself is one
        if torch.is_grad_enabled():
            raise UserError(
                "backprop=by_hand: create_graph=True asks for gradients that can be differentiated"
                " again; give backprop=autograd"
            )
        _unchanged = ctx.saved_tensors
        with torch.autocast(dloss.device.type, enabled=False):
            gradients, dimages = backward(ctx.records)
        dparameters = (dloss * gradients[name] for name in ctx.names)
        return None, dloss * dimages, None, None, None, *dparameters
