"""Spikes at a bit each, for as long as autograd keeps them on a CPU.

A tensor whose values are 0 and one other number, the amplitude of a spike, comes back exactly. The
bits of a block are taken a stretch apart, not side by side, so that the loops run on whole vectors.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from snnrun.kernels.compiled.machine_code import compiled
from snnrun.kernels.compiled.rows import Place, empty, flat
from snnrun.kernels.compiled.threads import spread

BLOCK = 512  # bytes of bits that are written together
PER_BYTE = 8
INTEGERS = {2: np.uint16, 4: np.uint32, 8: np.uint64}  # by size: values are compared as their bits


class Packed(NamedTuple):
    """Spikes [...] as bits.

    Attributes:
        bits: one per value, in the order in which the values lay in memory.
        amplitude: the bits of what a spike is.
        like: shape, strides and type of the spikes.
    """

    bits: Tensor
    amplitude: np.unsignedinteger
    like: tuple[torch.Size, tuple[int, ...], torch.dtype]


def pack(x: Tensor) -> Packed | None:
    """Spikes, dense in memory, as bits; None where values are not 0 or one amplitude.

    Nor are those taken that would end within a byte.
    """
    if x.numel() % PER_BYTE:
        return None
    values = _integers(x)
    amplitude = values.dtype.type(first_spike(values))
    bits = torch.empty(x.numel() // PER_BYTE, dtype=torch.uint8)
    out = bits.numpy()
    if not all(_in_blocks(bits, lambda lo, hi: _pack(values, amplitude, out, lo, hi))):
        return None
    return Packed(bits, amplitude, (x.shape, x.stride(), x.dtype))


def unpack(packed: Packed) -> Tensor:
    """The spikes that were packed."""
    shape, strides, dtype = packed.like
    x, bits = empty(shape, dtype).as_strided(shape, strides), packed.bits.numpy()
    values = _integers(x)
    _in_blocks(packed.bits, lambda lo, hi: _unpack(bits, packed.amplitude, values, lo, hi))
    return x


def _integers(x: Tensor) -> np.ndarray:
    return flat(x).view(INTEGERS[x.element_size()])


def _in_blocks(bits: Tensor, work: Any) -> list[Any]:
    """Call ``work(lo, hi)`` on one range of the bits per thread, at multiples of a block."""
    blocks = -(-len(bits) // BLOCK)
    return spread(blocks, lambda lo, hi: work(lo * BLOCK, min(hi * BLOCK, len(bits))))


@compiled
def first_spike(values: np.ndarray) -> np.unsignedinteger:
    """The first value that is not 0, if there is one."""
    for value in values:
        if value != 0:
            return value
    return values[0]


@compiled
def _pack(values: np.ndarray, amplitude: int, bits: np.ndarray, lo: int, hi: int) -> bool:
    """Whether all values of the range are 0 or the amplitude; ends at the first block with none."""
    for start in range(lo, hi, BLOCK):
        if not _pack_block(values, amplitude, bits, start, min(BLOCK, hi - start)):
            return False
    return True


@compiled
def _pack_block(
    values: np.ndarray, amplitude: int, bits: np.ndarray, start: Place, n: Place
) -> bool:
    start, n, first = np.uint64(start), np.uint64(n), np.uint64(start) * np.uint64(PER_BYTE)
    zero = values.dtype.type(0)
    other = zero
    for j in range(n):
        byte = np.uint8(0)
        for k in range(np.uint64(PER_BYTE)):
            value = values[first + k * n + j]
            other |= zero if value == amplitude else value
            byte |= np.uint8(np.uint8(value == amplitude) << np.uint8(k))
        bits[start + j] = byte
    return other == zero


@compiled
def _unpack(bits: np.ndarray, amplitude: int, values: np.ndarray, lo: int, hi: int) -> None:
    for start in range(lo, hi, BLOCK):
        _unpack_block(bits, amplitude, values, start, min(BLOCK, hi - start))


@compiled
def _unpack_block(
    bits: np.ndarray, amplitude: int, values: np.ndarray, start: Place, n: Place
) -> None:
    start, n, first = np.uint64(start), np.uint64(n), np.uint64(start) * np.uint64(PER_BYTE)
    zero = values.dtype.type(0)
    for k in range(np.uint64(PER_BYTE)):
        for j in range(n):
            fired = bits[start + j] >> np.uint8(k) & np.uint8(1)
            values[first + k * n + j] = amplitude if fired else zero
