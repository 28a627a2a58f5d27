"""Compiled kernel for the CPU: both passes fused over time, one read and one write per element.

Units are cut into blocks; a block runs through all its steps with its potentials in the cache. What
is read or written next is asked for while another step is computed. Nothing is written for the
backward pass: it keeps the current itself (one step's worth, whatever T, for a current expanded
over time) and integrates it again, which is cheaper than a round trip of the potentials through
memory. The spikes are those of the eager kernel bit by bit.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from snnrun.kernels.machine_code import compiled, contracted, summed
from snnrun.kernels.parameters import LIFParameters
from snnrun.kernels.rows import BFLOAT16_ONE, Place, ahead, empty, get, memory, put
from snnrun.kernels.slopes import Kind, kind_of, slope
from snnrun.kernels.threads import T, spread

BLOCK = 512  # units that run together; 64 steps of their potentials take 128 KiB in fp32


def forward(
    current: Tensor, membrane: Tensor, p: LIFParameters, *, keep: bool
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Run T' steps; arguments and result as in `eager.forward`, on the CPU.

    Of fp32 or fp64, or with currents and spikes of bf16 and a membrane of fp32.

    What is kept is the current and the membrane before the first step.
    """
    spikes = empty(current.shape, current.dtype)
    after = empty(current.shape[1:], membrane.dtype)
    values, hop = _steps(current)
    before, out, left = _state(membrane), memory(spikes).reshape(-1), after.numpy().reshape(-1)
    constants = constants_of(p, left.dtype)
    split(left.size, lambda lo, hi: _forward(values, hop, before, left, out, constants, lo, hi))
    return spikes, after, (current, membrane) if keep else ()


