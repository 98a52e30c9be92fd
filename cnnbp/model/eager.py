"""Whether PyTorch computes at once, so that code may read a tensor's memory by itself."""

import torch
from torch.autograd import forward_ad


def runs_eagerly() -> bool:
    """Whether operators run as they are called and are recorded for the backward pass alone.

    Tracing, compiling and exporting, `torch.func`, forward-mode differentiation and dispatch modes
    see what operators do, and nothing else: what reads memory by itself would be missing from a
    graph, or find no values to read.
    """
    return not (
        torch.jit.is_tracing()
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
    )
