"""ReLU, batch normalisation and dropout in two passes over memory each way: a C kernel, built at its first use."""

import ctypes
import hashlib
import logging
import os
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from cnnbp.errors import UserError
from cnnbp.files import replacing

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = "-O3 -march=native -fno-math-errno -fno-trapping-math -fopenmp -shared -fPIC"
DTYPES = {torch.float32: "", torch.bfloat16: "-DBFLOAT16"}
MAX_CHANNELS, CHUNKS = 512, 64  # as in the source
BIT_VALUES = 2**32


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
    """Load the kernel, built for this processor and kept in the user's cache; None without a C compiler and OpenMP."""
    compiler, flags = os.environ.get("CC", "cc"), f"{FLAGS} {DTYPES[dtype]}"
    parts = (SOURCE.read_text(), flags, compiler, repr(torch.cpu.get_capabilities()))
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    try:
        library = (
            Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            / "cnnbp"
            / f"fused-{name}.so"
        )
        if not library.exists():
            with tempfile.TemporaryDirectory() as directory:
                built = Path(directory) / library.name
                command = [
                    *shlex.split(compiler),
                    *flags.split(),
                    str(SOURCE),
                    "-o",
                    str(built),
                    "-lm",
                ]
                subprocess.run(command, check=True, capture_output=True)
                library.parent.mkdir(parents=True, exist_ok=True)
                with replacing(library, "wb") as file:
                    file.write(built.read_bytes())
        return ctypes.CDLL(str(library))
    except (OSError, RuntimeError, UserError, subprocess.CalledProcessError) as error:
        logging.getLogger(__name__).info(
            "torch's own layers are used, which is slower: no C kernel, since %s", error
        )
        return None


def fits(x: Tensor) -> bool:
    """Whether the kernel can take x (N, C, H, W): float32 or bfloat16 on the CPU, channels-last."""
    return (
        x.device.type == "cpu"
        and x.dtype in DTYPES
        and x.numel() > 0
        and x.shape[1] <= MAX_CHANNELS
        and x.is_contiguous(memory_format=torch.channels_last)
        and kernel(x.dtype) is not None
    )


def relu_norm_dropout(x: Tensor, norm: nn.BatchNorm2d, p: float) -> Tensor:
    """Map x (N, C, H, W) as ReLU, `norm` in training and dropout of rate p would; moves the running statistics.

    The mask comes from one draw of torch's generator, the rate is exact to 2^-32; sums over N, H and W are exact to
    float32's last digits, and independent of the number of threads.
    """
    y, mean, var = _Tail.apply(x, norm.weight, norm.bias, norm.eps, round(p * BIT_VALUES))
    with torch.no_grad():
        rows = x.numel() // x.shape[1]
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean.float(), norm.momentum)
        norm.running_var.lerp_((var * (rows / max(rows - 1, 1))).float(), norm.momentum)
    return y


class _Tail(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, epsilon, drop):
        channels = x.shape[1]
        seed = int(torch.empty((), dtype=torch.int64).random_()) if drop else 0
        ctx.shape = Shape(
            x.numel() // channels, seed, channels, drop, BIT_VALUES / (BIT_VALUES - drop), epsilon
        )
        y, (mean, var) = torch.empty_like(x), torch.empty(2, channels, dtype=torch.float64)
        kept = torch.empty_like(x, dtype=torch.int16) if drop else None
        _call("forward", ctx.shape, x, weight, bias, y, kept, mean, var)
        ctx.save_for_backward(x, weight, mean, var, kept)
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx, dy, *_):
        x, weight, mean, var, kept = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        _call("backward", ctx.shape, x, weight, mean, var, kept, dy, dx, dweight, dbias)
        return dx, dweight, dbias, None, None


def _call(name: str, shape: Shape, x: Tensor, *tensors: Tensor | None) -> None:
    scratch = torch.empty(CHUNKS, 2, shape.channels, dtype=torch.float64)
    pointers = (
        ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
        for tensor in (x, *tensors, scratch)
    )
    getattr(kernel(x.dtype), name)(ctypes.byref(shape), *pointers)
