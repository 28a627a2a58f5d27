"""Fully connected ops on spikes: rows of weights are added up where a unit fired.

Of a product [R, K] x [K, N] whose first factor is spikes, each row is a sum of rows of the second;
so it is with the gradient to the weights, whose first factor is the spikes transposed.
"""

from typing import Any, cast

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from snnrun.kernels.machine_code import compiled
from snnrun.kernels.ones import Ones, by_column, by_row
from snnrun.kernels.rows import empty
from snnrun.kernels.threads import spread
from snnrun.kernels.tiles import COLUMNS, add_rows, copy_rows, new_tile


def spike_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As `kernels.weighted.linear`, for ``x`` of fp32, contiguous and on the CPU."""
    ones = by_row(x.detach()) if len(weight) >= COLUMNS else None
    if ones is None:
        return F.linear(x, weight, bias)
    return cast(Tensor, _SpikeLinear.apply(x, ones, weight, bias))


class _SpikeLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ones: Ones, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        rows = ones.times_amplitude(weight.detach()).t()
        return _product(ones, rows, weight.new_zeros(len(weight)) if bias is None else bias)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        to_x, _, to_weight, to_bias = ctx.needs_input_grad
        return (
            grad @ weight if to_x else None,
            None,
            _weight_gradient(by_column(x), grad).contiguous() if to_weight else None,
            grad.sum(0) if to_bias else None,
        )


def spike_weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """As `kernels.weighted.weight_gradient`, for ``x`` of 0 and an amplitude, fp32, on the CPU."""
    ones = by_column(x)
    few = ones.few(x.numel()) and grad.shape[1] >= COLUMNS
    return _weight_gradient(ones, grad) if few else grad.t() @ x


def _weight_gradient(ones: Ones, grad: Tensor) -> Tensor:
    return ones.times_amplitude(_product(ones, grad, grad.new_zeros(grad.shape[1]))).t()


def _product(ones: Ones, matrix: Tensor, begin: Tensor) -> Tensor:
    """``begin`` [N] plus the rows of the matrix [summed, N] at the ones, for each row of these."""
    rows, width = ones.start.shape[1] - 1, matrix.shape[1]
    out = empty((rows, width), matrix.dtype)
    lists = ones[:3]
    flat = [t.detach().contiguous().numpy().reshape(-1) for t in (matrix, begin, out)]
    spread(rows, lambda lo, hi: _add_up(*lists, *flat, lo, hi))
    return out


@compiled
def _add_up(
    places: np.ndarray,
    start: np.ndarray,
    size: int,
    matrix: np.ndarray,
    begin: np.ndarray,
    out: np.ndarray,
    lo: int,
    hi: int,
) -> None:
    width, flat = begin.size, places.reshape(-1)
    summed = matrix.size // width
    tile = new_tile(size, matrix)
    for column in range(0, width, COLUMNS):
        c = min(column, width - COLUMNS)  # the last columns are summed with some before them
        for block in range(start.shape[0]):
            room, first = block * places.shape[1], block * size
            copy_rows(matrix, first * width + c, width, tile, min(size, summed - first))
            for row in range(lo, hi):
                at = row * width + c
                source, place = (out, at) if block else (begin, c)
                one, last = room + start[block, row], room + start[block, row + 1]
                add_rows(flat, one, last, tile, source, place, out, at)  # type: ignore[call-arg, arg-type]  # as compiled
