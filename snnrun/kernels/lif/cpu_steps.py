"""Compiled steps of `cpu`: units are cut into blocks that run through all their steps in the cache.

A block's stretches of two steps lie far apart in memory, so what the next step reads and writes is
asked for while this one is computed, piece by piece: memory answers to no more than a few requests
at once. Long stretches, because what the hardware fetches beyond their ends is fetched in vain.
"""

import numpy as np

from snnrun.kernels.compiled.machine_code import compiled, contracted, summed
from snnrun.kernels.compiled.rows import BFLOAT16_ONE, Place, ahead, get, put
from snnrun.kernels.lif.recursion import Constants, charged, left, times, to_potential, to_spike
from snnrun.kernels.lif.slopes import Kind, slope

PIECE = 128  # units between two requests
LONGEST = 16 * PIECE  # units of a block
KEPT = 2**17  # potentials of a block: 512 KiB in fp32, which leaves room in the second-level cache


def block_of(steps: int) -> int:
    """Units that run together through so many steps."""
    return min(LONGEST, max(1, KEPT // steps // PIECE) * PIECE)


@compiled
def run(
    current: np.ndarray,
    hop: int,
    held: np.ndarray | None,
    before: np.ndarray,
    membrane: np.ndarray,
    spikes: np.ndarray,
    counts: np.ndarray | None,
    constants: Constants,
    block: int,
    lo: int,
    hi: int,
) -> None:
    """Forward pass of the units from lo to hi; currents and spikes lie step after step.

    Args:
        current: of all steps, or of one for all.
        hop: steps to go on in it per step: 1, or 0 for one for all.
        held: what acts at the first step, if currents act a step late; else None.
        before: membranes before the first step.
        membrane: takes those after the last.
        spikes: takes the spikes.
        counts: what spikes are added to, or None.
        constants: of `recursion.constants_of`.
        block: units that run together.
        lo: first unit.
        hi: where the units end.
    """
    units = membrane.size
    steps = spikes.size // units
    first = np.empty(block, current.dtype)
    for start in range(lo, hi, block):
        n = min(block, hi - start)
        _begin(before, start, n, membrane, start)
        if held is not None:
            _begin(held, start, n, first, 0)
        for t in range(steps):
            at = start + t * units
            later = at + units if t + 1 < steps else start + block
            acting, x = _acting(current, hop * units, held, first, start, t)
            _fire(acting, x, n, membrane, start, spikes, at, constants, current, hop * later, later)
            if counts is not None:
                _count(spikes, at, n, counts, start)


@compiled
def _acting(
    current: np.ndarray,
    row: int,
    held: np.ndarray | None,
    first: np.ndarray,
    start: int,
    t: int,
) -> tuple[np.ndarray, int]:
    """Where the currents are that act at step t on the units from ``start`` on.

    Args:
        current: of all steps.
        row: values from one step to the next.
        held: None if they act at once, else a step late.
        first: those of the units that act at the first step, if late.
        start: the first unit.
        t: the step.
    """
    if held is None:
        return current, start + t * row
    return (first, 0) if t == 0 else (current, start + (t - 1) * row)


@compiled
def _count(spikes: np.ndarray, at: Place, n: Place, counts: np.ndarray, start: Place) -> None:
    at, n, start = np.uint64(at), np.uint64(n), np.uint64(start)
    for j in range(n):
        counts[start + j] += get(spikes, at + j)


@compiled
def _begin(values: np.ndarray, start: Place, n: Place, v: np.ndarray, at: Place) -> None:
    """Write the state of n units from ``start`` on, of the one value of all or their own, to v."""
    start, n, at = np.uint64(start), np.uint64(n), np.uint64(at)
    if values.size == 1:
        value = values[0]
        for j in range(n):
            v[at + j] = value
    else:
        for j in range(n):
            v[at + j] = values[start + j]


@compiled
def _fire(
    current: np.ndarray,
    x: Place,
    n: Place,
    membrane: np.ndarray,
    v: Place,
    spikes: np.ndarray,
    at: Place,
    constants: Constants,
    currents: np.ndarray,
    later_x: int,
    later_at: int,
) -> None:
    """One step of n units: currents from place x on, membranes from v on, spikes from ``at`` on.

    Asks for the currents and the place of the spikes that come later.
    """
    n, x, v, at = np.uint64(n), np.uint64(x), np.uint64(v), np.uint64(at)
    one = 1 if spikes.itemsize != 2 else BFLOAT16_ONE
    for piece in range(0, n, PIECE):
        ahead(currents, later_x + piece, PIECE)
        ahead(spikes, later_at + piece, PIECE)
        for j in range(np.uint64(piece), min(np.uint64(piece + PIECE), n)):
            u = charged(membrane[v + j], get(current, x + j), constants)
            membrane[v + j] = left(u, constants)
            spikes[at + j] = one if u > constants.firing else 0


@compiled
def run_back(
    steps: int,
    current: np.ndarray,
    hop: int,
    held: np.ndarray | None,
    membrane: np.ndarray,
    grad_spikes: np.ndarray,
    grad_hop: int,
    grad_counts: np.ndarray | None,
    grad_after: np.ndarray,
    carried: np.ndarray,
    grad_acting: np.ndarray,
    sums: np.ndarray | None,
    constants: Constants,
    kind: Kind,
    block: int,
    lo: int,
    hi: int,
) -> None:
    """Backward pass of the units from lo to hi; arguments as in `run`, gradients beside them.

    ``carried`` takes dL/d(membrane before), ``grad_acting`` dL/d(current) by the step at which it
    acts, one row for all steps if they share one current; ``sums`` a row of each block, or is None.
    """
    units = carried.size
    row, above_row = hop * units, grad_hop * units
    potentials, v = np.empty(steps * block, membrane.dtype), np.empty(block, membrane.dtype)
    slopes, share = np.empty(block, membrane.dtype), np.empty(block, grad_acting.dtype)
    first = np.empty(block, current.dtype)
    for start in range(lo, hi, block):
        n = min(block, hi - start)
        _begin(membrane, start, n, v, 0)
        _begin(grad_after, start, n, carried, start)
        if held is not None:
            _begin(held, start, n, first, 0)
        for t in range(steps):
            acting, x = _acting(current, row, held, first, start, t)
            later = start + (t + 1) * row
            _integrate(acting, x, n, v, potentials, t * block, constants, current, later)
        ahead(grad_spikes, start + (steps - 1) * above_row, n)
        for t in range(steps - 1, -1, -1):
            u, above = t * block, start + t * above_row
            out, at = (grad_acting, start + t * units) if hop else (share, 0)
            if sums is None:  # compiled only where it is
                _step_back(
                    potentials,
                    u,
                    n,
                    grad_spikes,
                    above,
                    grad_counts,
                    carried,
                    start,
                    out,
                    at,
                    constants,
                    kind,
                    above - above_row,
                    at - row,
                )
            else:
                _enter(membrane, start, n, potentials, t, v, constants, block)
                _slopes(potentials, u, n, slopes, constants, kind)
                acting, x = _acting(current, row, held, first, start, t)
                _step_back_summing(
                    potentials,
                    u,
                    n,
                    slopes,
                    grad_spikes,
                    above,
                    grad_counts,
                    carried,
                    start,
                    out,
                    at,
                    v,
                    acting,
                    x,
                    constants,
                    sums[start // block],
                )
            if not hop:
                waited = held is not None and t == 0
                total = start if held is None or waited else start + units
                _add(share, n, grad_acting, total, waited or t == steps - 1)
        ahead(current, start + block, n)


@compiled
def _integrate(
    current: np.ndarray,
    x: Place,
    n: Place,
    v: np.ndarray,
    potentials: np.ndarray,
    at: Place,
    constants: Constants,
    currents: np.ndarray,
    later: int,
) -> None:
    """One step as the forward pass took it, of a block with membranes v; writes its potentials."""
    n, x, at = np.uint64(n), np.uint64(x), np.uint64(at)
    for piece in range(0, n, PIECE):
        ahead(currents, later + piece, PIECE)
        for j in range(np.uint64(piece), min(np.uint64(piece + PIECE), n)):
            u = charged(v[j], get(current, x + j), constants)
            v[j] = left(u, constants)
            potentials[at + j] = u


@compiled
def _step_back(
    potentials: np.ndarray,
    row: Place,
    n: Place,
    grad_spikes: np.ndarray,
    above: Place,
    grad_counts: np.ndarray | None,
    carried: np.ndarray,
    at: Place,
    out: np.ndarray,
    place: Place,
    constants: Constants,
    kind: Kind,
    later_above: int,
    later_place: int,
) -> None:
    """One step of the recursion of `eager.backward`; vectorised only as its own function."""
    n, row, above = np.uint64(n), np.uint64(row), np.uint64(above)
    at, place = np.uint64(at), np.uint64(place)
    for piece in range(0, n, PIECE):
        ahead(grad_spikes, later_above + piece, PIECE)
        ahead(out, later_place + piece, PIECE)
        for j in range(np.uint64(piece), min(np.uint64(piece + PIECE), n)):
            u = potentials[row + j]
            h = slope(kind, u - constants.threshold, constants.width, constants.cutoff)
            arriving = _arriving(grad_spikes, above + j, grad_counts, at + j)
            spiked = h * to_spike(arriving, u, carried[at + j], constants)
            delta = spiked + to_potential(u, carried[at + j], constants)
            put(times(delta, constants.gain), out, place + j)
            carried[at + j] = times(delta, constants.before)


@compiled
def _arriving(
    grad_spikes: np.ndarray, above: Place, grad_counts: np.ndarray | None, unit: Place
) -> float:
    """Gradient of one spike: what is its own, and what is that of all spikes of the unit."""
    own = get(grad_spikes, above)
    return own if grad_counts is None else own + grad_counts[unit]


@compiled
def _enter(
    membrane: np.ndarray,
    start: int,
    n: int,
    potentials: np.ndarray,
    t: int,
    v: np.ndarray,
    constants: Constants,
    block: int,
) -> None:
    """Read what entered step t of the block of n units from ``start`` on: the membranes v."""
    if t == 0:
        _begin(membrane, start, n, v, 0)
    else:
        _leave(potentials, (t - 1) * block, n, v, constants)


@compiled
def _leave(
    potentials: np.ndarray, row: Place, n: Place, v: np.ndarray, constants: Constants
) -> None:
    n, row = np.uint64(n), np.uint64(row)
    for j in range(n):
        v[j] = left(potentials[row + j], constants)


@contracted
def _slopes(
    potentials: np.ndarray,
    row: Place,
    n: Place,
    out: np.ndarray,
    constants: Constants,
    kind: Kind,
) -> None:
    n, row = np.uint64(n), np.uint64(row)
    for j in range(n):
        distance = potentials[row + j] - constants.threshold
        out[j] = slope(kind, distance, constants.width, constants.cutoff)


@summed
def _step_back_summing(
    potentials: np.ndarray,
    row: Place,
    n: Place,
    slopes: np.ndarray,
    grad_spikes: np.ndarray,
    above: Place,
    grad_counts: np.ndarray | None,
    carried: np.ndarray,
    at: Place,
    out: np.ndarray,
    place: Place,
    v: np.ndarray,
    current: np.ndarray,
    x: Place,
    constants: Constants,
    sums: np.ndarray,
) -> None:
    """`_step_back` that adds to the block's gradients of the constants what the step gives.

    It asks for nothing ahead of time: its sums would be closed at the end of every piece.
    """
    n, row, above = np.uint64(n), np.uint64(row), np.uint64(above)
    at, place, x = np.uint64(at), np.uint64(place), np.uint64(x)
    zero = v.dtype.type(0)
    to_before = to_gain = to_after = to_scale = to_offset = to_threshold = 0.0
    for j in range(n):
        u, grad = potentials[row + j], carried[at + j]
        reset = grad if u > constants.firing else zero
        arriving = _arriving(grad_spikes, above + j, grad_counts, at + j)
        spiked = slopes[j] * to_spike(arriving, u, grad, constants)
        delta = _plus(spiked, to_potential(u, grad, constants))
        put(times(delta, constants.gain), out, place + j)
        carried[at + j] = times(delta, constants.before)
        to_before += delta * v[j]
        to_gain += delta * get(current, x + j)
        to_after += (grad - reset) * u
        to_scale += reset * u
        to_offset += reset
        to_threshold -= spiked
    sums[0] += to_before
    sums[1] += to_gain
    sums[2] += to_after
    sums[3] += to_scale
    sums[4] += to_offset
    sums[5] += to_threshold


@compiled
def _plus(x: float, y: float) -> float:
    """The sum of two products, which are rounded as in `_step_back` (see `contracted`)."""
    return x + y


@compiled
def _add(x: np.ndarray, n: Place, total: np.ndarray, at: Place, first: bool) -> None:
    n, at = np.uint64(n), np.uint64(at)
    for j in range(n):
        total[at + j] = x[j] if first else total[at + j] + x[j]
