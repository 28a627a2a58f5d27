"""Fully connected ops on spikes: rows of weights are added up where a unit fired.

Of a product [R, K] x [K, N] whose first factor is spikes, each row is a sum of rows of the second;
so it is with the gradient to the weights, whose first factor is the spikes transposed.
"""

from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from snnrun.kernels.compiled.compiling import computed_in
from snnrun.kernels.compiled.machine_code import compiled
from snnrun.kernels.compiled.rows import empty, memory
from snnrun.kernels.compiled.threads import spread
from snnrun.kernels.products.ones import DENSEST, Ones, by_column, by_row
from snnrun.kernels.products.tiles import (
    COLUMNS,
    add_rows,
    copy_rows,
    new_tile,
    turn_in,
    turn_out,
    write_row,
)


def spike_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As `weighted.linear`, for ``x`` of fp32 or bf16, contiguous and on the CPU."""
    dtype = computed_in(weight)
    ones = by_row(x.detach(), DENSEST[dtype]) if len(weight) >= COLUMNS else None
    if ones is None:
        return F.linear(x, weight, bias)
    return cast(Tensor, _SpikeLinear.apply(x, ones, weight, bias, dtype))


class _SpikeLinear(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, ones: Ones, weight: Tensor, bias: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        out = empty((len(x), len(weight)), dtype)
        _add_up(ones, ones.times_amplitude(weight).t(), bias, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        to_x, _, to_weight, to_bias, _ = ctx.needs_input_grad
        return (
            (grad @ weight.to(grad.dtype)).to(x.dtype) if to_x else None,
            None,
            _weight_gradient(by_column(x), grad, torch.empty_like(weight)) if to_weight else None,
            grad.sum(0).to(weight.dtype) if to_bias else None,
            None,
        )


def spike_weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """As `weighted.weight_gradient`, for ``x`` of 0 and an amplitude, fp32, on the CPU."""
    ones = by_column(x)
    if not ones.few(x.numel()) or grad.shape[1] < COLUMNS:
        return grad.t() @ x
    return _weight_gradient(ones, grad, empty((x.shape[1], grad.shape[1]), grad.dtype).t())


def _weight_gradient(ones: Ones, grad: Tensor, out: Tensor) -> Tensor:
    _add_up(ones, grad, None, out.t())
    return ones.times_amplitude(out)


def _add_up(ones: Ones, matrix: Tensor, begin: Tensor | None, out: Tensor) -> None:
    """Into ``out`` [R, N] ``begin`` [N] plus the rows of the matrix [summed, N] at the ones.

    Summed in fp32, whatever the types of the matrix and of the result. Both may lie transposed.
    """
    lists, summed = ones[:3], len(matrix)
    begin = torch.zeros(matrix.shape[1]) if begin is None else begin.detach().float().contiguous()
    values, turned = _as_it_lies(matrix)
    results, out_turned = _as_it_lies(out)
    flat = (values, begin.numpy(), results)
    spread(len(out), lambda lo, hi: _add_rows(*lists, summed, *flat, turned, out_turned, lo, hi))


def _as_it_lies(x: Tensor) -> tuple[np.ndarray, bool]:
    """The memory of a matrix, and whether it is that of the transposed one."""
    turned = x.t().is_contiguous() and not x.is_contiguous()
    return memory((x.t() if turned else x.contiguous()).detach()).reshape(-1), turned


@compiled
def _add_rows(
    places: np.ndarray,
    start: np.ndarray,
    size: int,
    summed: int,
    matrix: np.ndarray,
    begin: np.ndarray,
    out: np.ndarray,
    turned: bool,
    out_turned: bool,
    lo: int,
    hi: int,
) -> None:
    width, rows, flat = begin.size, start.shape[1] - 1, places.reshape(-1)
    tile, sums = new_tile(size, begin), new_tile(hi - lo, begin)
    for column in range(0, width, COLUMNS):
        c = min(column, width - COLUMNS)  # the last columns are summed with some before them
        for block in range(start.shape[0]):
            room, first = block * places.shape[1], block * size
            n = min(size, summed - first)
            if turned:
                turn_in(matrix, c * summed + first, summed, tile, n)
            else:
                copy_rows(matrix, first * width + c, width, tile, n)
            source, begun, step = (sums, 0, COLUMNS) if block else (begin, c, 0)
            for row in range(lo, hi):
                at = row - lo
                one, last = room + start[block, row], room + start[block, row + 1]
                add_rows(flat, one, last, tile, source, begun + at * step, sums, at * COLUMNS)  # type: ignore[call-arg, arg-type]  # as compiled
        if out_turned:
            turn_out(sums, hi - lo, out, c * rows + lo, rows)
        else:
            for row in range(lo, hi):
                write_row(sums, row - lo, out, row * width + c)
