"""Where spikes are: lists of the ones of a matrix, for products that add rows of the other factor.

The rows that are added come from blocks of them, which stay in the cache closest to the processor;
so the lists are cut into blocks of the dimension over which the product sums.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from snnrun.kernels.bits import first_spike
from snnrun.kernels.compiled.machine_code import compiled
from snnrun.kernels.compiled.rows import BFLOAT16_ONE, Place, memory
from snnrun.kernels.compiled.threads import spread
from snnrun.kernels.products.listing import LONGEST, list_ones

LARGEST_BLOCK = 160  # rows of the other factor, 40 KiB of them; an index fits into a byte
# Share of ones from which a product of all values is as fast, by the type it is computed in.
DENSEST = {torch.float32: 5 / 16, torch.bfloat16: 3 / 16}
SAMPLED = 16  # one in so many rows is looked at first, to end early if it has more


class Ones(NamedTuple):
    """Where the values of a matrix are 1, by blocks of the dimension a product sums over.

    Attributes:
        places: uint8 [blocks, room] within the block, row after row of the product.
        start: int32 [blocks, rows + 1] where those of a row begin.
        block: how many columns (or, of a transposed matrix, rows) a block has; the last has less.
        amplitude: what stands for 1 in the matrix.
    """

    places: np.ndarray
    start: np.ndarray
    block: int
    amplitude: float

    def few(self, values: int) -> bool:
        """Whether so few of this many values are ones that adding up is faster."""
        return int(self.start[:, -1].sum(dtype=np.int64)) <= DENSEST[torch.float32] * values

    def times_amplitude(self, x: Tensor) -> Tensor:
        """``x``, of a product with ones, for the product with the matrix."""
        return x if self.amplitude == 1 else x * self.amplitude


def by_row(x: Tensor, densest: float) -> Ones | None:
    """The ones of each row of x [R, K]; None for values of another kind, or a larger share of 1."""
    rows, columns = x.shape
    bits = _bits(x)
    sample = bits.reshape(rows, columns)[::SAMPLED]
    if np.count_nonzero(sample) > densest * sample.size:
        return None
    ones, one = _room(rows, columns, bits)
    most = int(densest * x.numel())
    lists = ones[:3]
    found = spread(
        len(ones.start), lambda lo, hi: _list_rows(bits, one, columns, *lists, most, lo, hi)
    )
    return ones if sum(found) <= most else None


def by_column(x: Tensor) -> Ones:
    """The ones of each column of spikes x [R, K]."""
    rows, columns = x.shape
    bits = _bits(x)
    ones, one = _room(columns, rows, bits)
    lists = ones[:3]
    spread(len(ones.start), lambda lo, hi: _list_columns(bits, one, rows, *lists, lo, hi))
    return ones


def _bits(x: Tensor) -> np.ndarray:
    """The values as integers: bfloat16 of 16 bits, others of 32."""
    values = memory(x.detach().contiguous()).reshape(-1)
    return values if values.dtype == np.uint16 else values.view(np.uint32)


def _room(rows: int, summed: int, bits: np.ndarray) -> tuple[Ones, np.unsignedinteger]:
    """Room for lists of a matrix, and the bits of what stands for 1 in it."""
    blocks = -(-summed // LARGEST_BLOCK)
    block = -(-summed // blocks)
    lower = 8 * (bits.itemsize - 2)  # how many bits more than bfloat16
    one = bits.dtype.type(first_spike(bits) or BFLOAT16_ONE << lower)
    amplitude = float((np.uint32(one) << (16 - lower)).view(np.float32))
    places = np.empty((blocks, rows * block), np.uint8)
    start = np.empty((blocks, rows + 1), np.int32)
    return Ones(places, start, block, amplitude), one


@compiled
def _list_rows(
    bits: np.ndarray,
    one: np.unsignedinteger,
    columns: int,
    places: np.ndarray,
    start: np.ndarray,
    size: int,
    most: int,
    lo: int,
    hi: int,
) -> int:
    """The ones of blocks of columns, and how many; ends with too many where others are found."""
    total = 0
    start[lo:hi, 0] = 0
    for row in range(start.shape[1] - 1):
        for block in range(lo, hi):
            first, n = block * size, start[block, row]
            width = min(size, columns - first)
            last, binary = list_ones(bits, one, row * columns + first, width, places[block], n)
            if not binary:
                return most + 1
            start[block, row + 1] = last
            total += last - n
        if total > most:
            break
    return total


@compiled
def _list_columns(
    bits: np.ndarray,
    one: np.unsignedinteger,
    rows: int,
    places: np.ndarray,
    start: np.ndarray,
    size: int,
    lo: int,
    hi: int,
) -> None:
    """The ones of blocks of rows, sorted by column: counted first, then put in their places."""
    columns = start.shape[1] - 1
    fired = np.empty(LONGEST, np.uint8)
    for block in range(lo, hi):
        first, last = block * size, min(block * size + size, rows)
        ends = start[block]
        ends[:] = 0
        for row in range(first, last):
            _count(bits, one, row * columns, ends)
        for k in range(columns):
            ends[k + 1] += ends[k]
        place = ends.copy()
        for row in range(first, last):
            for begin in range(0, columns, LONGEST):
                width = min(LONGEST, columns - begin)
                n, _ = list_ones(bits, one, row * columns + begin, width, fired, 0)
                for i in range(np.uint64(n)):
                    column = np.uint64(begin) + np.uint64(fired[i])
                    places[block, place[column]] = row - first
                    place[column] += 1


@compiled
def _count(bits: np.ndarray, one: np.unsignedinteger, place: Place, counts: np.ndarray) -> None:
    place = np.uint64(place)
    for k in range(np.uint64(counts.size - 1)):
        counts[k + np.uint64(1)] += bits[place + k] == one
