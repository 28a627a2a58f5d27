"""The surrogate derivatives of `snnrun.neurons.surrogate`, compiled; tested to agree with them.

One function holds them all, chosen once per row of units, so that one compilation serves every
surrogate. Literals carry the type of the row: a plain one would widen the row to double precision.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

CODES = {
    name: code
    for code, name in enumerate(
        (
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
}


def compiled(function: Callable[..., None]) -> Any:
    """Compile on first use, keeping the machine code on disk where there is a place for it."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # neither the package nor the user's cache folder can be written
        return numba.njit(nogil=True, error_model="numpy")(function)


@compiled
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
            y = one / (one + np.exp(-w * x[j]))
            out[j] = w * y * (one - y)
    elif code == 3:
        a = x.dtype.type(np.pi / 2) * w
        for j in range(x.size):
            out[j] = w * half / (one + (a * x[j]) * (a * x[j]))
    else:
        _smooth_tails(code, x, w, out)


@compiled
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
            out[j] = w * half * np.exp(-w * abs(x[j]))
    else:
        peak = one / (w * x.dtype.type(np.sqrt(2 * np.pi)))
        for j in range(x.size):
            y = x[j] / w
            out[j] = peak * np.exp(-half * y * y)
