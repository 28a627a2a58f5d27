"""Compiled kernel for the CPU: both passes fused over time, one read and one write per element.

Units are cut into blocks; a block runs through all its steps with its membrane in the first-level
cache. Nothing is written for the backward pass: it keeps the current itself (one step's worth,
whatever T, for a current expanded over time) and integrates it again, which is cheaper than a round
trip of the potentials through memory. The spikes are those of the eager kernel bit by bit.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from snnrun.kernels.parameters import LIFParameters
from snnrun.kernels.rows import BFLOAT16_ONE, load, memory, store
from snnrun.kernels.slopes import CODES, compiled, cut, slopes
from snnrun.kernels.threads import spread

BLOCK = 1024  # units that run together; 16 steps of their potentials take 64 KiB in fp32


def forward(
    current: Tensor, membrane: Tensor, p: LIFParameters, *, keep: bool
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Run T' steps; arguments and result as in `eager.forward`, on the CPU.

    Of fp32 or fp64, or with currents and spikes of bf16 and a membrane of fp32.

    What is kept is the current and the membrane before the first step.
    """
    spikes = torch.empty(current.shape, dtype=current.dtype)
    after = membrane.detach().clone(memory_format=torch.contiguous_format)
    steps, hop = _steps(current)
    out, units = memory(spikes).reshape(len(current), -1), after.numpy().reshape(-1)
    constants = _constants(p, units.dtype)
    split(units.size, lambda lo, hi: _forward(steps, hop, units, out, constants, lo, hi))
    return spikes, after, (current, membrane) if keep else ()


def backward(
    kept: tuple[Tensor, ...], grad_spikes: Tensor, grad_membrane: Tensor, p: LIFParameters
) -> tuple[Tensor, Tensor]:
    """Gradient as in `eager.backward`, from what `forward` kept.

    All steps of an expanded current are one place in memory, of which only the sum of their
    gradients is meant: it comes back as T' equal shares, expanded too.
    """
    current, membrane = kept
    rows, hop = _steps(current)
    # The sum over the steps of an expanded current is taken in full precision.
    dtype = current.dtype if hop else membrane.dtype
    grad_current = torch.empty((len(current) if hop else 1, *current.shape[1:]), dtype=dtype)
    grad_before = grad_membrane.clone(memory_format=torch.contiguous_format)
    start = membrane.detach().contiguous().numpy().reshape(-1)
    above, above_hop = _steps(grad_spikes)
    out, carried = memory(grad_current).reshape(len(rows), -1), grad_before.numpy().reshape(-1)
    constants, code = _constants(p, start.dtype), CODES[p.surrogate.name]
    split(
        start.size,
        lambda lo, hi: _backward(
            len(current), rows, hop, start, above, above_hop, carried, out, constants, code, lo, hi
        ),
    )
    if not hop:
        share = grad_current.div_(len(current)).to(current.dtype)
        grad_current = share.expand(current.shape)
    return grad_current, grad_before


def _steps(x: Tensor) -> tuple[np.ndarray, int]:
    """The values as rows of one step each, and how many rows to go on per step (0: expanded)."""
    x = x.detach()
    expanded = x.stride(0) == 0 and len(x) > 1
    rows = (x[:1] if expanded else x).contiguous()
    return memory(rows).reshape(len(rows), -1), 0 if expanded else 1


def _constants(p: LIFParameters, dtype: np.dtype) -> tuple[np.floating, ...]:
    kind = dtype.type
    firing = kind(p.threshold)
    if p.fires_at_threshold:  # u >= threshold is u > the next number below it
        firing = np.nextafter(firing, kind(-np.inf))
    values = (p.leak_before, p.leak_after, p.gain, p.scale_fired, p.offset_fired, p.threshold)
    attached = 0.0 if p.detach_reset else 1.0
    cutoff = np.inf if p.surrogate.cutoff is None else p.surrogate.cutoff
    return *map(kind, (*values, attached, p.surrogate.width, cutoff)), firing


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
    before, after, gain, scale, offset, _, _, _, _, firing = constants
    one = 1 if spikes.itemsize != 2 else BFLOAT16_ONE
    scratch = np.empty(BLOCK, membrane.dtype)
    for start in range(lo, hi, BLOCK):
        stop = min(start + BLOCK, hi)
        v, x = membrane[start:stop], scratch[: stop - start]
        for t in range(spikes.shape[0]):
            load(current[t * hop, start:stop], x)
            s = spikes[t, start:stop]
            for j in range(v.size):
                u = v[j] * before + x[j] * gain
                fired = u > firing
                v[j] = u * scale + offset if fired else u * after
                s[j] = one if fired else 0


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
    constants: tuple[float, ...],
    code: int,
    lo: int,
    hi: int,
) -> None:
    width, cutoff = constants[7], constants[8]
    potentials = np.empty((steps, BLOCK), membrane.dtype)
    scratch, slope = np.empty(BLOCK, membrane.dtype), np.empty(BLOCK, membrane.dtype)
    above = np.empty(BLOCK, membrane.dtype)
    for start in range(lo, hi, BLOCK):
        stop = min(start + BLOCK, hi)
        x = scratch[: stop - start]
        x[:] = membrane[start:stop]
        _integrate(current, hop, start, x, potentials, constants)
        for t in range(steps - 1, -1, -1):
            _distances(potentials[t], constants, x)
            slopes(code, x, width, slope)
            if cutoff < np.inf:
                cut(x, cutoff, slope)
            load(grad_spikes[t * grad_hop, start:stop], above[: x.size])
            _step_back(potentials[t], slope, above, carried[start:stop], x, constants)
            if hop:
                store(x, grad_current[t, start:stop])
            else:
                _add(x, grad_current[0, start:stop], t == steps - 1)


@compiled
def _add(x: np.ndarray, total: np.ndarray, first: bool) -> None:
    for j in range(x.size):
        total[j] = x[j] if first else total[j] + x[j]


@compiled
def _distances(potential: np.ndarray, constants: tuple[float, ...], x: np.ndarray) -> None:
    threshold = constants[5]
    for j in range(x.size):
        x[j] = potential[j] - threshold


@compiled
def _step_back(
    potential: np.ndarray,
    slope: np.ndarray,
    above: np.ndarray,
    carried: np.ndarray,
    out: np.ndarray,
    constants: tuple[float, ...],
) -> None:
    """One step of the recursion of `eager.backward`; vectorised only as its own function."""
    before, after, gain, scale, offset, _, attached, _, _, firing = constants
    for j in range(out.size):
        u = potential[j]
        passed = scale if u > firing else after
        passed -= attached * slope[j] * (u * (after - scale) - offset)
        delta = slope[j] * above[j] + passed * carried[j]
        out[j] = delta * gain
        carried[j] = delta * before


@compiled
def _integrate(
    current: np.ndarray,
    hop: int,
    start: int,
    v: np.ndarray,
    potentials: np.ndarray,
    constants: tuple[float, ...],
) -> None:
    """Write the potentials of units from start on as the forward pass met them; uses up v."""
    before, after, gain, scale, offset, _, _, _, _, firing = constants
    for t in range(potentials.shape[0]):
        row = potentials[t]
        load(current[t * hop, start : start + v.size], row[: v.size])
        for j in range(v.size):
            u = v[j] * before + row[j] * gain
            v[j] = u * scale + offset if u > firing else u * after
            row[j] = u
