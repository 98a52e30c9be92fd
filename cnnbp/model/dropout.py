"""Dropout at memory speed: PyTorch's own is serial on many processors."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbp.model.eager import runs_eagerly

LANE_VALUES = 2**16


class Dropout(nn.Dropout):
    """Dropout with masks from raw random bits on the CPU, and PyTorch's everywhere else.

    The rate is rounded to a multiple of 1/65,536. Kept elements are scaled by the inverse of that
    rate's keep probability, so that the expectation is exact (Srivastava et al., 2014, section 4,
    in its inverted form).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map x, of any shape and floating dtype, to the same shape, dtype and memory format."""
        # TorchScript compiles the first branch alone: it cannot compile what `dropout` does
        if torch.jit.is_scripting():
            return F.dropout(x, self.p, self.training)
        else:
            if self.training and x.device.type == "cpu" and runs_eagerly():
                return dropout(x, self.p)
            return F.dropout(x, self.p, self.training)


def dropout(x: Tensor, p: float) -> Tensor:
    """Drop each element of x, on the CPU, with probability p, and scale the others."""
    drops = round(p * LANE_VALUES)
    if not 0 < drops < LANE_VALUES:
        return F.dropout(x, p)
    kept = keep_mask(x, drops)
    scale = LANE_VALUES / (LANE_VALUES - drops)
    if x.dtype in (torch.float32, torch.float64):
        return x * kept.mul_(scale)
    # in 16 bits the scale itself would be rounded, by up to 0.2 %
    return x * kept * scale


def keep_mask(x: Tensor, drops: int) -> Tensor:
    """Draw a mask of zeros and ones like x; zeros have probability `drops` / 65,536.

    Each raw 64-bit word of PyTorch's generator decides on four elements, one for each 16-bit lane:
    PyTorch's Bernoulli kernel is serial on many processors and would take as long as the rest of
    the network. The mask has the dtype of x because a product of equal dtypes is vectorised and one
    with booleans is not.
    """
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    lanes = words.view(torch.int16)[: x.numel()]
    kept = torch.empty_like(x)
    # in the order of memory, whatever the memory format
    flat = kept.as_strided((x.numel(),), (1,))
    torch.ge(lanes, drops - LANE_VALUES // 2, out=flat)
    return kept
