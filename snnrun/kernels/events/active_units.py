"""LIF units on the CPU that list which of them come near their threshold, and when.

Only these active events carry the gradient of `snnrun.methods.ssgd`. Units run sample by sample, so
that their potentials stay in the cache, and the lists come in the order of `lists.Events`.
"""

import numpy as np
import torch
from torch import Tensor

from snnrun.kernels.compiled.machine_code import compiled
from snnrun.kernels.compiled.rows import Place
from snnrun.kernels.compiled.threads import spread
from snnrun.kernels.events.lists import Events, Unit, pointers

BLOCK = 64  # units looked at together for a potential near the threshold


def fire(current: Tensor, unit: Unit) -> tuple[Tensor, Tensor, Events, Tensor]:
    """Spikes [T, B, ...], their counts [B, ...], active events and their surrogate derivatives."""
    spikes = torch.empty_like(current, memory_format=torch.contiguous_format)
    counts = spikes.new_zeros(spikes.shape[1:])
    arrays = [flat_array(x) for x in (current, spikes, counts)]
    limits = unit.leak, unit.drop, unit.threshold, unit.window, unit.steepness
    constants = tuple(map(arrays[0].dtype.type, limits))
    steps, batch = current.shape[:2]
    each = spread(batch, lambda lo, hi: _sample_by_sample(*arrays, steps, batch, constants, lo, hi))
    return spikes, counts, *joined(each)


def flat_array(x: Tensor) -> np.ndarray:
    """All values one after another; not a copy of what lies so."""
    return x.detach().contiguous().numpy().reshape(-1)


def joined(parts: list[tuple[np.ndarray, ...]]) -> tuple[Events, Tensor]:
    """One list of events and their values from those of ranges of samples, with their lengths."""
    index, values, lengths = (
        torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True)
    )
    return Events(index, pointers(lengths)), values


def through_window(grad: Tensor, grad_counts: Tensor, active: Events, slope: Tensor) -> Tensor:
    """dL/dV at the active events; gradients of the spikes [T, B, ...] and their counts [B, ...]."""
    steps, batch = grad.shape[:2]
    eps = torch.empty_like(slope)
    arrays = [flat_array(x) for x in (grad, grad_counts, *active, slope, eps)]
    spread(batch, lambda lo, hi: _weigh(*arrays, steps, batch, lo, hi))
    return eps


@compiled
def _sample_by_sample(
    current: np.ndarray,
    spikes: np.ndarray,
    counts: np.ndarray,
    steps: int,
    batch: int,
    constants: tuple[float, ...],
    lo: int,
    hi: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All steps of the samples from lo to hi.

    Returns their active events, unit and slope of each, and how many each step of each sample has.
    """
    leak, drop, threshold, window, steepness = constants
    units, n, one = counts.size // batch, 0, current.dtype.type(1)
    v, distance = np.empty(units, current.dtype), np.empty(BLOCK, current.dtype)
    index, slopes = np.empty(units, np.int32), np.empty(units, current.dtype)
    lengths = np.empty((hi - lo) * steps, np.int64)
    for b in range(lo, hi):
        v[:] = 0
        for t in range(steps):
            index, slopes, before = with_room(index, n, units), with_room(slopes, n, units), n
            for start in range(0, units, BLOCK):
                m, at = min(BLOCK, units - start), (t * batch + b) * units + start
                if t > 0:
                    _advance(v, start, m, current, at - batch * units, leak, drop, threshold)
                tally = b * units + start
                if _compare(v, start, m, spikes, at, counts, tally, threshold, window, distance):
                    n = _list(distance, m, start, window, index, slopes, n)
            lengths[(b - lo) * steps + t] = n - before
    for i in range(n):
        root = steepness * slopes[i] + one
        slopes[i] = one / (root * root)
    return index[:n], slopes[:n], lengths


@compiled
def with_room(values: np.ndarray, n: int, more: int) -> np.ndarray:
    """The n values in an array with room for as many again as asked for and one."""
    if n + more < values.size:
        return values
    wider = np.empty(2 * (n + more), values.dtype)
    wider[:n] = values[:n]
    return wider


@compiled
def _advance(
    v: np.ndarray,
    start: Place,
    n: Place,
    current: np.ndarray,
    x: Place,
    leak: float,
    drop: float,
    threshold: float,
) -> None:
    start, n, x = np.uint64(start), np.uint64(n), np.uint64(x)
    for j in range(n):
        u = v[start + j]
        v[start + j] = (u * leak - drop if u > threshold else u * leak) + current[x + j]


@compiled
def _compare(
    v: np.ndarray,
    start: Place,
    n: Place,
    spikes: np.ndarray,
    at: Place,
    counts: np.ndarray,
    tally: Place,
    threshold: float,
    window: float,
    distance: np.ndarray,
) -> int:
    """Fire and count; how many potentials are near the threshold, and their distances from it."""
    start, n, at, tally = np.uint64(start), np.uint64(n), np.uint64(at), np.uint64(tally)
    zero, one = v.dtype.type(0), v.dtype.type(1)
    near = 0
    for j in range(n):
        u = v[start + j]
        fired = one if u > threshold else zero
        spikes[at + j] = fired
        counts[tally + j] += fired
        distance[j] = abs(u - threshold)
        near += distance[j] < window
    return near


@compiled
def _list(
    distance: np.ndarray,
    m: int,
    start: int,
    window: float,
    index: np.ndarray,
    distances: np.ndarray,
    n: int,
) -> int:
    """Append the units whose distance is within the window; the new length of the list."""
    for j in range(m):  # each is written, and stays if the next goes behind it
        index[n], distances[n] = start + j, distance[j]
        n += distance[j] < window
    return n


@compiled
def _weigh(
    grad: np.ndarray,
    grad_counts: np.ndarray,
    index: np.ndarray,
    start: np.ndarray,
    slope: np.ndarray,
    eps: np.ndarray,
    steps: int,
    batch: int,
    lo: int,
    hi: int,
) -> None:
    units = grad_counts.size // batch
    for b in range(lo, hi):
        for t in range(steps):
            row = (t * batch + b) * units
            for e in range(start[b * steps + t], start[b * steps + t + 1]):
                j = index[e]
                eps[e] = (grad[row + j] + grad_counts[b * units + j]) * slope[e]
