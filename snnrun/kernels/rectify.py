"""Rectified values and the largest of them on the CPU, in one sweep over memory."""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from snnrun.kernels.compiled.machine_code import compiled
from snnrun.kernels.compiled.rows import Place, empty, flat
from snnrun.kernels.compiled.threads import split

BLOCK = 512  # values that are compared at once


def rectify(x: Tensor) -> tuple[Tensor, Tensor]:
    """``relu(x)`` of a contiguous tensor of fp32 or fp64, and its largest value [].

    What is not a number stays so, and is the largest of all. The largest takes no gradient.
    """
    return cast(tuple[Tensor, Tensor], _Rectify.apply(x))


class _Rectify(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        out = empty(x.shape, x.dtype)
        values, results = flat(x), flat(out)
        bits = results.view(np.int32 if x.dtype == torch.float32 else np.int64)
        found = split(x.numel(), lambda lo, hi: _rectify(values, results, bits, lo, hi))
        largest = torch.from_numpy(np.array(max(found), bits.dtype).view(results.dtype))
        ctx.save_for_backward(out)
        ctx.mark_non_differentiable(largest)
        return out, largest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        return cast(Tensor, torch.ops.aten.threshold_backward(grad, out, 0))


@compiled
def _rectify(x: np.ndarray, out: np.ndarray, bits: np.ndarray, lo: int, hi: int) -> int:
    """Also return the largest value, as bits."""
    largest = bits.dtype.type(0)
    for start in range(lo, hi, BLOCK):
        n = min(BLOCK, hi - start)
        _positive(x, out, start, n)
        largest = max(largest, _most(bits, start, n))
    return largest


@compiled
def _positive(x: np.ndarray, out: np.ndarray, at: Place, n: Place) -> None:
    at, n = np.uint64(at), np.uint64(n)
    zero = x.dtype.type(0)
    for j in range(n):
        out[at + j] = zero if x[at + j] <= zero else x[at + j]


@compiled
def _most(bits: np.ndarray, at: Place, n: Place) -> int:
    """The largest of values that are positive or no numbers: in the order of their other bits."""
    at, n = np.uint64(at), np.uint64(n)
    largest, magnitude = bits.dtype.type(0), np.iinfo(bits.dtype).max
    for j in range(n):
        largest = max(largest, bits[at + j] & bits.dtype.type(magnitude))
    return largest
