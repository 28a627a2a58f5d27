"""Solvers of v = J^T v + g, the linear system behind an implicit gradient."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from snnrun import ranks

Map = Callable[[Tensor], Tensor]


@dataclass(kw_only=True)
class Solution:
    """Where a solver ended: |J^T v + g - v| / |g| after ``rounds`` products with J^T."""

    value: Tensor
    residual: float
    rounds: int


def fixed_point(
    transposed: Map, g: Tensor, *, rounds: int, tolerance: float, damping: float = 0.0
) -> Solution:
    """Iterate v <- v + (1 - damping) (J^T v + g - v) from v = g.

    Converges at the rate of the contraction. Its limit does not depend on the damping: what is
    averaged is v with J^T v + g, not v with the residual, which would solve (2 I - J^T) v = g as
    the public code of IDE does.

    Args:
        transposed: v -> J^T v.
        g: right side, any shape; in its norm the rows of all ranks count.
        rounds: most products with J^T.
        tolerance: relative residual at which to stop.
        damping: share of the old v that stays, 0 to 1.
    """
    value, size = g, _size(g)
    done = 0
    while True:
        error = transposed(value) + g - value
        residual = (ranks.norm(error) / size).item()
        done += 1
        if residual <= tolerance or done == rounds:
            return Solution(value=value, residual=residual, rounds=done)
        value = value + (1 - damping) * error


def broyden(transposed: Map, g: Tensor, *, rounds: int, tolerance: float) -> Solution:
    """Broyden's first method, each sample of ``g`` [1, B, ...] with an inverse Jacobian of its own.

    The inverse is -I plus one rank-one term per round, so memory grows by two tensors of the size
    of ``g`` each. Returns the iterate of the least residual. Arguments as in `fixed_point`.
    """
    g_rows = g.flatten(2)[0]
    size = _size(g)
    columns: list[Tensor] = []
    rows: list[Tensor] = []

    def error_at(v: Tensor) -> Tensor:
        return (transposed(v.view_as(g)) + g).flatten(2)[0] - v

    value, error = torch.zeros_like(g_rows), g_rows
    best = Solution(value=value.view_as(g), residual=1.0, rounds=0)
    for done in range(1, rounds + 1):
        step = error - _weighted(columns, rows, error)
        value = value + step
        before, error = error, error_at(value)
        residual = (ranks.norm(error) / size).item()
        if residual < best.residual:
            best = Solution(value=value.view_as(g), residual=residual, rounds=done)
        if residual <= tolerance:
            break
        change = error - before
        inverse_change = _weighted(columns, rows, change) - change
        row = _weighted(rows, columns, step) - step
        scale = (row * change).sum(1, keepdim=True)
        columns.append(torch.where(scale == 0, 0.0, (step - inverse_change) / scale))
        rows.append(row)
    return best


def _weighted(columns: list[Tensor], rows: list[Tensor], x: Tensor) -> Tensor:
    """Sum of columns_k (rows_k . x) per sample, all [B, d]."""
    total = torch.zeros_like(x)
    for column, row in zip(columns, rows, strict=True):
        total = total + column * (row * x).sum(1, keepdim=True)
    return total


def _size(g: Tensor) -> Tensor:
    """Norm of g, kept from zero so that g = 0 has residual 0."""
    return ranks.norm(g).clamp(min=torch.finfo(g.dtype).tiny)
