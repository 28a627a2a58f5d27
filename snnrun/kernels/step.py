"""Compiled parts of one step of LIF units on the CPU, for methods that learn step by step.

What takes torch a pass over memory per operation takes one in all; what is computed on the way
stays in the cache, block by block.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from snnrun.kernels.compiled.machine_code import compiled, contracted
from snnrun.kernels.compiled.rows import empty
from snnrun.kernels.compiled.threads import split
from snnrun.kernels.lif.slopes import Kind, kind_of, slope
from snnrun.neurons.surrogate import Surrogate


def through_spikes(grad: Tensor, u: Tensor, threshold: float, surrogate: Surrogate) -> Tensor:
    """``grad * h(u - threshold)``: from the gradient of spikes to that of the potentials ``u``."""
    out = _like(u)
    _run(_through, (u, grad, out), *_slope_of(threshold, surrogate))
    return out


def add_through_spikes(
    grad: Tensor, u: Tensor, threshold: float, surrogate: Surrogate, out: Tensor
) -> None:
    """Add `through_spikes` to ``out``, which is contiguous."""
    _run(_add_through, (u, grad, out), *_slope_of(threshold, surrogate))


def _slope_of(threshold: float, surrogate: Surrogate) -> tuple[tuple[float, ...], Kind]:
    cutoff = np.inf if surrogate.cutoff is None else surrogate.cutoff
    return (threshold, surrogate.width, cutoff), kind_of(surrogate)


def fire(u: Tensor, threshold: float) -> Tensor:
    """Spikes Θ(u - threshold)."""
    spikes = _like(u)
    _run(_fire, (u, spikes), (threshold,))
    return spikes


def accumulate_and_fire(
    potential: Tensor, before: Tensor, leak: float, threshold: float
) -> tuple[Tensor, Tensor]:
    """Of P[t] and A[t-1]: u[t] = P[t] - leak V A[t-1] and A[t] = leak A[t-1] + Θ(u[t] - V)."""
    u, after = _like(potential), _like(potential)
    _run(_accumulate, (potential, before, u, after), (leak, -leak * threshold, threshold))
    return u, after


def integrate_and_fire(
    current: Tensor, membrane: Tensor | None, leak: float, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of I[t] and v[t-1]: u[t] = leak v[t-1] + I[t], spikes s[t] and v[t] = u[t] - V s[t].

    Without a membrane, at the first step, u is the current itself.
    """
    spikes, after = _like(current), _like(current)
    if membrane is None:
        _run(_begin, (current, spikes, after), (threshold,))
        return current, spikes, after
    u = _like(current)
    _run(_integrate, (current, membrane, u, spikes, after), (leak, threshold))
    return u, spikes, after


def _run(kernel: Any, tensors: Sequence[Tensor], constants: Sequence[float], *more: Any) -> None:
    """Call the kernel on the values of the tensors, range by range."""
    arrays = [_flat(t) for t in tensors]
    rounded = tuple(map(arrays[0].dtype.type, constants))
    split(arrays[0].size, lambda lo, hi: kernel(*(a[lo:hi] for a in arrays), rounded, *more))


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


@contracted
def _add_through(
    u: np.ndarray, grad: np.ndarray, out: np.ndarray, constants: tuple[float, ...], kind: Kind
) -> None:
    threshold, width, cutoff = constants
    for j in range(u.size):
        out[j] += grad[j] * slope(kind, u[j] - threshold, width, cutoff)


@compiled
def _fire(u: np.ndarray, spikes: np.ndarray, constants: tuple[float, ...]) -> None:
    (threshold,) = constants
    for j in range(u.size):
        spikes[j] = _spike(u[j], threshold)


@compiled
def _spike(u: float, threshold: float) -> float:
    return type(u)(1) if u >= threshold else type(u)(0)


@contracted  # as torch adds a multiple
def _accumulate(
    potential: np.ndarray,
    before: np.ndarray,
    u: np.ndarray,
    after: np.ndarray,
    constants: tuple[float, ...],
) -> None:
    leak, reset, threshold = constants
    for j in range(u.size):
        u[j] = potential[j] + reset * before[j]
        after[j] = _spike(u[j], threshold) + leak * before[j]


@compiled
def _begin(
    u: np.ndarray, spikes: np.ndarray, after: np.ndarray, constants: tuple[float, ...]
) -> None:
    (threshold,) = constants
    for j in range(u.size):
        spikes[j] = _spike(u[j], threshold)
        after[j] = _left(u[j], threshold)


@compiled
def _left(u: float, threshold: float) -> float:
    return u - threshold if u >= threshold else u


@compiled
def _integrate(
    current: np.ndarray,
    membrane: np.ndarray,
    u: np.ndarray,
    spikes: np.ndarray,
    after: np.ndarray,
    constants: tuple[float, ...],
) -> None:
    leak, threshold = constants
    for j in range(u.size):
        u[j] = membrane[j] * leak + current[j]
        spikes[j] = _spike(u[j], threshold)
        after[j] = _left(u[j], threshold)
