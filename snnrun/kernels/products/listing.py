"""The places of ones among values, found eight at a time and without branches on the values.

A comparison of eight values is a byte; a table has the places of its ones, which are written
together, and the next ones over those that are too many.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from snnrun.kernels.compiled.machine_code import compiled
from snnrun.kernels.compiled.rows import Place

AT_ONCE = 8
LONGEST = 256  # values whose places are bytes
ALL = np.uint8(255)
_BITS = np.arange(256)[:, None] >> np.arange(AT_ONCE) & 1
COUNT = _BITS.sum(1).astype(np.uint8)  # of the ones of a byte
PLACES = np.argsort(1 - _BITS, axis=1, kind="stable").astype(np.uint8).reshape(-1)  # those first


@compiled
def list_ones(
    bits: np.ndarray, one: np.unsignedinteger, place: Place, n: Place, found: np.ndarray, at: Place
) -> tuple[Any, bool]:
    """Write from ``at`` on where ones are among the n <= `LONGEST` values from a place on.

    As many are overwritten as there are values. `one` is the bits of what stands for 1.

    Returns:
        Where the next ones would be written, and whether all values are ones or zeros.
    """
    place, n, at, other = np.uint64(place), np.uint64(n), np.uint64(at), np.uint8(0)
    whole = n // np.uint64(AT_ONCE) * np.uint64(AT_ONCE)
    zero = bits.dtype.type(0)
    for j in range(np.uint64(0), whole, np.uint64(AT_ONCE)):
        fired: Any = _equal(bits, place + j, one)  # type: ignore[call-arg, arg-type]  # as compiled
        silent: Any = _equal(bits, place + j, zero)
        other |= np.uint8(fired | silent) ^ ALL
        _write(PLACES, np.uint64(fired) * np.uint64(AT_ONCE), j, found, at)
        at += COUNT[fired]
    for j in range(whole, n):
        value = bits[place + j]
        other |= np.uint8(value != one) & np.uint8(value != zero)
        found[at] = j
        at += np.uint64(value == one)
    return np.int64(at), other == 0


@intrinsic
def _equal(_context: Any, bits: types.Array, place: types.Integer, value: types.Integer) -> Any:
    """Which of the `AT_ONCE` values from a place on are this one: a bit each."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        values = _vector(builder, _data(context, builder, signature, arguments, 0), arguments[1])
        same = builder.icmp_unsigned("==", values, _splat(builder, arguments[2]))
        return builder.bitcast(same, ir.IntType(AT_ONCE))

    return types.uint8(bits, types.uint64, bits.dtype), generate


@intrinsic
def _write(
    _context: Any,
    table: types.Array,
    row: types.Integer,
    offset: types.Integer,
    out: types.Array,
    at: types.Integer,
) -> Any:
    """out[at + k] = table[row + k] + offset, for all k below `AT_ONCE`."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        data = [_data(context, builder, signature, arguments, which) for which in (0, 3)]
        values = _vector(builder, data[0], arguments[1])
        offsets = _splat(builder, builder.trunc(arguments[2], ir.IntType(8)))
        address = _address(builder, data[1], arguments[4])
        builder.store(builder.add(values, offsets), address).align = 1
        return context.get_dummy_value()

    number = types.uint64
    return types.void(table, number, number, out, number), generate


def _data(
    context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any, which: int
) -> ir.Value:
    array = context.make_array(signature.args[which])
    return array(context, builder, arguments[which]).data


def _address(builder: ir.IRBuilder, data: ir.Value, place: ir.Value) -> ir.Value:
    vector = ir.VectorType(data.type.pointee, AT_ONCE).as_pointer()
    return builder.bitcast(builder.gep(data, [place]), vector)


def _vector(builder: ir.IRBuilder, data: ir.Value, place: ir.Value) -> ir.Value:
    values = builder.load(_address(builder, data, place))
    values.align = data.type.pointee.width // 8
    return values


def _splat(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    vector = ir.VectorType(value.type, AT_ONCE)
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), AT_ONCE), None)
    return builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), zeros)
