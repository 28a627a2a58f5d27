"""Weight standardisation on the CPU, each pass one sweep over the weights.

torch sweeps over them once for each of some twenty operations, which at small batches is a fifth of
a training step. A row is all weights that reach one output, in whatever order they lie in memory.
"""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from snnrun.kernels.compiled.machine_code import compiled, summed
from snnrun.kernels.compiled.rows import laid_out
from snnrun.kernels.compiled.threads import spread


def standardise(weight: Tensor, gain: Tensor, eps: float) -> Tensor:
    """``gain * (W - mean) / sqrt(var * n + eps)`` for rows W [n >= 2] of ``weight`` [out, ...].

    The weight, of fp32 or fp64, is contiguous in the layout of its own; ``gain`` is [out] and
    ``var`` the unbiased variance of a row.
    """
    return cast(Tensor, _Standardise.apply(weight, gain, eps))


class _Standardise(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, gain: Tensor, eps: float) -> Tensor:
        out, mean, scale = (torch.empty_like(t) for t in (weight, gain, gain))
        rows, results = _rows(weight), _rows(out)
        of_rows = [t.detach().numpy() for t in (gain, mean, scale)]
        spread(len(rows), lambda lo, hi: _forward(rows, *of_rows, eps, results, lo, hi))
        ctx.save_for_backward(weight, gain, mean, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        weight, gain, mean, scale = ctx.saved_tensors
        above = laid_out(grad, weight)
        out, grad_gain = torch.empty_like(weight), torch.empty_like(gain)
        rows, grads, results = _rows(weight), _rows(above), _rows(out)
        of_rows = [t.detach().numpy() for t in (gain, mean, scale, grad_gain)]
        spread(len(rows), lambda lo, hi: _backward(rows, grads, *of_rows, results, lo, hi))
        return out, grad_gain, None


def _rows(x: Tensor) -> np.ndarray:
    """The memory of x [out, ...] as one row for each output."""
    x = x.detach()
    return (x if x.is_contiguous() else x.permute(0, 2, 3, 1)).numpy().reshape(len(x), -1)


@compiled
def _forward(
    rows: np.ndarray,
    gain: np.ndarray,
    mean: np.ndarray,
    scale: np.ndarray,
    eps: float,
    out: np.ndarray,
    lo: int,
    hi: int,
) -> None:
    n = rows.shape[1]
    for i in range(lo, hi):
        mean[i] = _sum(rows[i]) / n
        scale[i] = 1 / np.sqrt(_along(rows[i], mean[i], rows[i]) * n / (n - 1) + eps)
        _centre(rows[i], mean[i], gain[i] * scale[i], out[i])


@compiled
def _backward(
    rows: np.ndarray,
    grads: np.ndarray,
    gain: np.ndarray,
    mean: np.ndarray,
    scale: np.ndarray,
    grad_gain: np.ndarray,
    out: np.ndarray,
    lo: int,
    hi: int,
) -> None:
    """With c = W - mean, r the scale and G the gradient above, centred, too.

    dL/dW = gain r (G - c (G·c) r² n / (n - 1)) and dL/dgain = r G·c.
    """
    n = rows.shape[1]
    for i in range(lo, hi):
        along = _along(rows[i], mean[i], grads[i])
        grad_gain[i] = along * scale[i]
        _centre(grads[i], rows.dtype.type(_sum(grads[i]) / n), gain[i] * scale[i], out[i])
        pull = gain[i] * scale[i] ** 3 * along * n / (n - 1)
        _pull(rows[i], mean[i], rows.dtype.type(pull), out[i])


@summed
def _sum(x: np.ndarray) -> float:
    total = 0.0
    for j in range(x.size):
        total += x[j]
    return total


@summed
def _along(x: np.ndarray, mean: float, y: np.ndarray) -> float:
    """Product of x - mean with y."""
    total = 0.0
    for j in range(x.size):
        total += (x[j] - mean) * y[j]
    return total


@compiled
def _centre(x: np.ndarray, mean: float, factor: float, out: np.ndarray) -> None:
    for j in range(x.size):
        out[j] = (x[j] - mean) * factor


@compiled
def _pull(x: np.ndarray, mean: float, factor: float, out: np.ndarray) -> None:
    for j in range(x.size):
        out[j] -= (x[j] - mean) * factor
