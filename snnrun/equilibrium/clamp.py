"""The clamp that ties rates to currents, a = clamp(z / c, 0, 1), and what passes it backwards.

All tensors are [1, B, ...].
"""

import torch
from torch import Tensor

from snnrun.kernels.compiled.compiling import compiles


def settled(current: Tensor, subtracted: float) -> Tensor:
    """Rates at constant currents z, for c ``subtracted``."""
    if _compiles(current):
        from snnrun.kernels import clamp  # imports the compiler

        return clamp.settled(current, subtracted)
    return (current / subtracted).clamp_(0, 1)


def slopes(current: Tensor, subtracted: float) -> Tensor:
    """Whether the clamp has slope 1 / c rather than 0 at the currents, also at both ends."""
    if _compiles(current):
        from snnrun.kernels import clamp

        return clamp.within(current, 0, subtracted)
    return (current >= 0) & (current <= subtracted)


def masked(grad: Tensor, mask: Tensor, subtracted: float, scale: float | Tensor) -> Tensor:
    """``mask * grad / subtracted / scale``: a gradient to rates, as one to currents."""
    if _compiles(grad):
        from snnrun.kernels import clamp

        return clamp.masked(grad, mask, subtracted, float(scale))
    return (mask * grad).div_(subtracted).div_(scale)


def _compiles(x: Tensor) -> bool:
    return compiles(x[0], torch.float32, torch.float64)
