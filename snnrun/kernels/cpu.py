"""Compiled kernel for the CPU: both passes fused over time, one read and one write per element.

Units are cut into blocks; a block runs through all its steps with its potentials in the cache. Each
step is taken in pieces: while one is computed, the same piece of the next step is on its way from
memory. Nothing is written for the backward pass: it keeps the current itself (one step's worth,
whatever T, for a current expanded over time) and integrates it again, which is cheaper than a round
trip of the potentials through memory. The spikes are those of the eager kernel bit by bit.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from snnrun.kernels.machine_code import compiled, summed
from snnrun.kernels.parameters import LIFParameters
from snnrun.kernels.rows import BFLOAT16_ONE, Place, ahead, empty, load, memory, store
from snnrun.kernels.slopes import cut, slopes
from snnrun.kernels.threads import spread

BLOCK = 4096  # units that run together; 16 steps of their potentials take 256 KiB in fp32
PIECE = 2048  # bytes of a step that are asked for together: not more than can be under way


def forward(
    current: Tensor, membrane: Tensor, p: LIFParameters, *, keep: bool
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Run T' steps; arguments and result as in `eager.forward`, on the CPU.

    Of fp32 or fp64, or with currents and spikes of bf16 and a membrane of fp32.

    What is kept is the current and the membrane before the first step.
    """
    spikes = empty(current.shape, current.dtype)
    after = membrane.detach().clone(memory_format=torch.contiguous_format)
    values, hop = _steps(current)
    out, units = memory(spikes).reshape(-1), after.numpy().reshape(-1)
    constants = constants_of(p, units.dtype)
    split(units.size, lambda lo, hi: _forward(values, hop, units, out, constants, lo, hi))
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
    grad_before = grad_membrane.clone(memory_format=torch.contiguous_format)
    start = membrane.detach().contiguous().numpy().reshape(-1)
    above, above_hop = _steps(grad_spikes)
    out, carried = memory(grad_current).reshape(-1), grad_before.numpy().reshape(-1)
    constants, code = constants_of(p, start.dtype), p.surrogate.code
    sums = np.zeros((-(-start.size // BLOCK) if p.trained else 0, len(p.recursion)))
    split(
        start.size,
        lambda lo, hi: _backward(
            len(current),
            values,
            hop,
            start,
            above,
            above_hop,
            carried,
            out,
            sums,
            constants,
            code,
            lo,
            hi,
        ),
    )
    if not hop:
        share = grad_current.div_(len(current)).to(current.dtype)
        grad_current = share.expand(current.shape)
    return grad_current, grad_before, torch.from_numpy(sums.sum(0)) if p.trained else None


def _steps(x: Tensor) -> tuple[np.ndarray, int]:
    """The values step after step, and how many steps of them to go on per step (0: expanded)."""
    x = x.detach()
    expanded = x.stride(0) == 0 and len(x) > 1
    return memory((x[:1] if expanded else x).contiguous()).reshape(-1), 0 if expanded else 1


def constants_of(p: LIFParameters, dtype: np.dtype) -> tuple[np.floating, ...]:
    """What the compiled steps unpack, in the type in which they compute."""
    p, kind = p.fixed(), dtype.type
    firing = kind(p.threshold)
    if p.fires_at_threshold:  # u >= threshold is u > the next number below it
        firing = np.nextafter(firing, kind(-np.inf))
    attached = 0.0 if p.detach_reset else 1.0
    cutoff = np.inf if p.surrogate.cutoff is None else p.surrogate.cutoff
    return *map(kind, (*p.recursion, attached, p.surrogate.width, cutoff)), firing


def split(units: int, work: Callable[[int, int], None]) -> None:
    """Cut the units into one range per torch thread, at multiples of a block."""
    blocks = -(-units // BLOCK)
    spread(blocks, lambda lo, hi: work(lo * BLOCK, min(hi * BLOCK, units)))


@compiled
def _forward(
    current: np.ndarray,
    hop: int,
    membrane: np.ndarray,
    spikes: np.ndarray,
    constants: tuple[float, ...],
    lo: int,
    hi: int,
) -> None:
    units, piece = membrane.size, PIECE // spikes.itemsize
    steps = spikes.size // units
    x = np.empty(piece, membrane.dtype)
    for start in range(lo, hi, BLOCK):
        stop = min(start + BLOCK, hi)
        for t in range(steps):
            later = (t + 1) * units if t + 1 < steps else BLOCK
            for at in range(start, stop, piece):
                n = min(piece, stop - at)
                ahead(current, later * hop + at, n)
                ahead(spikes, later + at, n)
                load(current, t * hop * units + at, n, x)
                _fire(x, n, membrane, at, spikes, t * units + at, constants)


@compiled
def _fire(
    x: np.ndarray,
    n: Place,
    membrane: np.ndarray,
    at: Place,
    spikes: np.ndarray,
    place: Place,
    constants: tuple[float, ...],
) -> None:
    """One step of n units, with currents x, from ``at`` on; their spikes begin at ``place``."""
    n, at, place = np.uint64(n), np.uint64(at), np.uint64(place)
    before, gain, after, scale, offset, _, _, _, _, firing = constants
    one = 1 if spikes.itemsize != 2 else BFLOAT16_ONE
    for j in range(n):
        u = membrane[at + j] * before + x[j] * gain
        fired = u > firing
        membrane[at + j] = u * scale + offset if fired else u * after
        spikes[place + j] = one if fired else 0


@compiled
def _backward(
    steps: int,
    current: np.ndarray,
    hop: int,
    membrane: np.ndarray,
    grad_spikes: np.ndarray,
    grad_hop: int,
    carried: np.ndarray,
    grad_current: np.ndarray,
    sums: np.ndarray,
    constants: tuple[float, ...],
    code: int,
    lo: int,
    hi: int,
) -> None:
    width, cutoff = constants[7], constants[8]
    units, piece = membrane.size, PIECE // grad_spikes.itemsize
    potentials, v = np.empty(steps * BLOCK, membrane.dtype), np.empty(BLOCK, membrane.dtype)
    x, slope = np.empty(piece, membrane.dtype), np.empty(piece, membrane.dtype)
    above, last = np.empty(piece, membrane.dtype), (steps - 1) * grad_hop * units
    for start in range(lo, hi, BLOCK):
        stop, block = min(start + BLOCK, hi), start // BLOCK
        load(membrane, start, stop - start, v)
        _integrate(current, hop, units, start, stop, v, potentials, constants, grad_spikes, last)
        for t in range(steps - 1, -1, -1):
            for at in range(start, stop, piece):
                n, row = min(piece, stop - at), t * BLOCK + at - start
                if t > 0:
                    ahead(grad_spikes, (t - 1) * grad_hop * units + at, n)
                    ahead(grad_current, (t - 1) * hop * units + at, n)
                else:
                    ahead(current, at + BLOCK, n)
                _distances(potentials, row, n, constants, x)
                slopes(code, x, width, slope)
                if cutoff < np.inf:
                    cut(x, cutoff, slope)
                load(grad_spikes, t * grad_hop * units + at, n, above)
                if sums.size:
                    _enter(current, hop, membrane, potentials, t, start, at, n, v, x, constants)
                    _sum(
                        potentials, row, n, slope, above, carried, at, v, x, constants, sums, block
                    )
                _step_back(potentials, row, n, slope, above, carried, at, x, constants)
                if hop:
                    store(x, grad_current, t * units + at, n)
                else:
                    _add(x, n, grad_current, at, t == steps - 1)


@compiled
def _integrate(
    current: np.ndarray,
    hop: int,
    units: int,
    start: int,
    stop: int,
    v: np.ndarray,
    potentials: np.ndarray,
    constants: tuple[float, ...],
    following: np.ndarray,
    place: Place,
) -> None:
    """Write the potentials of a block of units as the forward pass met them; uses up v.

    What is read next, from ``place`` of ``following`` on, is asked for at the end.
    """
    steps, piece = potentials.size // BLOCK, PIECE // current.itemsize
    x = np.empty(piece, v.dtype)
    for t in range(steps):
        for at in range(start, stop, piece):
            n = min(piece, stop - at)
            if t + 1 < steps:
                ahead(current, (t + 1) * hop * units + at, n)
            else:
                ahead(following, place + at, n)
            load(current, t * hop * units + at, n, x)
            _charge(x, n, v, at - start, potentials, t * BLOCK + at - start, constants)


@compiled
def _charge(
    x: np.ndarray,
    n: Place,
    v: np.ndarray,
    at: Place,
    potentials: np.ndarray,
    row: Place,
    constants: tuple[float, ...],
) -> None:
    """One step of n units, with currents x, from ``at`` on; their potentials begin at ``row``."""
    n, at, row = np.uint64(n), np.uint64(at), np.uint64(row)
    before, gain, after, scale, offset, _, _, _, _, firing = constants
    for j in range(n):
        u = v[at + j] * before + x[j] * gain
        v[at + j] = u * scale + offset if u > firing else u * after
        potentials[row + j] = u


@compiled
def _distances(
    potentials: np.ndarray, row: Place, n: Place, constants: tuple[float, ...], x: np.ndarray
) -> None:
    n, row = np.uint64(n), np.uint64(row)
    threshold = constants[5]
    for j in range(n):
        x[j] = potentials[row + j] - threshold


@compiled
def _step_back(
    potentials: np.ndarray,
    row: Place,
    n: Place,
    slope: np.ndarray,
    above: np.ndarray,
    carried: np.ndarray,
    at: Place,
    out: np.ndarray,
    constants: tuple[float, ...],
) -> None:
    """One step of the recursion of `eager.backward`; vectorised only as its own function."""
    n, row, at = np.uint64(n), np.uint64(row), np.uint64(at)
    before, gain, after, scale, offset, _, attached, _, _, firing = constants
    for j in range(n):
        u = potentials[row + j]
        passed = scale if u > firing else after
        passed -= attached * slope[j] * (u * (after - scale) - offset)
        delta = slope[j] * above[j] + passed * carried[at + j]
        out[j] = delta * gain
        carried[at + j] = delta * before


@compiled
def _enter(
    current: np.ndarray,
    hop: int,
    membrane: np.ndarray,
    potentials: np.ndarray,
    t: int,
    start: int,
    at: int,
    n: int,
    v: np.ndarray,
    x: np.ndarray,
    constants: tuple[float, ...],
) -> None:
    """Read what entered step t of n units of the block: the membranes v and the currents x."""
    units = membrane.size
    load(current, t * hop * units + at, n, x)
    if t == 0:
        load(membrane, at, n, v)
    else:
        ahead(current, (t - 1) * hop * units + at, n)
        _leave(potentials, (t - 1) * BLOCK + at - start, n, v, constants)


@compiled
def _leave(
    potentials: np.ndarray, row: Place, n: Place, v: np.ndarray, constants: tuple[float, ...]
) -> None:
    """The membranes v that are left of n potentials."""
    n, row = np.uint64(n), np.uint64(row)
    _, _, after, scale, offset, _, _, _, _, firing = constants
    for j in range(n):
        u = potentials[row + j]
        v[j] = u * scale + offset if u > firing else u * after


@summed
def _sum(
    potentials: np.ndarray,
    row: Place,
    n: Place,
    slope: np.ndarray,
    above: np.ndarray,
    carried: np.ndarray,
    at: Place,
    v: np.ndarray,
    x: np.ndarray,
    constants: tuple[float, ...],
    sums: np.ndarray,
    block: int,
) -> None:
    """Add to the block's gradients of the constants what the step that `_step_back` takes gives."""
    n, row, at = np.uint64(n), np.uint64(row), np.uint64(at)
    _, _, after, scale, offset, _, attached, _, _, firing = constants
    zero = v.dtype.type(0)
    to_before = to_gain = to_after = to_scale = to_offset = to_threshold = 0.0
    for j in range(n):
        u, grad = potentials[row + j], carried[at + j]
        fired = u > firing
        reset = grad if fired else zero
        spiked = slope[j] * (above[j] - attached * grad * (u * (after - scale) - offset))
        delta = spiked + (scale if fired else after) * grad
        to_before += delta * v[j]
        to_gain += delta * x[j]
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
def _add(x: np.ndarray, n: Place, total: np.ndarray, at: Place, first: bool) -> None:
    n, at = np.uint64(n), np.uint64(at)
    for j in range(n):
        total[at + j] = x[j] if first else total[at + j] + x[j]
