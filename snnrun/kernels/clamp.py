"""Rates clamped to 0 .. 1 and the clamp's derivative, on the CPU, each one sweep over memory.

torch takes a sweep per operation, and a slow one for comparisons and for products with booleans.
Everything is rounded as there, so results are equal bit by bit.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnrun.kernels.compiled.machine_code import compiled
from snnrun.kernels.compiled.rows import Place, empty, flat, laid_out
from snnrun.kernels.compiled.threads import split


def settled(current: Tensor, subtracted: float) -> Tensor:
    """Rates ``clamp(current / subtracted, 0, 1)`` of a dense tensor of fp32 or fp64."""
    out = _like(current, current.dtype)
    return _run(_settle, out, (current,), (subtracted, 0, 1))


def within(x: Tensor, low: float, high: float) -> Tensor:
    """Whether ``low <= x <= high``, for a dense tensor of fp32 or fp64."""
    return _run(_within, _like(x, torch.bool), (x,), (low, high))


def masked(grad: Tensor, mask: Tensor, divisor: float, scale: float) -> Tensor:
    """``grad / divisor / scale`` where ``mask``, a boolean, is true, and 0 elsewhere.

    The gradient, of fp32 or fp64, is dense; the mask is laid out in any way.
    """
    out = _like(grad, grad.dtype)
    return _run(_mask, out, (grad, laid_out(mask, grad)), (divisor, scale))


def _like(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor with no values yet, of the shape and the layout of a dense one."""
    return empty((x.numel(),), dtype).as_strided(x.shape, x.stride())


def _run(
    kernel: Any, out: Tensor, values: tuple[Tensor, ...], constants: tuple[float, ...]
) -> Tensor:
    """Fill ``out`` with what the kernel makes of values in the same order in memory."""
    arrays = [flat(t) for t in (*values, out)]
    numbers = [arrays[0].dtype.type(c) for c in constants]
    split(out.numel(), lambda lo, hi: kernel(*arrays, *numbers, lo, hi))
    return out


@compiled
def _settle(
    x: np.ndarray, out: np.ndarray, c: float, zero: float, one: float, lo: Place, hi: Place
) -> None:
    lo, hi = np.uint64(lo), np.uint64(hi)
    for j in range(lo, hi):
        rate = x[j] / c
        out[j] = zero if rate < zero else (one if rate > one else rate)


@compiled
def _within(x: np.ndarray, out: np.ndarray, low: float, high: float, lo: Place, hi: Place) -> None:
    lo, hi = np.uint64(lo), np.uint64(hi)
    for j in range(lo, hi):
        out[j] = (x[j] >= low) & (x[j] <= high)


@compiled
def _mask(
    grad: np.ndarray,
    mask: np.ndarray,
    out: np.ndarray,
    divisor: float,
    scale: float,
    lo: Place,
    hi: Place,
) -> None:
    lo, hi = np.uint64(lo), np.uint64(hi)
    for j in range(lo, hi):
        out[j] = (grad[j] if mask[j] else grad.dtype.type(0)) / divisor / scale
