"""Average pooling over windows of 2 x 2 on the CPU, for maps in either layout.

torch's own is slow on contiguous maps, and its backward pass keeps the input, fills the gradient
with zeros and adds to it; here both passes read and write each value once and nothing is kept.

In memory a map is pairs of rows, 2 x [width], each pair of which becomes one row [width / 2];
``inner`` values lie side by side at each place: one, or all channels if they are innermost.
"""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from snnrun.kernels.compiled.machine_code import compiled
from snnrun.kernels.compiled.rows import empty, load, memory, store
from snnrun.kernels.compiled.threads import spread

BLOCK = 2048  # values that are read together: long loops, within the first-level cache


def halve(x: Tensor) -> Tensor:
    """Means of the 2 x 2 windows of the maps ``x`` [..., C, H, W], H and W even: half the size.

    Maps that are not contiguous must have their channels innermost; the result is laid out alike.
    """
    return cast(Tensor, _Halve.apply(x))


class _Halve(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        *outer, channels, height, width = x.shape
        ctx.inner = 1 if x.is_contiguous() else channels
        out = _maps((*outer, channels, height // 2, width // 2), ctx.inner, x.dtype)
        _run(_means, x, out, ctx.inner)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        *outer, channels, height, width = grad.shape
        out = _maps((*outer, channels, height * 2, width * 2), ctx.inner, grad.dtype)
        _run(_shares, out, grad / 4, ctx.inner)
        return out


def _maps(shape: tuple[int, ...], inner: int, dtype: torch.dtype) -> Tensor:
    if inner == 1:
        return empty(shape, dtype)
    *outer, channels, height, width = shape
    return empty((*outer, height, width, channels), dtype).movedim(-1, -3)


def _run(kernel: Any, whole: Tensor, half: Tensor, inner: int) -> None:
    """Call the kernel on the memory of maps and of maps of half their size, range by range."""
    width = whole.shape[-1] * inner
    flat, small = (memory(_innermost(t, inner)) for t in (whole, half))
    computing = np.empty(1, np.float64 if whole.dtype == torch.float64 else np.float32)

    def work(lo: int, hi: int) -> None:
        pairs, rows = (
            flat[2 * width * lo : 2 * width * hi],
            small[width // 2 * lo : width // 2 * hi],
        )
        kernel(pairs, rows, width, inner, computing)

    spread(flat.size // (2 * width), work)


def _innermost(x: Tensor, inner: int) -> Tensor:
    x = x.detach()
    return (x if inner == 1 else x.movedim(-3, -1)).contiguous().view(-1)


@compiled
def _means(pairs: np.ndarray, rows: np.ndarray, width: int, inner: int, like: np.ndarray) -> None:
    size = max(1, BLOCK // (2 * width)) * 2 * width
    values, sums = np.empty(size, like.dtype), np.empty(size // 2, like.dtype)
    means = np.empty(size // 4, like.dtype)
    for start in range(0, pairs.size, size):
        stop = min(start + size, pairs.size)
        half, quarter = (stop - start) // 2, (stop - start) // 4
        load(pairs, start, stop - start, values)
        _add_pairs(values[: stop - start], width, sums)
        if inner == 1:
            _add_neighbours(sums[:half], means)
        else:
            _add_pairs(sums[:half], inner, means)
        _quarter(means[:quarter])
        store(means, rows, start // 4, quarter)


@compiled
def _add_pairs(x: np.ndarray, width: int, out: np.ndarray) -> None:
    """Add every second group of ``width`` values to the one before it."""
    for i in range(x.size // (2 * width)):
        for j in range(width):
            out[i * width + j] = x[2 * i * width + j] + x[(2 * i + 1) * width + j]


@compiled
def _add_neighbours(x: np.ndarray, out: np.ndarray) -> None:
    for j in range(x.size // 2):
        out[j] = x[2 * j] + x[2 * j + 1]


@compiled
def _quarter(x: np.ndarray) -> None:
    share = x.dtype.type(0.25)
    for j in range(x.size):
        x[j] *= share


@compiled
def _shares(pairs: np.ndarray, rows: np.ndarray, width: int, inner: int, like: np.ndarray) -> None:
    size = max(1, BLOCK // (2 * width)) * 2 * width
    wide = np.empty(size // 2, rows.dtype)
    for start in range(0, pairs.size, size):
        stop = min(start + size, pairs.size)
        half, quarter = (stop - start) // 2, (stop - start) // 4
        small = rows[start // 4 : start // 4 + quarter]
        if inner == 1:
            _double(small, wide)
        else:
            _repeat(small, inner, wide)
        _repeat(wide[:half], width, pairs[start:stop])


@compiled
def _double(x: np.ndarray, out: np.ndarray) -> None:
    for j in range(x.size):
        out[2 * j] = x[j]
        out[2 * j + 1] = x[j]


@compiled
def _repeat(x: np.ndarray, width: int, out: np.ndarray) -> None:
    """Write every group of ``width`` values twice."""
    for i in range(x.size // width):
        for j in range(width):
            out[2 * i * width + j] = x[i * width + j]
            out[(2 * i + 1) * width + j] = x[i * width + j]
