"""A C kernel for training on the CPU: ReLU, batch normalisation and dropout in one step.

It reads memory twice each way, where PyTorch's layers read it five times.
"""

import ctypes
import logging
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from cnnbp.model import backprop, kernel_cache
from cnnbp.model.dropout import Dropout
from cnnbp.model.eager import runs_eagerly

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = [
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-shared",
    "-fPIC",
]
# and the flags that each adds
DTYPES = {torch.float32: [], torch.bfloat16: ["-DBFLOAT16"]}
# as in the source
MAX_CHANNELS = 512
# as in the source
CHUNKS = 64
# of the bits that decide whether an element is dropped
BIT_VALUES = 2**32

LAYERS = [nn.ReLU, nn.BatchNorm2d]
LAYERS_WITH_DROPOUT = [*LAYERS, Dropout]


class Shape(ctypes.Structure):
    """The structure of this name in the source."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("seed", ctypes.c_uint64),
        ("channels", ctypes.c_uint32),
        ("drop", ctypes.c_uint32),
        ("scale", ctypes.c_double),
        ("epsilon", ctypes.c_double),
    )


@cache
def kernel(dtype: torch.dtype = torch.float32) -> ctypes.CDLL | None:
    """Load the kernel for one of `DTYPES`.

    Without a C compiler and OpenMP it logs one line and returns None.
    """
    try:
        return kernel_cache.load(SOURCE, [*FLAGS, *DTYPES[dtype]])
    except (kernel_cache.BuildError, subprocess.SubprocessError, OSError, ValueError) as error:
        logging.getLogger(__name__).info(
            "C kernel not available, using PyTorch's layers (slower): %s", error
        )
        return None


def fits(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """Whether the kernel does to x (N, C, H, W) what `layers` would do one after the other.

    Layers may be replaced, change their mode or get a hook between two steps, so each step asks.
    """
    kinds = [type(layer) for layer in layers]
    if kinds != LAYERS and kinds != LAYERS_WITH_DROPOUT:
        return False
    return (
        runs_eagerly()
        and not any(_is_watched(layer) for layer in layers)
        and _input_fits(x)
        and _norm_fits(layers[1], x)
        and round(dropout_rate(layers) * BIT_VALUES) < BIT_VALUES
        and kernel(x.dtype) is not None
    )


def dropout_rate(layers: Sequence[nn.Module]) -> float:
    """Return the rate at which `layers` drop elements now: 0 without dropout or in evaluation."""
    last = layers[-1]
    if isinstance(last, Dropout) and last.training:
        return last.p
    return 0.0


def _is_watched(layer: nn.Module) -> bool:
    """Whether a hook looks at the layer's input or output, asked as `nn.Module.__call__` does."""
    return bool(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or nn_module._has_any_global_hook()
    )


def _input_fits(x: Tensor) -> bool:
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in DTYPES
        and x.dim() == 4
        and 0 < x.shape[1] <= MAX_CHANNELS
        # PyTorch refuses one value for each channel
        and x.numel() > x.shape[1]
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def _norm_fits(norm: Any, x: Tensor) -> bool:
    """Whether `norm` uses and tracks the batch's statistics, and all its tensors are float32."""
    if not norm.training or norm.momentum is None:
        return False
    return all(
        values is not None
        and values.dtype == torch.float32
        and values.device == x.device
        and values.shape == x.shape[1:2]
        and values.is_contiguous()
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )


def relu_norm_dropout(x: Tensor, norm: nn.BatchNorm2d, p: float) -> Tensor:
    """Apply ReLU, `norm` in training and dropout of rate p to x (N, C, H, W).

    Moves the running statistics. The mask comes from one draw of PyTorch's generator and the rate
    is exact to 2^-32. The result does not depend on the number of threads.
    """
    y, mean, var = _ReluNormDropout.apply(x, norm.weight, norm.bias, norm.eps, p)
    rows = x.numel() // x.shape[1]
    _track(norm, mean, var * (rows / (rows - 1)))
    return y


@torch.no_grad()
def _track(norm: Any, mean: Tensor, unbiased_var: Tensor) -> None:
    """Move the running statistics of `norm`, which has some, as `_norm_fits` has seen."""
    norm.num_batches_tracked.add_(1)
    _move(norm.running_mean, mean, norm.momentum)
    _move(norm.running_var, unbiased_var, norm.momentum)


def _move(average: Tensor, values: Tensor, momentum: float) -> None:
    # `lerp_` would make NaN of an infinity that is there already
    average.mul_(1 - momentum).add_(values.float(), alpha=momentum)


class _ReluNormDropout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, p: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows, channels = x.numel() // x.shape[1], x.shape[1]
        drop = round(p * BIT_VALUES)
        seed = int(torch.empty((), dtype=torch.int64).random_()) if drop else 0
        scale = BIT_VALUES / (BIT_VALUES - drop)
        ctx.shape = Shape(rows, seed, channels, drop, scale, epsilon)
        y = torch.empty_like(x)
        mean, var = torch.empty(2, channels, dtype=torch.float64)
        kept = torch.empty_like(x, dtype=torch.int16) if drop else None
        _call("forward", ctx.shape, x, weight, bias, y, kept, mean, var)
        ctx.save_for_backward(x, weight, mean, var, kept)
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, kept = ctx.saved_tensors
        # create_graph=True: the gradients are to be differentiated again, which the kernel cannot
        if torch.is_grad_enabled():
            scaled = dy if kept is None else dy * kept * ctx.shape.scale
            return *_gradients_with_graph(x, weight, scaled, ctx.shape.epsilon), None, None
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        _call("backward", ctx.shape, x, weight, mean, var, kept, dy, dx, dweight, dbias)
        return dx, dweight, dbias, None, None


def _gradients_with_graph(
    x: Tensor, weight: Tensor, dy: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients at x, weight and bias, computed by operators that autograd records."""
    activated, relu_backward = backprop.relu(x.float())
    bias = torch.zeros_like(weight)
    _, norm_backward = backprop.normalise_by_batch(activated, weight, bias, epsilon)
    dactivated, dweight, dbias = norm_backward(dy.float())
    (dx,) = relu_backward(dactivated)
    return dx.to(x.dtype), dweight, dbias


def _call(name: str, shape: Shape, x: Tensor, *tensors: Tensor | None) -> None:
    """Call a function of the kernel that is built for the dtype of x."""
    scratch = torch.empty(CHUNKS, 2, shape.channels, dtype=torch.float64)
    addresses = []
    for tensor in (x, *tensors, scratch):
        address = None if tensor is None else tensor.data_ptr()
        addresses.append(ctypes.c_void_p(address))
    library = kernel(x.dtype)
    getattr(library, name)(ctypes.byref(shape), *addresses)
