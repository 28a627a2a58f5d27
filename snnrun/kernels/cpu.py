"""Compiled kernel for the CPU: both passes fused over time, one read and one write per element.

Units are cut into blocks; a block runs through all its steps with its membrane in the first-level
cache. Nothing is written for the backward pass: it keeps the current itself (one copy whatever T
for an expanded current) and integrates it again, which is cheaper than a round trip of the
potentials through memory. Same spikes as the eager kernel bit by bit.
"""


import numba
import numpy as np

from snnrun.neurons.surrogate import SURROGATES

BLOCK = 512  # units run together: 64 steps of potentials are 128 KiB in single precision

_NAMES = tuple(SURROGATES)
_TRIANGLE, _RECTANGULAR, _SIGMOID, _ARCTAN, _SOFTSIGN, _FAST_SIGMOID, _EXPONENTIAL, _GAUSSIAN = (
    _NAMES.index(name)
    for name in (
        "triangle",
        "rectangular",
        "sigmoid",
        "arctan",
        "softsign",
        "fast_sigmoid",
        "piecewise_exponential",
        "gaussian",
    )
)

jit = numba.njit(cache=True, nogil=True, error_model="numpy")


@jit
def _slopes(kind, x, w, out):
    one = w.dtype.type(1) if False else x.dtype.type(1)
    half = x.dtype.type(0.5)
    if kind == _TRIANGLE:
        for j in range(x.size):
            out[j] = max(w - abs(x[j]), x.dtype.type(0)) / (w * w)
    elif kind == _RECTANGULAR:
        for j in range(x.size):
            out[j] = one / w if abs(x[j]) < w * half else x.dtype.type(0)
    elif kind == _ARCTAN:
        a = x.dtype.type(np.pi / 2) * w
        for j in range(x.size):
            out[j] = w * half / (one + (a * x[j]) * (a * x[j]))
    elif kind == _SIGMOID:
        for j in range(x.size):
            y = one / (one + np.exp(-w * x[j]))
            out[j] = w * y * (one - y)


@jit
def fwd(current, hop, membrane, spikes, lo, hi, before, after, gain, theta, drop, rest, hard, ties):
    for start in range(lo, hi, 512):
        stop = min(start + 512, hi)
        for t in range(spikes.shape[0]):
            x = current[t * hop, start:stop]
            v = membrane[start:stop]
            s = spikes[t, start:stop]
            for j in range(stop - start):
                u = v[j] * before + x[j] * gain
                fired = u > theta or (ties and u == theta)
                left = u * after
                if fired:
                    left = rest if hard else left - drop
                v[j] = left
                s[j] = 1 if fired else 0


@jit
def bwd(
    current,
    hop,
    membrane,
    gs,
    ghop,
    gv,
    gi,
    lo,
    hi,
    before,
    after,
    gain,
    theta,
    drop,
    rest,
    hard,
    ties,
    attached,
    kind,
    width,
):
    T = gi.shape[0]
    us = np.empty((T, 512), gi.dtype)
    slope = np.empty(512, gi.dtype)
    xs = np.empty(512, gi.dtype)
    zero = gi.dtype.type(0)
    for start in range(lo, hi, 512):
        m = min(512, hi - start)
        v = xs
        for j in range(m):
            v[j] = membrane[start + j]
        for t in range(T):
            x = current[t * hop, start : start + m]
            row = us[t]
            for j in range(m):
                u = v[j] * before + x[j] * gain
                fired = u > theta or (ties and u == theta)
                left = u * after
                if fired:
                    left = rest if hard else left - drop
                v[j] = left
                row[j] = u
        g = gv[start : start + m]
        for t in range(T - 1, -1, -1):
            row = us[t]
            for j in range(m):
                xs[j] = row[j] - theta
            _slopes(kind, xs[:m], width, slope)
            s = gs[t * ghop, start : start + m]
            out = gi[t, start : start + m]
            for j in range(m):
                u = row[j]
                fired = u > theta or (ties and u == theta)
                passed = zero if hard and fired else after
                if attached:
                    passed -= slope[j] * (u * after - rest if hard else drop)
                delta = slope[j] * s[j] + passed * g[j]
                out[j] = delta * gain
                g[j] = delta * before