def backward(
    kept: tuple[Tensor, ...], grad_spikes: Tensor, grad_membrane: Tensor, p: LIFParameters
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradient as in `eager.backward`, from what `forward` kept.

    All steps of an expanded current are one place in memory, of which only the sum of their
    gradients is meant: it comes back as T' equal shares, expanded too. Sums for the constants are
    taken block by block, so that the number of threads does not change them.
    """
    current, membrane = kept
    values, hop = _steps(current)
    # The sum over the steps of an expanded current is taken in full precision.
    dtype = current.dtype if hop else membrane.dtype
    grad_current = empty((len(current) if hop else 1, *current.shape[1:]), dtype)
    grad_before = empty(current.shape[1:], membrane.dtype)
    before, grad_after = _state(membrane), _state(grad_membrane)
    above, above_hop = _steps(grad_spikes)
    out, carried = memory(grad_current).reshape(-1), grad_before.numpy().reshape(-1)
    constants, kind = constants_of(p, before.dtype), kind_of(p.surrogate)
    sums = np.zeros((-(-carried.size // BLOCK), len(p.recursion))) if p.trained else None
    split(
        carried.size,
        lambda lo, hi: _backward(
            len(current),
            values,
            hop,
            before,
            above,
            above_hop,
            grad_after,
            carried,
            out,
            sums,
            constants,
            kind,
            lo,
            hi,
        ),
    )
    if not hop:
        share = grad_current.div_(len(current)).to(current.dtype)
        grad_current = share.expand(current.shape)
    return grad_current, grad_before, None if sums is None else torch.from_numpy(sums.sum(0))


def _steps(x: Tensor) -> tuple[np.ndarray, int]:
    """The values step after step, and how many steps of them to go on per step (0: expanded)."""
    x = x.detach()
    expanded = x.stride(0) == 0 and len(x) > 1
    return memory((x[:1] if expanded else x).contiguous()).reshape(-1), 0 if expanded else 1


def _state(x: Tensor) -> np.ndarray:
    """Values of the units; only one where all are the same in memory."""
    x = x.detach()
    x = x if any(x.stride()) else x.as_strided((1,), (1,))
    return x.contiguous().numpy().reshape(-1)


def constants_of(p: LIFParameters, dtype: np.dtype) -> tuple[np.floating, ...]:
    """What the compiled steps unpack, in the type in which they compute."""
    p, kind = p.fixed(), dtype.type
    firing = kind(p.threshold)
    if p.fires_at_threshold:  # u >= threshold is u > the next number below it
        firing = np.nextafter(firing, kind(-np.inf))
    attached = 0.0 if p.detach_reset else 1.0
    cutoff = np.inf if p.surrogate.cutoff is None else p.surrogate.cutoff
    return *map(kind, (*p.recursion, attached, p.surrogate.width, cutoff)), firing


def split(units: int, work: Callable[[int, int], T]) -> list[T]:
    """Results of ranges of the units, one per torch thread, cut at multiples of a block."""
    blocks = -(-units // BLOCK)
    return spread(blocks, lambda lo, hi: work(lo * BLOCK, min(hi * BLOCK, units)))


@compiled
def _forward(
    current: np.ndarray,
    hop: int,
    before: np.ndarray,
    membrane: np.ndarray,
    spikes: np.ndarray,
    constants: tuple[float, ...],
    lo: int,
    hi: int,
) -> None:
    units = membrane.size
    steps = spikes.size // units
    for start in range(lo, hi, BLOCK):
        n = min(BLOCK, hi - start)
        _begin(before, start, n, membrane, start)
        for t in range(steps):
            later = start + ((t + 1) * units if t + 1 < steps else BLOCK)
            ahead(current, later * hop, n)
            ahead(spikes, later, n)
            at, x = start + t * units, start + t * hop * units
            _fire(current, x, n, membrane, start, spikes, at, constants)


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
def _backward(
    steps: int,
    current: np.ndarray,
    hop: int,
    membrane: np.ndarray,
    grad_spikes: np.ndarray,
    grad_hop: int,
    grad_after: np.ndarray,
    carried: np.ndarray,
    grad_current: np.ndarray,
    sums: np.ndarray | None,
    constants: tuple[float, ...],
    kind: Kind,
    lo: int,
    hi: int,
) -> None:
    units = carried.size
    potentials, v = np.empty(steps * BLOCK, membrane.dtype), np.empty(BLOCK, membrane.dtype)
    slopes, share = np.empty(BLOCK, membrane.dtype), np.empty(BLOCK, grad_current.dtype)
    for start in range(lo, hi, BLOCK):
        n, block = min(BLOCK, hi - start), start // BLOCK
        _begin(membrane, start, n, v, 0)
        _begin(grad_after, start, n, carried, start)
        for t in range(steps):
            ahead(grad_spikes, start + t * grad_hop * units, n)
            _integrate(current, start + t * hop * units, n, v, potentials, t * BLOCK, constants)
        for t in range(steps - 1, -1, -1):
            ahead(current, start + BLOCK + (steps - 1 - t) * hop * units, n)
            ahead(grad_current, start + (t - 1) * hop * units, n)
            u, x, above = t * BLOCK, start + t * hop * units, start + t * grad_hop * units
            out, at = (grad_current, x) if hop else (share, 0)
            if sums is None:  # compiled only where it is
                _step_back(
                    potentials, u, n, grad_spikes, above, carried, start, out, at, constants, kind
                )
            else:
                _enter(membrane, start, n, potentials, t, v, constants)
                _slopes(potentials, u, n, slopes, constants, kind)
                _step_back_summing(
                    potentials,
                    u,
                    n,
                    slopes,
                    grad_spikes,
                    above,
                    carried,
                    start,
                    out,
                    at,
                    v,
                    current,
                    x,
                    constants,
                    sums,
                    block,
                )
            if not hop:
                _add(share, n, grad_current, start, t == steps - 1)


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
        delta = h * get(grad_spikes, above + j) + passed * carried[at + j]
        put(delta * gain, out, place + j)
        carried[at + j] = delta * before


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
        spiked = slopes[j] * (get(grad_spikes, above + j) - attached * grad * jump)
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
