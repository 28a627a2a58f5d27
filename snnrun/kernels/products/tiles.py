"""A piece of a matrix, as wide as some vector registers, that stays in the nearest cache.

Rows of it are added up in these registers, which a loop in Python's terms does not reach.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from snnrun.kernels.compiled.machine_code import compiled
from snnrun.kernels.compiled.rows import LINE, Place, ahead, get, put

VECTORS, LANES = 4, 16  # registers that sum, and the values of each (512 bits)
COLUMNS = VECTORS * LANES  # summed at once
FLOAT_BYTES = 4
AHEAD = 8  # rows that are asked for before they are copied


@compiled
def new_tile(rows: int, like: np.ndarray) -> np.ndarray:
    """Room from the start of a line of memory: a vector across two lines takes twice as long."""
    room = np.empty(rows * COLUMNS + LINE // like.itemsize, like.dtype)
    first = -room.ctypes.data % LINE // like.itemsize
    return room[first : first + rows * COLUMNS]


@compiled
def copy_rows(
    matrix: np.ndarray, place: Place, width: Place, tile: np.ndarray, rows: Place
) -> None:
    """`COLUMNS` values of some rows of a matrix, from a place on, to the tile."""
    for row in range(rows):
        ahead(matrix, place + (row + AHEAD) * width, COLUMNS)
        copy_row(matrix, place + row * width, tile, row)


@compiled
def copy_row(matrix: np.ndarray, place: Place, tile: np.ndarray, row: Place) -> None:
    """`COLUMNS` values from a place on to a row of the tile."""
    place, to = np.uint64(place), np.uint64(row * COLUMNS)
    for j in range(np.uint64(COLUMNS)):
        tile[to + j] = get(matrix, place + j)


@compiled
def turn_in(
    matrix: np.ndarray, place: Place, width: Place, tile: np.ndarray, columns: Place
) -> None:
    """As `copy_rows`, of the transposed matrix: some values of each of its `COLUMNS` rows."""
    place, width = np.uint64(place), np.uint64(width)
    for j in range(np.uint64(COLUMNS)):
        for row in range(np.uint64(columns)):
            tile[row * np.uint64(COLUMNS) + j] = get(matrix, place + j * width + row)


@compiled
def write_row(tile: np.ndarray, row: Place, out: np.ndarray, place: Place) -> None:
    """A row of the tile to memory from a place on, rounding if that is bfloat16."""
    place, begin = np.uint64(place), np.uint64(row * COLUMNS)
    for j in range(np.uint64(COLUMNS)):
        put(tile[begin + j], out, place + j)


@compiled
def turn_out(tile: np.ndarray, rows: Place, out: np.ndarray, place: Place, width: Place) -> None:
    """The other way round than `turn_in`."""
    place, width = np.uint64(place), np.uint64(width)
    for j in range(np.uint64(COLUMNS)):
        for row in range(np.uint64(rows)):
            put(tile[row * np.uint64(COLUMNS) + j], out, place + j * width + row)


@intrinsic
def add_rows(
    _context: Any,
    index: types.Array,
    first: types.Integer,
    last: types.Integer,
    rows: types.Array,
    begin: types.Array,
    begin_at: types.Integer,
    out: types.Array,
    out_at: types.Integer,
) -> Any:
    """out[out_at + c] = begin[begin_at + c] + sum_i rows[index[i] * COLUMNS + c].

    For the `COLUMNS` values of c and for i from first up to last, in this order. All but the
    indices (unsigned) are of float32.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        def data(which: int) -> ir.Value:
            array = context.make_array(signature.args[which])
            return array(context, builder, arguments[which]).data

        sums = _load(builder, builder.gep(data(4), [arguments[5]]))
        sums = _add(builder, data(0), arguments[1], arguments[2], data(3), sums)
        _store(builder, sums, builder.gep(data(6), [arguments[7]]))
        return context.get_dummy_value()

    number = types.int64
    arguments = (index, number, number, rows, begin, number, out, number)
    return types.void(*arguments), generate


def _add(
    builder: ir.IRBuilder,
    index: ir.Value,
    first: ir.Value,
    last: ir.Value,
    rows: ir.Value,
    sums: list[ir.Value],
) -> list[ir.Value]:
    """A loop over the indices, at the end of which the builder stands; the sums it leaves."""
    before = builder.block
    head, body, end = (builder.append_basic_block(name) for name in ("head", "body", "end"))
    builder.branch(head)
    builder.position_at_end(head)
    i = builder.phi(first.type)
    totals = [builder.phi(value.type) for value in sums]
    builder.cbranch(builder.icmp_signed("<", i, last), body, end)
    builder.position_at_end(body)
    row = builder.zext(builder.load(builder.gep(index, [i])), i.type)
    values = _load(builder, builder.gep(rows, [builder.mul(row, i.type(COLUMNS))]))
    added = [builder.fadd(total, value) for total, value in zip(totals, values, strict=True)]
    for variable, start, later in (
        (i, first, builder.add(i, i.type(1))),
        *zip(totals, sums, added, strict=True),
    ):
        variable.add_incoming(start, before)
        variable.add_incoming(later, body)
    builder.branch(head)
    builder.position_at_end(end)
    return totals


def _load(builder: ir.IRBuilder, address: ir.Value) -> list[ir.Value]:
    values = [builder.load(place) for place in _vectors(builder, address)]
    for value in values:
        value.align = FLOAT_BYTES
    return values


def _store(builder: ir.IRBuilder, values: list[ir.Value], address: ir.Value) -> None:
    for value, place in zip(values, _vectors(builder, address), strict=True):
        builder.store(value, place).align = FLOAT_BYTES


def _vectors(builder: ir.IRBuilder, address: ir.Value) -> list[ir.Value]:
    """Addresses of the vectors that follow each other from an address of a float on."""
    vector = ir.VectorType(ir.FloatType(), LANES).as_pointer()
    first = builder.bitcast(address, vector)
    return [builder.gep(first, [ir.IntType(64)(v)]) for v in range(VECTORS)]
