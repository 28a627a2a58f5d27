"""Compiled parts of one step of LIF units on the CPU, for methods that learn step by step.

What takes torch a pass over memory per operation takes one in all; units are cut into blocks that
stay in the first-level cache.
"""

import numpy as np
import torch
from torch import Tensor

from snnrun.kernels.cpu import BLOCK, split
from snnrun.kernels.slopes import CODES, compiled, cut, slopes
from snnrun.neurons.surrogate import Surrogate


def through_spikes(grad: Tensor, u: Tensor, threshold: float, surrogate: Surrogate) -> Tensor:
    """``grad * h(u - threshold)``: from the gradient of spikes to that of the potentials ``u``."""
    out = torch.empty_like(u, memory_format=torch.contiguous_format)
    potentials, above, below = (_flat(t) for t in (u, grad, out))
    cutoff = np.inf if surrogate.cutoff is None else surrogate.cutoff
    constants = tuple(map(potentials.dtype.type, (threshold, surrogate.width, cutoff)))
    code = CODES[surrogate.name]
    split(u.numel(), lambda lo, hi: _through(potentials, above, below, constants, code, lo, hi))
    return out


def _flat(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy().reshape(-1)


@compiled
def _through(
    u: np.ndarray,
    grad: np.ndarray,
    out: np.ndarray,
    constants: tuple[float, ...],
    code: int,
    lo: int,
    hi: int,
) -> None:
    threshold, width, cutoff = constants
    distance, slope = np.empty(BLOCK, u.dtype), np.empty(BLOCK, u.dtype)
    for start in range(lo, hi, BLOCK):
        stop = min(start + BLOCK, hi)
        x = distance[: stop - start]
        _less(u[start:stop], threshold, x)
        slopes(code, x, width, slope)
        if cutoff < np.inf:
            cut(x, cutoff, slope)
        _times(grad[start:stop], slope, out[start:stop])


@compiled
def _less(x: np.ndarray, subtrahend: float, out: np.ndarray) -> None:
    for j in range(x.size):
        out[j] = x[j] - subtrahend


@compiled
def _times(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    for j in range(x.size):
        out[j] = x[j] * y[j]
