"""Products with spikes: where a unit fires a row of the other factor is added, none is multiplied.

Of a product [R, K] x [K, N] whose first factor is spikes, each row is a sum of rows of the second;
so it is with the gradient to the weights, whose first factor is the spikes transposed. The rows
that are added come from blocks of `BLOCK` by `COLUMNS` values, which stay in the cache closest to
the processor.
"""

from typing import Any, NamedTuple, cast

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from snnrun.kernels.add_rows import COLUMNS, add_rows
from snnrun.kernels.machine_code import compiled
from snnrun.kernels.rows import LINE, Place, ahead, empty
from snnrun.kernels.threads import spread

BLOCK = 160  # rows that are added up together; their indices fit into a byte
AHEAD = 8  # rows that are asked for before they are copied
DENSEST = 1 / 3  # share of ones from which a product of all values is as fast
ONE = np.float32(1).view(np.uint32)


class Ones(NamedTuple):
    """Where the values of a matrix are 1, by blocks of the dimension a product sums over.

    Attributes:
        places: uint8 [blocks, room] within the block, row after row of the product.
        start: int32 [blocks, rows + 1] where those of a row begin.
    """

    places: np.ndarray
    start: np.ndarray


def spike_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As `kernels.linear.linear`, for contiguous ``x`` of fp32 on the CPU, whatever its values."""
    ones = _ones(x.detach()) if len(weight) >= COLUMNS else None
    if ones is None:
        return F.linear(x, weight, bias)
    return cast(Tensor, _SpikeLinear.apply(x, ones, weight, bias))


class _SpikeLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ones: Ones, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(ones, weight.t(), weight.new_zeros(len(weight)) if bias is None else bias)

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
            _weight_gradient(_transposed(x), grad).contiguous() if to_weight else None,
            grad.sum(0) if to_bias else None,
        )


def spike_weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """As `kernels.linear.weight_gradient`, for ``x`` of zeros and ones of fp32 on the CPU."""
    ones = _transposed(x)
    few = ones.start[:, -1].sum() <= DENSEST * x.numel() and grad.shape[1] >= COLUMNS
    return _weight_gradient(ones, grad) if few else grad.t() @ x


def _weight_gradient(ones: Ones, grad: Tensor) -> Tensor:
    return _product(ones, grad, grad.new_zeros(grad.shape[1])).t()


def _ones(x: Tensor) -> Ones | None:
    """The ones of each row of x [R, K]; None where values are not 0 or 1, or too many are 1."""
    rows, columns = x.shape
    bits = _bits(x)
    ones = _room(rows, columns)
    most = int(DENSEST * x.numel())
    found = spread(len(ones.start), lambda lo, hi: _list_rows(bits, columns, *ones, most, lo, hi))
    return ones if sum(found) <= most else None


def _transposed(x: Tensor) -> Ones:
    """The ones of each column of spikes x [R, K]."""
    rows, columns = x.shape
    bits = _bits(x)
    ones = _room(columns, rows)
    spread(len(ones.start), lambda lo, hi: _list_columns(bits, rows, *ones, lo, hi))
    return ones


def _bits(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy().reshape(-1).view(np.uint32)


def _room(rows: int, summed: int) -> Ones:
    blocks = -(-summed // BLOCK)
    places = np.empty((blocks, rows * BLOCK), np.uint8)
    return Ones(places, np.empty((blocks, rows + 1), np.int32))


def _product(ones: Ones, matrix: Tensor, begin: Tensor) -> Tensor:
    """``begin`` [N] plus the rows of the matrix [summed, N] at the ones, for each row of these."""
    rows, width = ones.start.shape[1] - 1, matrix.shape[1]
    out = empty((rows, width), matrix.dtype)
    flat = [t.detach().contiguous().numpy().reshape(-1) for t in (matrix, begin, out)]
    spread(rows, lambda lo, hi: _add_up(*ones, *flat, lo, hi))
    return out


@compiled
def _list_rows(
    bits: np.ndarray,
    columns: int,
    places: np.ndarray,
    start: np.ndarray,
    most: int,
    lo: int,
    hi: int,
) -> int:
    """The ones of blocks of columns, and how many; ends with too many where values are others."""
    total = 0
    start[lo:hi, 0] = 0
    for row in range(start.shape[1] - 1):
        for block in range(lo, hi):
            first, n = block * BLOCK, start[block, row]
            width = min(BLOCK, columns - first)
            last, binary = _list(bits, row * columns + first, width, places[block], n)
            if not binary:
                return most + 1
            start[block, row + 1] = last
            total += last - n
        if total > most:
            break
    return total


@compiled
def _list(
    bits: np.ndarray, place: Place, width: Place, found: np.ndarray, n: Place
) -> tuple[Any, bool]:
    """Append to the n found those of the ones from a place on; without branches on the values."""
    place, at, other = np.uint64(place), np.uint64(n), np.uint32(0)
    for j in range(np.uint64(width)):
        value = bits[place + j]
        other |= np.uint32(0) if value == ONE else value
        found[at] = j
        at += np.uint64(value == ONE)
    return np.int64(at), other == 0


@compiled
def _list_columns(
    bits: np.ndarray, rows: int, places: np.ndarray, start: np.ndarray, lo: int, hi: int
) -> None:
    """The ones of blocks of rows, sorted by column: counted first, then put in their places."""
    columns = start.shape[1] - 1
    fired = np.empty(columns, np.int32)
    for block in range(lo, hi):
        first, last = block * BLOCK, min(block * BLOCK + BLOCK, rows)
        begin = start[block]
        begin[:] = 0
        for row in range(first, last):
            _count(bits, row * columns, begin)
        for k in range(columns):
            begin[k + 1] += begin[k]
        place = begin.copy()
        for row in range(first, last):
            n, _ = _list(bits, row * columns, columns, fired, 0)
            for i in range(n):
                column = np.uint64(fired[i])
                places[block, place[column]] = row - first
                place[column] += 1


@compiled
def _count(bits: np.ndarray, place: Place, counts: np.ndarray) -> None:
    place = np.uint64(place)
    for k in range(np.uint64(counts.size - 1)):
        counts[k + np.uint64(1)] += bits[place + k] == ONE


@compiled
def _add_up(
    places: np.ndarray,
    start: np.ndarray,
    matrix: np.ndarray,
    begin: np.ndarray,
    out: np.ndarray,
    lo: int,
    hi: int,
) -> None:
    width, flat = begin.size, places.reshape(-1)
    summed = matrix.size // width
    tile = _aligned(BLOCK * COLUMNS, matrix)
    for column in range(0, width, COLUMNS):
        c = min(column, width - COLUMNS)  # the last columns are summed with some before them
        for block in range(start.shape[0]):
            room, first = block * places.shape[1], block * BLOCK
            _copy(matrix, first * width + c, width, tile, min(BLOCK, summed - first))
            for row in range(lo, hi):
                at = row * width + c
                source, place = (out, at) if block else (begin, c)
                one, last = room + start[block, row], room + start[block, row + 1]
                add_rows(flat, one, last, tile, source, place, out, at)  # type: ignore[call-arg, arg-type]  # as compiled


@compiled
def _aligned(size: int, like: np.ndarray) -> np.ndarray:
    """Room from the start of a line of memory: a vector across two lines takes twice as long."""
    room = np.empty(size + LINE // like.itemsize, like.dtype)
    first = -room.ctypes.data % LINE // like.itemsize
    return room[first : first + size]


@compiled
def _copy(matrix: np.ndarray, place: Place, width: Place, tile: np.ndarray, rows: Place) -> None:
    """`COLUMNS` values of each of some rows from a place on, to lie one after another."""
    for row in range(rows):
        ahead(matrix, place + (row + AHEAD) * width, COLUMNS)
        at, to = np.uint64(place + row * width), np.uint64(row * COLUMNS)
        for j in range(np.uint64(COLUMNS)):
            tile[to + j] = matrix[at + j]
