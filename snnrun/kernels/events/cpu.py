"""The event-driven kernels compiled for the CPU: nothing dense but one row of units per thread.

Samples are shared out to the threads; each has its own weight gradient, added up at the end. The
results of the forward pass do not depend on the number of threads.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnrun.kernels.compiled.machine_code import compiled, summed
from snnrun.kernels.compiled.rows import Place
from snnrun.kernels.compiled.threads import spread
from snnrun.kernels.events.lists import Events, Incoming, Readout, Record, Unit

BLOCK = 64  # units looked at together for a potential near the threshold
NO_SYNAPSE = -1.0
LEAST_SCALE = 1e-6  # of gradients kept up to a factor; below, the factor is multiplied in


def gather(x: Tensor) -> Events | None:
    """Ones of a chunk ``x`` [T, B, ...]; as `eager.gather`."""
    steps, batch = x.shape[:2]
    values = x.detach().contiguous().view(steps, batch, -1).numpy()
    bits = values.view(f"u{values.itemsize}")
    one = np.ones(1, values.dtype).view(bits.dtype)[0]
    parts = spread(batch, lambda lo, hi: _ones(bits, one, lo, hi))
    if not all(binary for _, _, binary in parts):
        return None
    return _joined([(index, start) for index, start, _ in parts])


def forward(spikes: Events, weight: Tensor, unit: Unit, batch: int) -> Record:
    """Run a layer over all its steps; as `eager.forward`."""
    index, start, w = spikes.index.numpy(), spikes.start.numpy(), _array(weight)
    steps = (len(start) - 1) // batch
    constants = _constants(unit, w.dtype)
    parts = spread(batch, lambda lo, hi: _forward(index, start, w, steps, lo, hi, constants))
    return Record(
        _joined([(part[0], part[1]) for part in parts]),
        _joined([(part[2], part[3]) for part in parts]),
        torch.cat([torch.from_numpy(part[4]) for part in parts]),
    )


def read(spikes: Events, weight: Tensor, readout: Readout, batch: int) -> tuple[Tensor, Tensor]:
    """Logits and the steps of the maxima; as `eager.read`."""
    index, start, w = spikes.index.numpy(), spikes.start.numpy(), _array(weight)
    logits = np.zeros((batch, w.shape[1]), w.dtype)
    at = np.zeros(logits.shape, np.int32)
    leak, summed = w.dtype.type(readout.leak), readout.reduce == "sum"
    spread(batch, lambda lo, hi: _read(index, start, w, leak, summed, logits, at, lo, hi))
    return torch.from_numpy(logits), torch.from_numpy(at)


def backward(
    spikes: Events,
    active: Events | None,
    incoming: Incoming,
    weight: Tensor,
    leaks: tuple[float, float | None],
    batch: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of one weighted connection; as `eager.backward`."""
    grad_in = weight.new_zeros(0 if active is None else len(active.index))
    walk = steps_back(spikes, active, incoming, weight, leaks, batch)

    def work(lo: int, hi: int) -> Tensor:
        grad = torch.zeros_like(weight)  # aligned to cache lines, unlike numpy's
        walk(lo, hi, grad, grad_in)
        return grad

    first, *others = spread(batch, work)
    for other in others:
        first += other
    return first, grad_in


def steps_back(
    spikes: Events,
    active: Events | None,
    incoming: Incoming,
    weight: Tensor,
    leaks: tuple[float, float | None],
    batch: int,
) -> Callable[[int, int, Tensor, Tensor], None]:
    """The walk back through the samples lo to hi, adding to gradients of weights and of spikes."""
    w = _array(weight)
    lists = [a.numpy() for events in (spikes, active or spikes, incoming.at) for a in events]
    arrays = (*lists, _array(incoming.value), _array(incoming.drive), w)
    leak, synapse = leaks
    pair = w.dtype.type(leak), w.dtype.type(NO_SYNAPSE if synapse is None else synapse)
    steps = (len(spikes.start) - 1) // batch
    return lambda lo, hi, grad, grad_in: _backward(
        *arrays, steps, lo, hi, *pair, grad.numpy(), grad_in.numpy()
    )


