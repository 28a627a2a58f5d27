"""Compiled parts of one step of LIF units on the CPU, for methods that learn step by step.

What takes torch a pass over memory per operation takes one in all; what is computed on the way
stays in the cache, block by block.
"""

import numpy as np
from torch import Tensor

from snnrun.kernels.cpu import split
from snnrun.kernels.machine_code import compiled, contracted
from snnrun.kernels.rows import empty
from snnrun.kernels.slopes import Kind, kind_of, slope
from snnrun.neurons.surrogate import Surrogate


def through_spikes(grad: Tensor, u: Tensor, threshold: float, surrogate: Surrogate) -> Tensor:
    """``grad * h(u - threshold)``: from the gradient of spikes to that of the potentials ``u``."""
    out = _like(u)
    arrays = [_flat(t) for t in (u, grad, out)]
    cutoff = np.inf if surrogate.cutoff is None else surrogate.cutoff
    constants = tuple(map(arrays[0].dtype.type, (threshold, surrogate.width, cutoff)))
    kind = kind_of(surrogate)
    split(u.numel(), lambda lo, hi: _through(*(a[lo:hi] for a in arrays), constants, kind))
    return out


def accumulate_and_fire(
    potential: Tensor, before: Tensor, leak: float, threshold: float
) -> tuple[Tensor, Tensor]:
    """Of P[t] and A[t-1]: u[t] = P[t] - leak V A[t-1] and A[t] = leak A[t-1] + Θ(u[t] - V)."""
    u, after = _like(potential), _like(potential)
    arrays = [_flat(t) for t in (potential, before, u, after)]
    constants = tuple(map(arrays[0].dtype.type, (leak, -leak * threshold, threshold)))
    split(u.numel(), lambda lo, hi: _accumulate(*(a[lo:hi] for a in arrays), *constants))
    return u, after


def integrate_and_fire(
    current: Tensor, membrane: Tensor, leak: float, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of I[t] and v[t-1]: u[t] = leak v[t-1] + I[t], spikes s[t] and v[t] = u[t] - V s[t]."""
    u, spikes, after = _like(current), _like(current), _like(current)
    arrays = [_flat(t) for t in (current, membrane, u, spikes, after)]
    constants = tuple(map(arrays[0].dtype.type, (leak, threshold)))
    split(u.numel(), lambda lo, hi: _integrate(*(a[lo:hi] for a in arrays), *constants))
    return u, spikes, after


def _like(x: Tensor) -> Tensor:
    return empty(x.shape, x.dtype)


def _flat(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy().reshape(-1)


@contracted
def _through(
    u: np.ndarray, grad: np.ndarray, out: np.ndarray, constants: tuple[float, ...], kind: Kind
) -> None:
    threshold, width, cutoff = constants
    for j in range(u.size):
        out[j] = grad[j] * slope(kind, u[j] - threshold, width, cutoff)


@contracted  # as torch adds a multiple
def _accumulate(
    potential: np.ndarray,
    before: np.ndarray,
    u: np.ndarray,
    after: np.ndarray,
    leak: float,
    reset: float,
    threshold: float,
) -> None:
    zero, one = u.dtype.type(0), u.dtype.type(1)
    for j in range(u.size):
        u[j] = potential[j] + reset * before[j]
        after[j] = (one if u[j] >= threshold else zero) + leak * before[j]


@compiled
def _integrate(
    current: np.ndarray,
    membrane: np.ndarray,
    u: np.ndarray,
    spikes: np.ndarray,
    after: np.ndarray,
    leak: float,
    threshold: float,
) -> None:
    zero, one = u.dtype.type(0), u.dtype.type(1)
    for j in range(u.size):
        u[j] = membrane[j] * leak + current[j]
        fired = u[j] >= threshold
        spikes[j] = one if fired else zero
        after[j] = u[j] - threshold if fired else u[j]
