"""The surrogate derivatives of `snnrun.neurons.surrogate`, compiled; tested to agree with them.

One function holds them all, chosen once per row of units, so that one compilation serves every
surrogate. Literals carry the type of the row: a plain one would widen the row to double precision.
"""

import numpy as np

from snnrun.kernels.machine_code import compiled, contracted


@contracted
def slopes(code: int, x: np.ndarray, w: float, out: np.ndarray) -> None:
    """Write h(x) of the surrogate of this code and width w into out; x and out are [n]."""
    zero, half, one = x.dtype.type(0), x.dtype.type(0.5), x.dtype.type(1)
    if code == 0:
        for j in range(x.size):
            out[j] = max(w - abs(x[j]), zero) / (w * w)
    elif code == 1:
        for j in range(x.size):
            out[j] = one / w if abs(x[j]) < w * half else zero
    elif code == 2:
        for j in range(x.size):
            out[j] = -w * abs(x[j])
        _exponential(out[: x.size], one)
        for j in range(x.size):
            out[j] = w * out[j] / ((one + out[j]) * (one + out[j]))
    elif code == 3:
        a = x.dtype.type(np.pi / 2) * w
        for j in range(x.size):
            out[j] = w * half / (one + (a * x[j]) * (a * x[j]))
    else:
        _smooth_tails(code, x, w, out)


@contracted
def _smooth_tails(code: int, x: np.ndarray, w: float, out: np.ndarray) -> None:
    half, one = x.dtype.type(0.5), x.dtype.type(1)
    if code == 4:
        for j in range(x.size):
            y = one + w * abs(x[j])
            out[j] = w * half / (y * y)
    elif code == 5:
        for j in range(x.size):
            y = one + w * abs(x[j])
            out[j] = one / (y * y)
    elif code == 6:
        for j in range(x.size):
            out[j] = -w * abs(x[j])
        _exponential(out[: x.size], w * half)
    else:
        peak = one / (w * x.dtype.type(np.sqrt(2 * np.pi)))
        for j in range(x.size):
            out[j] = -half * (x[j] / w) * (x[j] / w)
        _exponential(out[: x.size], peak)


@contracted
def _exponential(x: np.ndarray, peak: float) -> None:
    """Turn x <= 0 into peak * exp(x), in place, with a relative error of 2 roundings at most.

    The library's exponential is called unit by unit and would take most of the backward pass.
    Here exp(y) = 2^n exp(r) with y = n ln 2 + r and abs r <= ln 2 / 2; a Taylor sum gives exp(r)
    and the bits of n the power, so the loop vectorises. Below the last normal number y is held.
    """
    if x.itemsize == 4:
        _exponential_single(x, peak)
    else:
        _exponential_double(x, peak)


@contracted
def _exponential_single(x: np.ndarray, peak: float) -> None:
    half, one = np.float32(0.5), np.float32(1)
    for j in range(x.size):
        y = max(np.float32(x[j]), np.float32(-87))
        n = np.floor(y * np.float32(1.4426950408889634) + half)
        r = (y - n * np.float32(0.693359375)) - n * np.float32(-2.12194440e-4)
        value = np.float32(1 / 5040) * r + np.float32(1 / 720)
        value = value * r + np.float32(1 / 120)
        value = value * r + np.float32(1 / 24)
        value = value * r + np.float32(1 / 6)
        value = (value * r + half) * r + one
        value = value * r + one
        power = np.int32((np.int32(n) + 127) << 23).view(np.float32)
        x[j] = peak * (value * power)


@contracted
def _exponential_double(x: np.ndarray, peak: float) -> None:
    for j in range(x.size):
        y = max(float(x[j]), -707.0)
        n = np.floor(y * 1.4426950408889634 + 0.5)
        r = (y - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10
        value = 1.0
        for k in range(13, 0, -1):  # unrolled
            value = 1.0 + value * (r * (1.0 / k))
        power = np.int64((np.int64(n) + 1023) << 52).view(np.float64)
        x[j] = peak * (value * power)


@compiled
def cut(x: np.ndarray, cutoff: float, out: np.ndarray) -> None:
    """Zero the slopes out [n] at a distance x [n] of the cutoff or more."""
    zero = x.dtype.type(0)
    for j in range(x.size):
        out[j] = out[j] if abs(x[j]) < cutoff else zero