def _array(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()


def _constants(unit: Unit, dtype: np.dtype) -> tuple[Any, ...]:
    synapse = NO_SYNAPSE if unit.synapse is None else unit.synapse
    values = (unit.leak, synapse, unit.threshold, unit.drop, unit.window, unit.steepness)
    return tuple(map(dtype.type, values))


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> Events:
    """One list from those of consecutive ranges of samples, each with pointers of its own."""
    if len(parts) == 1:
        return Events(*map(torch.from_numpy, parts[0]))
    index = torch.cat([torch.from_numpy(i) for i, _ in parts])
    starts, reached = [np.zeros(1, np.int32)], 0
    for i, start in parts:
        starts.append(start[1:] + np.int32(reached))
        reached += len(i)
    return Events(index, torch.from_numpy(np.concatenate(starts)))


@compiled
def _grown(old: np.ndarray, used: int, needed: int) -> np.ndarray:
    """The list itself while there is room for ``needed`` entries, else a copy of twice the size."""
    if needed <= old.size:
        return old
    new = np.empty(2 * needed, old.dtype)
    new[:used] = old[:used]
    return new


@compiled
def _ones(bits: np.ndarray, one: int, lo: int, hi: int) -> tuple[np.ndarray, np.ndarray, bool]:
    steps, batch, units = bits.shape
    index, n, flat = np.empty(16 * (hi - lo) * steps + units, np.int32), 0, bits.reshape(-1)
    start = np.zeros((hi - lo) * steps + 1, np.int32)
    for b in range(lo, hi):
        for t in range(steps):
            index = _grown(index, n, n + units)
            row = (t * batch + b) * units
            for k in range(0, units, BLOCK):
                stop = min(k + BLOCK, units)
                if _any(flat, row + k, row + stop):
                    n, binary = _list_ones(flat, one, row, k, stop, index, n)
                    if not binary:
                        return index[:0], start, False
            start[(b - lo) * steps + t + 1] = n
    return index[:n].copy(), start, True


@compiled
def _any(bits: np.ndarray, lo: Place, hi: Place) -> bool:
    """Whether any bit is set; on integers, because such a loop runs in vector registers."""
    union = bits.dtype.type(0)
    for j in range(np.uint64(lo), np.uint64(hi)):
        union |= bits[j]
    return union != 0


@compiled
def _list_ones(
    bits: np.ndarray, one: int, row: Place, lo: Place, hi: Place, index: np.ndarray, n: Place
) -> tuple[Any, bool]:
    """Append the units lo to hi of a row that are one; false if any is neither that nor 0."""
    kind = bits.dtype.type
    row, at, other = np.uint64(row), np.uint64(n), kind(0)
    for j in range(np.uint64(lo), np.uint64(hi)):
        value = bits[row + j]
        index[at] = j
        at += np.uint64(value == one)
        other |= kind(0) if value == one else kind(value << kind(1))  # the sign: there are two 0
    return np.int64(at), other == 0


@compiled
def _add_rows(index: np.ndarray, lo: int, hi: int, weight: np.ndarray, out: np.ndarray) -> None:
    """Add the weights of the events from lo to hi, four at a time to spare trips to memory."""
    whole = lo + (hi - lo) // 4 * 4
    for e in range(lo, whole, 4):
        a, b, c, d = index[e], index[e + 1], index[e + 2], index[e + 3]
        for j in range(out.size):
            out[j] = out[j] + weight[a, j] + weight[b, j] + weight[c, j] + weight[d, j]
    for e in range(whole, hi):
        a = index[e]
        for j in range(out.size):
            out[j] += weight[a, j]


@compiled
def _forward(
    index: np.ndarray,
    start: np.ndarray,
    weight: np.ndarray,
    steps: int,
    lo: int,
    hi: int,
    constants: tuple[float, ...],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    leak, synapse, _, drop, _, _ = constants
    units = weight.shape[1]
    v, current = np.empty(units, weight.dtype), np.empty(units, weight.dtype)
    spikes, active = np.empty(units, np.int32), np.empty(units, np.int32)
    slope = np.empty(units, weight.dtype)
    spike_start = np.zeros((hi - lo) * steps + 1, np.int32)
    active_start = np.zeros_like(spike_start)
    n_spikes = n_active = 0
    for b in range(lo, hi):
        v[:] = 0
        current[:] = 0
        last = n_spikes
        for t in range(steps):
            if t:
                for j in range(units):
                    v[j] *= leak
                for e in range(last, n_spikes):
                    v[spikes[e]] -= drop
                below = b * steps + t - 1
                if synapse < 0:
                    _add_rows(index, start[below], start[below + 1], weight, v)
                else:
                    for j in range(units):
                        v[j] += current[j]
                        current[j] *= synapse
                    _add_rows(index, start[below], start[below + 1], weight, current)
            last = n_spikes
            spikes = _grown(spikes, n_spikes, n_spikes + units)
            active = _grown(active, n_active, n_active + units)
            slope = _grown(slope, n_active, n_active + units)
            n_spikes, n_active = _scan(v, constants, spikes, n_spikes, active, slope, n_active)
            spike_start[(b - lo) * steps + t + 1] = n_spikes
            active_start[(b - lo) * steps + t + 1] = n_active
    return (
        spikes[:n_spikes].copy(),
        spike_start,
        active[:n_active].copy(),
        active_start,
        slope[:n_active].copy(),
    )


@compiled
def _scan(
    v: np.ndarray,
    constants: tuple[float, ...],
    spikes: np.ndarray,
    n_spikes: int,
    active: np.ndarray,
    slope: np.ndarray,
    n_active: int,
) -> tuple[int, int]:
    """Append the units that fire and those within the window; the new lengths of both lists."""
    _, _, threshold, _, window, steepness = constants
    one, first = v.dtype.type(1), n_active
    # A little below the window's edge, whatever the rounding; the exact test is on V - threshold.
    low = threshold - window - (threshold + window) * v.dtype.type(1e-5)
    for k in range(0, v.size, BLOCK):
        n = min(BLOCK, v.size - k)
        if _any_above(low, v, k, n):
            n_spikes, n_active = _list(
                v, k, n, threshold, window, spikes, n_spikes, active, slope, n_active
            )
    for e in range(np.uint64(first), np.uint64(n_active)):
        y = steepness * slope[e] + one
        slope[e] = one / (y * y)
    return n_spikes, n_active


@compiled
def _any_above(low: float, v: np.ndarray, k: Place, n: Place) -> bool:
    """Whether one of n units from k on is above a potential; counted, to end nowhere midway."""
    k, n, above = np.uint64(k), np.uint64(n), np.int32(0)
    for j in range(k, k + n):
        above += np.int32(v[j] > low)
    return above != 0


@compiled
def _list(
    v: np.ndarray,
    k: Place,
    n: Place,
    threshold: float,
    window: float,
    spikes: np.ndarray,
    n_spikes: Place,
    active: np.ndarray,
    distance: np.ndarray,
    n_active: Place,
) -> tuple[Any, Any]:
    """Append n units from k on to both lists, without branches, which no processor could foresee.

    Each unit is written down, and stays if the next one goes behind it.
    """
    k, n, spike, near = np.uint64(k), np.uint64(n), np.uint64(n_spikes), np.uint64(n_active)
    for j in range(k, k + n):
        spikes[spike] = active[near] = j
        distance[near] = abs(v[j] - threshold)
        spike += np.uint64(v[j] > threshold)
        near += np.uint64(distance[near] < window)
    return np.int64(spike), np.int64(near)


@compiled
def _read(
    index: np.ndarray,
    start: np.ndarray,
    weight: np.ndarray,
    leak: float,
    summed: bool,
    logits: np.ndarray,
    at: np.ndarray,
    lo: int,
    hi: int,
) -> None:
    steps = (start.size - 1) // logits.shape[0]
    gain = weight.dtype.type(1) - leak
    current = np.empty(weight.shape[1], weight.dtype)
    o = np.empty_like(current)
    for b in range(lo, hi):
        o[:] = 0
        for t in range(1, steps):
            row = b * steps + t - 1
            current[:] = 0
            _add_rows(index, start[row], start[row + 1], weight, current)
            for c in range(o.size):
                o[c] = o[c] * leak + current[c] * gain
                if summed:
                    logits[b, c] += o[c]
                elif o[c] > logits[b, c]:
                    logits[b, c], at[b, c] = o[c], t


@partial(summed, inline="always")
def _dot_rows(
    index: np.ndarray,
    lo: int,
    hi: int,
    weight: np.ndarray,
    delta: np.ndarray,
    scale: float,
    out: np.ndarray,
) -> None:
    """Products of the events' weights with delta, four at a time to read delta once for them."""
    zero = weight.dtype.type(0)
    whole = lo + (hi - lo) // 4 * 4
    for e in range(lo, whole, 4):
        a, b, c, d = index[e], index[e + 1], index[e + 2], index[e + 3]
        p = q = r = s = zero
        for j in range(delta.size):
            p += weight[a, j] * delta[j]
            q += weight[b, j] * delta[j]
            r += weight[c, j] * delta[j]
            s += weight[d, j] * delta[j]
        out[e], out[e + 1], out[e + 2], out[e + 3] = p * scale, q * scale, r * scale, s * scale
    for e in range(whole, hi):
        a, p = index[e], zero
        for j in range(delta.size):
            p += weight[a, j] * delta[j]
        out[e] = p * scale


@summed
def _backward(
    spike_index: np.ndarray,
    spike_start: np.ndarray,
    active_index: np.ndarray,
    active_start: np.ndarray,
    at_index: np.ndarray,
    at_start: np.ndarray,
    value: np.ndarray,
    drive: np.ndarray,
    weight: np.ndarray,
    steps: int,
    lo: int,
    hi: int,
    leak: float,
    synapse: float,
    grad_weight: np.ndarray,
    grad_in: np.ndarray,
) -> None:
    """The deltas are scale * delta: without a synaptic current a step back is one product."""
    units, one = weight.shape[1], weight.dtype.type(1)
    membrane, current = np.empty(units, weight.dtype), np.empty(units, weight.dtype)
    delta, least = membrane if synapse < 0 else current, weight.dtype.type(LEAST_SCALE)
    for b in range(lo, hi):
        membrane[:] = 0
        current[:] = 0
        touched, scale = drive.shape[0] > 0, one
        for row in range((b + 1) * steps - 2, b * steps - 1, -1):
            if not touched and at_start[row + 1] == at_start[row + 2]:
                continue
            touched = True
            if synapse >= 0:
                for j in range(units):
                    current[j] = current[j] * synapse + membrane[j]
                    membrane[j] *= leak
            elif scale * leak > least:
                scale *= leak
            else:
                for j in range(units):
                    membrane[j] *= scale * leak
                scale = one
            for e in range(at_start[row + 1], at_start[row + 2]):
                membrane[at_index[e]] += value[e] / scale
            if drive.shape[0]:
                for j in range(units):
                    membrane[j] += drive[b, j] / scale
            for e in range(spike_start[row], spike_start[row + 1]):
                i = spike_index[e]
                for j in range(units):
                    grad_weight[i, j] += scale * delta[j]
            if grad_in.size:
                first, last = active_start[row], active_start[row + 1]
                _dot_rows(active_index, first, last, weight, delta, scale, grad_in)
