"""Components that the network needs and torch does not have at this speed."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LANE_VALUES = 2**16


class Dropout(nn.Dropout):
    """Dropout at memory speed on the CPU; elsewhere, in evaluation and for p = 0 it is torch's.

    The rate is exact to 1/65,536 and kept elements are scaled by the inverse of the true keep probability,
    so that the expectation is exact (Srivastava et al., 2014, section 4, in its inverted form).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map x, of any shape and floating dtype, to the same shape, dtype and memory format."""
        if torch.jit.is_scripting():
            return F.dropout(x, self.p, self.training)
        else:
            fast = self.training and x.device.type == "cpu"
            return dropout(x, self.p) if fast else F.dropout(x, self.p, self.training)


def dropout(x: Tensor, p: float) -> Tensor:
    """Drop elements of x, on the CPU, with probability p, and scale the others."""
    drops = round(p * LANE_VALUES)
    if not 0 < drops < LANE_VALUES:
        return F.dropout(x, p)
    kept, scale = keep_mask(x, drops), LANE_VALUES / (LANE_VALUES - drops)
    if x.dtype in (torch.float32, torch.float64):
        return x * kept.mul_(scale)
    return x * kept * scale  # in 16 bits the scale itself would be rounded, by up to 0.2 %


def keep_mask(x: Tensor, drops: int) -> Tensor:
    """Draw a mask of zeros and ones like x, which drops each element with probability `drops` / 65,536.

    Each raw 64-bit word of torch's generator decides on four elements, one for each 16-bit lane: torch's own
    Bernoulli kernel is serial on many processors and would take as long as the rest of the network. The mask has
    the dtype of x because a product of equal dtypes is vectorised and one with booleans is not.
    """
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    lanes = words.view(torch.int16)[: x.numel()]
    kept = torch.empty_like(x, requires_grad=False)
    torch.ge(lanes, drops - LANE_VALUES // 2, out=kept.as_strided((x.numel(),), (1,)))
    return kept
