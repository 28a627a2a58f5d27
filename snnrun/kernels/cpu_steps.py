"""Compiled steps of `cpu`: units are cut into blocks that run through all their steps in the cache.

What is read or written next is asked for while another step is computed.
"""

import numpy as np

from snnrun.kernels.machine_code import compiled, contracted, summed
from snnrun.kernels.rows import BFLOAT16_ONE, Place, ahead, get, put
from snnrun.kernels.slopes import Kind, slope

BLOCK = 512  # units that run together; 64 steps of their potentials take 128 KiB in fp32


@compiled
def run(
    current: np.ndarray,
    hop: int,
    held: np.ndarray | None,
    before: np.ndarray,
    membrane: np.ndarray,
    spikes: np.ndarray,
    counts: np.ndarray | None,
    constants: tuple[float, ...],
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
        constants: of `cpu.constants_of`.
        lo: first unit, at the beginning of a block.
        hi: where the units end.
    """
    units = membrane.size
    steps = spikes.size // units
    first = np.empty(BLOCK, current.dtype)
    for start in range(lo, hi, BLOCK):
        n = min(BLOCK, hi - start)
        _begin(before, start, n, membrane, start)
        if held is not None:
            _begin(held, start, n, first, 0)
        for t in range(steps):
            later = start + ((t + 1) * units if t + 1 < steps else BLOCK)
            ahead(current, later * hop, n)
            ahead(spikes, later, n)
            at = start + t * units
            acting, x = _acting(current, hop * units, held, first, start, t)
            _fire(acting, x, n, membrane, start, spikes, at, constants)
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
        v[at : at + n] = values[0]
    else:
        v[at : at + n] = values[start : start + n]


@compiled
def _fire(
    current: np.ndarray,
    x: Place,
    n: Place,
    membrane: np.ndarray,
    v: Place,
    spikes: np.ndarray,
    at: Place,
    constants: tuple[float, ...],
) -> None:
    """One step of n units: currents from place x on, membranes from v on, spikes from ``at`` on."""
    n, x, v, at = np.uint64(n), np.uint64(x), np.uint64(v), np.uint64(at)
    before, gain, _, _, _, _, _, _, _, firing = constants
    one = 1 if spikes.itemsize != 2 else BFLOAT16_ONE
    for j in range(n):
        u = membrane[v + j] * before + get(current, x + j) * gain
        membrane[v + j] = _left(u, constants)
        spikes[at + j] = one if u > firing else 0


@compiled
def _left(u: float, constants: tuple[float, ...]) -> float:
    """The membrane that a step leaves of a potential."""
    _, _, after, scale, offset, _, _, _, _, firing = constants
    return u * scale + offset if u > firing else u * after


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
    constants: tuple[float, ...],
    kind: Kind,
    lo: int,
    hi: int,
) -> None:
    """Backward pass of the units from lo to hi; arguments as in `run`, gradients beside them.

    ``carried`` takes dL/d(membrane before), ``grad_acting`` dL/d(current) by the step at which it
    acts, one row for all steps if they share one current; ``sums`` a row of each block.
    """
    units = carried.size
    potentials, v = np.empty(steps * BLOCK, membrane.dtype), np.empty(BLOCK, membrane.dtype)
    slopes, share = np.empty(BLOCK, membrane.dtype), np.empty(BLOCK, grad_acting.dtype)
    first = np.empty(BLOCK, current.dtype)
    for start in range(lo, hi, BLOCK):
        n, block = min(BLOCK, hi - start), start // BLOCK
        _begin(membrane, start, n, v, 0)
        _begin(grad_after, start, n, carried, start)
        if held is not None:
            _begin(held, start, n, first, 0)
        for t in range(steps):
            ahead(grad_spikes, start + t * grad_hop * units, n)
            acting, x = _acting(current, hop * units, held, first, start, t)
            _integrate(acting, x, n, v, potentials, t * BLOCK, constants)
        for t in range(steps - 1, -1, -1):
            ahead(current, start + BLOCK + (steps - 1 - t) * hop * units, n)
            ahead(grad_acting, start + (t - 1) * hop * units, n)
            u, above = t * BLOCK, start + t * grad_hop * units
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
                )
            else:
                _enter(membrane, start, n, potentials, t, v, constants)
                _slopes(potentials, u, n, slopes, constants, kind)
                acting, x = _acting(current, hop * units, held, first, start, t)
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
                    sums,
                    block,
                )
            if not hop:
                waited = held is not None and t == 0
                row = start if held is None or waited else start + units
                _add(share, n, grad_acting, row, waited or t == steps - 1)


@compiled
def _integrate(
    current: np.ndarray,
    x: Place,
    n: Place,
    v: np.ndarray,
    potentials: np.ndarray,
    at: Place,
    constants: tuple[float, ...],
) -> None:
    """One step as the forward pass took it, of a block with membranes v; writes its potentials."""
    n, x, at = np.uint64(n), np.uint64(x), np.uint64(at)
    before, gain, _, _, _, _, _, _, _, _ = constants
    for j in range(n):
        u = v[j] * before + get(current, x + j) * gain
        v[j] = _left(u, constants)
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
    constants: tuple[float, ...],
    kind: Kind,
) -> None:
    """One step of the recursion of `eager.backward`; vectorised only as its own function."""
    n, row, above = np.uint64(n), np.uint64(row), np.uint64(above)
    at, place = np.uint64(at), np.uint64(place)
    before, gain, after, scale, offset, threshold, attached, width, cutoff, firing = constants
    for j in range(n):
        u = potentials[row + j]
        h = slope(kind, u - threshold, width, cutoff)
        passed = scale if u > firing else after
        if attached:
            passed -= attached * h * (u * (after - scale) - offset)
        spiked = h * _arriving(grad_spikes, above + j, grad_counts, at + j)
        delta = spiked + passed * carried[at + j]
        put(delta * gain, out, place + j)
        carried[at + j] = delta * before


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
    constants: tuple[float, ...],
) -> None:
    """Read what entered step t of the block of n units from ``start`` on: the membranes v."""
    if t == 0:
        _begin(membrane, start, n, v, 0)
    else:
        _leave(potentials, (t - 1) * BLOCK, n, v, constants)


@compiled
def _leave(
    potentials: np.ndarray, row: Place, n: Place, v: np.ndarray, constants: tuple[float, ...]
) -> None:
    n, row = np.uint64(n), np.uint64(row)
    for j in range(n):
        v[j] = _left(potentials[row + j], constants)


@contracted
def _slopes(
    potentials: np.ndarray,
    row: Place,
    n: Place,
    out: np.ndarray,
    constants: tuple[float, ...],
    kind: Kind,
) -> None:
    n, row = np.uint64(n), np.uint64(row)
    _, _, _, _, _, threshold, _, width, cutoff, _ = constants
    for j in range(n):
        out[j] = slope(kind, potentials[row + j] - threshold, width, cutoff)


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
    constants: tuple[float, ...],
    sums: np.ndarray,
    block: int,
) -> None:
    """`_step_back` that adds to the block's gradients of the constants what the step gives."""
    n, row, above = np.uint64(n), np.uint64(row), np.uint64(above)
    at, place, x = np.uint64(at), np.uint64(place), np.uint64(x)
    before, gain, after, scale, offset, _, attached, _, _, firing = constants
    zero = v.dtype.type(0)
    to_before = to_gain = to_after = to_scale = to_offset = to_threshold = 0.0
    for j in range(n):
        u, grad = potentials[row + j], carried[at + j]
        fired = u > firing
        reset = grad if fired else zero
        jump = u * (after - scale) - offset
        arriving = _arriving(grad_spikes, above + j, grad_counts, at + j)
        spiked = slopes[j] * (arriving - attached * grad * jump)
        delta = _plus(spiked, (scale if fired else after) * grad)
        put(delta * gain, out, place + j)
        carried[at + j] = delta * before
        to_before += delta * v[j]
        to_gain += delta * get(current, x + j)
        to_after += (grad - reset) * u
        to_scale += reset * u
        to_offset += reset
        to_threshold -= spiked
    sums[block, 0] += to_before
    sums[block, 1] += to_gain
    sums[block, 2] += to_after
    sums[block, 3] += to_scale
    sums[block, 4] += to_offset
    sums[block, 5] += to_threshold


@compiled
def _plus(x: float, y: float) -> float:
    """The sum of two products, which are rounded as in `_step_back` (see `contracted`)."""
    return x + y


@compiled
def _add(x: np.ndarray, n: Place, total: np.ndarray, at: Place, first: bool) -> None:
    n, at = np.uint64(n), np.uint64(at)
    for j in range(n):
        total[at + j] = x[j] if first else total[at + j] + x[j]
