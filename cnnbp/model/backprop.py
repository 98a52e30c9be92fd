"""Forward and backward of every component of the network by hand: no autograd, just the equations.

A component is one function. It returns its output y and a function `backward` that takes dy, the gradient of the
loss at y, to a tuple of gradients: at the input x first, then at each parameter. `forward` chains the components of
a whole network, `backward` walks the chain back (Rumelhart, Hinton & Williams, 1986).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, einsum, nn
from torch.nn import functional as F


def conv2d(x, weight, bias, stride=(1, 1), padding=(0, 0)):
    """Slide each kernel over the image and take the inner product at every stop.

    y[n,o,i,j] = bias[o] + sum over c,a,b of weight[o,c,a,b] x[n,c,si+a-p,sj+b-p]; pixels outside x count as 0.
    Shapes: x (N, C, H, W), weight (O, C, A, B), bias (O,), y (N, O, I, J); stride and padding are (vertical,
    horizontal) pairs.
    Source: Goodfellow, Bengio & Courville, Deep Learning, 2016, sections 9.1 (forward) and 9.5 (stride, gradients).
    """
    (height, width), (rows, columns), (s, t), (p, q) = (
        x.shape[2:],
        weight.shape[2:],
        stride,
        padding,
    )
    # channels last: the sums then read memory in whole runs
    padded = F.pad(x, (q, q, p, p)).contiguous(memory_format=torch.channels_last)
    windows = padded.unfold(2, rows, s).unfold(3, columns, t)  # (N, C, I, J, A, B), a view
    y = einsum("ncijab,ocab->noij", windows, weight) + _channels(bias)
    # as torch's convolution does; the order in which dropout's mask is drawn depends on it
    layout = (
        torch.channels_last if 1 in (x.stride(1), weight.stride(1)) else torch.contiguous_format
    )

    def backward(dy):
        dweight = einsum("noij,ncijab->ocab", dy, windows)
        dwindows = einsum("noij,ocab->abncij", dy, weight)
        dpadded = torch.zeros_like(padded)
        # a pixel collects a share from every window that covered it
        for a in range(rows):
            for b in range(columns):
                dpadded[:, :, a : a + s * y.shape[2] : s, b : b + t * y.shape[3] : t] += dwindows[
                    a, b
                ]
        return dpadded[:, :, p : p + height, q : q + width], dweight, dy.sum((0, 2, 3))

    return y.contiguous(memory_format=layout), backward


def relu(x):
    """Pass what is positive: y = max(x, 0), dx = dy where x > 0 (Nair & Hinton, 2010)."""
    return x.clamp(min=0), lambda dy: (dy * (x > 0),)


def leaky_relu(x, slope=0.01):
    """Weaken what is negative: y = x where x > 0, else slope x (Maas, Hannun & Ng, 2013)."""
    return torch.where(x > 0, x, slope * x), lambda dy: (torch.where(x > 0, dy, slope * dy),)


def elu(x, alpha=1.0):
    """Bend what is negative towards -alpha: y = x where x > 0, else alpha (exp(x) - 1) (Clevert et al., 2016)."""
    y = torch.where(x > 0, x, alpha * x.expm1())
    return y, lambda dy: (torch.where(x > 0, dy, dy * (y + alpha)),)


def gelu(x):
    """Weigh x with the normal distribution: y = x Phi(x), dy/dx = Phi(x) + x phi(x) (Hendrycks & Gimpel, 2016)."""
    cumulative = (1 + (x / math.sqrt(2)).erf()) / 2
    density = (-x.square() / 2).exp() / math.sqrt(2 * math.pi)
    return x * cumulative, lambda dy: (dy * (cumulative + x * density),)


def silu(x):
    """Let x open its own gate: y = x g with g = sigmoid(x), dy/dx = g (1 + x (1 - g)) (Elfwing et al., 2018)."""
    gate = x.sigmoid()
    return x * gate, lambda dy: (dy * gate * (1 + x * (1 - gate)),)


def tanh(x):
    """Squash x into (-1, 1): y = tanh(x), dy/dx = 1 - y^2."""
    y = x.tanh()
    return y, lambda dy: (dy * (1 - y.square()),)


def batch_norm(x, weight, bias, running_mean, running_var, training, momentum=0.1, eps=1e-5):
    """Give each channel mean 0 and variance 1 over the batch, then a learnt scale and shift.

    y = weight x_hat + bias, x_hat = (x - mean) / sqrt(variance + eps); with d = weight dy and means over N, H, W
    dx = (d - mean(d) - x_hat mean(d x_hat)) / sqrt(variance + eps).
    In training the running statistics move, in place, by `momentum` towards the batch's mean and unbiased variance;
    in evaluation they stand in for the batch's, are constants, and both means in dx vanish.
    Shapes: x, y (N, C, H, W), all others (C,).
    Source: Ioffe & Szegedy, 2015, algorithm 1 and the gradients of section 3.
    """
    if not training:
        return _normalise(
            x, _channels(running_mean), _channels(running_var), weight, bias, eps, lambda values: 0
        )

    def average(values):
        return values.mean((0, 2, 3), keepdim=True)

    mean = average(x)
    variance = average((x - mean).square())
    count = x.numel() / x.shape[1]
    running_mean += momentum * (mean.flatten() - running_mean)
    running_var += momentum * (variance.flatten() * count / (count - 1) - running_var)
    return _normalise(x, mean, variance, weight, bias, eps, average)


def group_norm(x, weight, bias, groups, eps=1e-5):
    """Give each image's every group of channels mean 0 and variance 1, then a learnt scale and shift.

    The equations are `batch_norm`'s with means over a group's channels, H and W, in training and evaluation alike.
    Shapes: x, y (N, C, H, W), weight and bias (C,); C is a multiple of `groups`.
    Source: Wu & He, 2018, section 3.
    """

    def average(values):
        means = values.reshape(len(x), groups, -1).mean(2)
        return _channels(means.repeat_interleave(x.shape[1] // groups, 1))

    mean = average(x)
    return _normalise(x, mean, average((x - mean).square()), weight, bias, eps, average)


def _normalise(x, mean, variance, weight, bias, eps, average):
    deviation = (variance + eps).sqrt()
    x_hat = (x - mean) / deviation

    def backward(dy):
        d = dy * _channels(weight)
        dx = (d - average(d) - x_hat * average(d * x_hat)) / deviation
        return dx, (dy * x_hat).sum((0, 2, 3)), dy.sum((0, 2, 3))

    return x_hat * _channels(weight) + _channels(bias), backward


def _channels(values):
    """Let one value a channel, (..., C), meet images (..., C, H, W)."""
    return values[..., None, None]


def dropout(x, mask):
    """Silence some elements and make up for them: y = mask x, dx = mask dy.

    Shapes: x, mask and y alike; the mask is 0 where an element is dropped and 1 / (1 - rate) where it is kept.
    Source: Srivastava et al., 2014, section 4, in its inverted form.
    """
    return x * mask, lambda dy: (dy * mask,)


def avg_pool2d(x, size):
    """Average each tile of size x size pixels: every pixel gets the share 1 / size^2 of its tile's gradient.

    y[n,c,i,j] = mean over a,b < size of x[n,c,size i + a,size j + b]; a remainder at the right and bottom is left out.
    Shapes: x (N, C, H, W), y (N, C, H // size, W // size).
    Source: Lin, Chen & Yan, 2014, section 3.2, for its use in place of a dense layer.
    """
    y = x.unfold(2, size, size).unfold(3, size, size).mean((4, 5))

    def backward(dy):
        dx = torch.zeros_like(x)
        shares = (dy / size**2).repeat_interleave(size, 2).repeat_interleave(size, 3)
        dx[:, :, : shares.shape[2], : shares.shape[3]] = shares
        return (dx,)

    return y, backward


def cross_entropy(logits, labels, label_smoothing=0.0):
    """Take the mean negative log-likelihood of the labels under softmax(logits).

    loss = -mean over n of sum over k of target[n,k] log p[n,k], log p = logits - log(sum over k of exp(logits));
    dlogits = (p - target) / N. The target is 1 at the label; smoothing s spreads s of it evenly over the K classes.
    Shapes: logits (N, K), labels (N,) whole numbers, loss ().
    Source: Bishop, Pattern Recognition and Machine Learning, 2006, section 4.3.4; smoothing: Szegedy et al., 2016,
    section 7.
    """
    count, classes = logits.shape
    shifted = logits - logits.amax(1, keepdim=True)  # exp cannot overflow, softmax does not change
    log_p = shifted - shifted.exp().sum(1, keepdim=True).log()
    target = (
        F.one_hot(labels, classes).to(logits) * (1 - label_smoothing) + label_smoothing / classes
    )
    loss = -(target * log_p).sum(1).mean()
    return loss, lambda dy: (dy * (log_p.exp() - target) / count,)


def _batch_norm(module, x):
    if module.training:
        module.num_batches_tracked += 1
    statistics = module.running_mean, module.running_var
    return batch_norm(
        x, module.weight, module.bias, *statistics, module.training, module.momentum, module.eps
    )


COMPONENTS = {
    "Conv2d": lambda module, x: conv2d(
        x, module.weight, module.bias, module.stride, module.padding
    ),
    "ReLU": lambda module, x: relu(x),
    "LeakyReLU": lambda module, x: leaky_relu(x, module.negative_slope),
    "ELU": lambda module, x: elu(x, module.alpha),
    "GELU": lambda module, x: gelu(x),
    "SiLU": lambda module, x: silu(x),
    "Tanh": lambda module, x: tanh(x),
    "BatchNorm2d": _batch_norm,
    "GroupNorm": lambda module, x: group_norm(
        x, module.weight, module.bias, module.num_groups, module.eps
    ),
    # the module itself draws the mask: the same numbers, in the same order, as in its own forward
    "Dropout": lambda module, x: dropout(x, module(torch.ones_like(x))),
    "AvgPool2d": lambda module, x: avg_pool2d(x, module.kernel_size),
}


@dataclass
class Record:
    """One component's part in the journey: what came in and went out, and the gradient that came back to its output.

    `name` is the module's ("conv1.0.norm", or "flatten" and "loss" for the last two), `kind` its class's.
    """

    name: str
    kind: str
    input: Tensor
    output: Tensor
    backward: Callable
    gradient: Tensor | None = None


@torch.no_grad()
def forward(
    network: nn.Module, images: Tensor, labels: Tensor, label_smoothing: float = 0.0
) -> list[Record]:
    """Send images (N, 1, 28, 28) and labels (N,) through a `Network` and return one record a component.

    The last record's input are the logits (N, 10) and its output is the loss (). In training mode running statistics
    move and masks are drawn as in the network's own forward.

    Raises:
        ValueError: a component of the network is not in `COMPONENTS`.
    """
    modules = [
        (name, module) for name, module in network.named_modules() if not any(module.children())
    ]
    for name, module in modules:
        if type(module).__name__ not in COMPONENTS:
            raise ValueError(
                f"{name}={module}: must be one of {', '.join(COMPONENTS)} to be propagated by hand"
            )
    records, x = [], images
    for name, module in modules:
        kind = type(module).__name__
        y, back = COMPONENTS[kind](module, x)
        records.append(Record(name, kind, x, y, back))
        x = y
    logits = x.flatten(1)
    records.append(Record("flatten", "Flatten", x, logits, lambda dy: (dy.view_as(x),)))
    loss, back = cross_entropy(logits, labels, label_smoothing)
    return [*records, Record("loss", "CrossEntropyLoss", logits, loss, back)]


@torch.no_grad()
def backward(records: list[Record]) -> tuple[dict[str, Tensor], Tensor]:
    """Walk the records back by the chain rule, starting from d loss / d loss = 1.

    Fills each record's `gradient`; returns each parameter's by its state-dict name, and the images' (N, 1, 28, 28).
    """
    gradients, dy = {}, torch.ones_like(records[-1].output)
    for record in reversed(records):
        record.gradient = dy
        dy, *parameters = record.backward(dy)
        gradients |= {
            f"{record.name}.{key}": d
            for key, d in zip(("weight", "bias"), parameters, strict=False)
        }
    return gradients, dy


def loss_and_logits(
    network: nn.Module, images: Tensor, labels: Tensor, label_smoothing: float = 0.0
):
    """Return the loss () and the logits (N, 10); `loss.backward()` then walks back by hand.

    Works in the parameters' precision, also under autocast.
    """
    names, parameters = zip(*network.named_parameters(), strict=True)
    return _ByHand.apply(network, images, labels, label_smoothing, names, *parameters)


class _ByHand(torch.autograd.Function):
    """The whole chain as one step of autograd, which only hands our gradients to the parameters."""

    @staticmethod
    def forward(ctx, network, images, labels, label_smoothing, names, *parameters):
        with torch.autocast(images.device.type, enabled=False):
            ctx.records = forward(network, images, labels, label_smoothing)
        ctx.names = names
        logits = ctx.records[-1].input
        ctx.mark_non_differentiable(logits)
        return ctx.records[-1].output, logits

    @staticmethod
    def backward(ctx, dloss, _):
        with torch.autocast(dloss.device.type, enabled=False):
            gradients, _ = backward(ctx.records)
        return None, None, None, None, None, *(dloss * gradients[name] for name in ctx.names)
