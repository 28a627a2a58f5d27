"""Memory of compiled kernels: values of it in and out, bfloat16, asking for it ahead of time.

Stretches are given as a place and a length: a slice counts its references, which takes as long as
a hundred units of a kernel. Places are unsigned, as one that might count from the end of its array
is not vectorised.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload
from torch import Tensor

from snnrun.kernels.compiled.machine_code import compiled

BFLOAT16_ONE = 0x3F80  # the bits of 1
Place = int | np.uint64  # in an array of memory, or a number of values
LINE = 64  # bytes that come from memory together
READ, ALL_LEVELS, DATA = 0, 3, 1  # arguments of LLVM's llvm.prefetch


def memory(x: Tensor) -> np.ndarray:
    """The tensor's own memory; bfloat16, which numpy does not have, as its 16 bits."""
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()


def get(values: np.ndarray, place: Place) -> float:
    """One value of memory, widening bfloat16; for compiled code only."""
    raise NotImplementedError


def put(x: float, values: np.ndarray, place: Place) -> None:
    """Write one value, rounding to the nearest bfloat16, to even of two; for compiled code only."""
    raise NotImplementedError


# Parameters of an overload and of what it returns are compared, annotations included.
@overload(get)
def _get(values: Any, place: Any) -> Callable[..., Any]:
    def plain(values: Any, place: Any) -> Any:
        return values[place]

    def widened(values: Any, place: Any) -> Any:
        return np.uint32(np.uint32(values[place]) << np.uint32(16)).view(np.float32)

    return widened if values.dtype == types.uint16 else plain


@overload(put)
def _put(x: Any, values: Any, place: Any) -> Callable[..., None]:
    def plain(x: Any, values: Any, place: Any) -> None:
        values[place] = x

    def rounded(x: Any, values: Any, place: Any) -> None:
        bits = np.float32(x).view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        values[place] = np.uint32(bits + odd + np.uint32(0x7FFF)) >> np.uint32(16)

    return rounded if values.dtype == types.uint16 else plain


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A contiguous tensor with no values yet, in memory that glibc can give again once freed.

    torch asks for aligned memory, around which glibc keeps a few bytes for other uses: the hole
    that is left is too small for the next tensor of the same size, and the process grows. Here
    the alignment is taken from within an ordinary piece of memory.
    """
    size = math.prod(shape) * dtype.itemsize
    piece = np.empty(size + LINE, np.uint8)
    start = -piece.ctypes.data % LINE
    return torch.from_numpy(piece[start : start + size]).view(dtype).view(torch.Size(shape))


def flat(x: Tensor) -> np.ndarray:
    """All memory [n] of a dense tensor, in the order in which it lies there."""
    return memory(x.detach().as_strided((x.numel(),), (1,)))


def laid_out(x: Tensor, like: Tensor) -> Tensor:
    """``x`` with its values in memory in the order of those of a dense tensor of its shape."""
    alike = x.stride() == like.stride() or (x.is_contiguous() and like.is_contiguous())
    return x if alike else torch.empty_like(like, dtype=x.dtype).copy_(x)


@compiled
def load(values: np.ndarray, place: Place, n: Place, x: np.ndarray) -> None:
    """Read ``values[place : place + n]`` into x."""
    place, n = np.uint64(place), np.uint64(n)
    for j in range(n):
        x[j] = get(values, place + j)


@compiled
def store(x: np.ndarray, values: np.ndarray, place: Place, n: Place) -> None:
    """Write ``x[:n]`` from place on."""
    place, n = np.uint64(place), np.uint64(n)
    for j in range(n):
        put(x[j], values, place + j)


def ahead(values: np.ndarray, place: Place, n: Place) -> None:
    """Ask for ``values[place : place + n]``, which may lie outside: a hint that changes nothing.

    For compiled code that reads or writes a short stretch of every step, far from that of the step
    before, which the hardware's own prefetching does not foresee.
    """
    raise NotImplementedError


@overload(ahead)
def _ahead(values: Any, place: Any, n: Any) -> Callable[..., None]:
    of_a_line = 8 * LINE // values.dtype.bitwidth  # divided here, as dividing takes as long as ten

    def lines(values: Any, place: Any, n: Any) -> None:
        j = 0
        while j < n:
            _line(values, place + j)  # type: ignore[call-arg]  # as compiled
            j += of_a_line

    return lines


@intrinsic
def _line(_context: Any, values: types.Array, place: types.Integer) -> Any:
    """Ask for the line of memory that holds values[place]."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        address = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        builder.call(prefetch, [address, number(READ), number(ALL_LEVELS), number(DATA)])
        return context.get_dummy_value()

    return types.void(values, types.intp), generate
