"""The surrogate derivatives of `snnrun.neurons.surrogate`, compiled; tested to agree with them.

Each takes one distance, within the loop of a kernel. Literals carry the type of the distance: a
plain one would widen the loop to double precision.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from snnrun.kernels.compiled.machine_code import contracted
from snnrun.neurons.surrogate import Surrogate

Kind = tuple[int, ...]
LOG2E = math.log2(math.e)


def kind_of(surrogate: Surrogate) -> Kind:
    """What tells compiled code the surrogate: as many zeros as its code.

    The length of a tuple is part of its type, so that a kernel is compiled for the surrogate in use
    alone, and kept on disk for it.
    """
    return (0,) * surrogate.code


def slope(kind: Kind, x: float, width: float, cutoff: float | None) -> float:
    """h(x) of the surrogate of this kind, 0 from the cutoff on; for compiled code only."""
    raise NotImplementedError


@overload(slope)
def _slope(kind: Any, x: Any, width: Any, cutoff: Any) -> Callable[..., Any]:
    h = _SLOPES[kind.count]

    def windowed(kind: Any, x: Any, width: Any, cutoff: Any) -> Any:
        return type(x)(0) if abs(x) >= cutoff else h(x, width)

    def everywhere(kind: Any, x: Any, width: Any, cutoff: Any) -> Any:
        return h(x, width)

    return everywhere if cutoff in (None, types.none) else windowed


@contracted
def _triangle(x: float, w: float) -> float:
    return max(w - abs(x), type(x)(0)) / (w * w)


@contracted
def _rectangular(x: float, w: float) -> float:
    return type(x)(1) / w if abs(x) < w * type(x)(0.5) else type(x)(0)


@contracted
def _sigmoid(x: float, w: float) -> float:
    one = type(x)(1)
    e = _power_of_two(type(x)(-LOG2E) * w * abs(x))
    return w * e / ((one + e) * (one + e))


@contracted
def _arctan(x: float, w: float) -> float:
    y = type(x)(np.pi / 2) * w * x
    return w * type(x)(0.5) / (type(x)(1) + y * y)


@contracted
def _softsign(x: float, w: float) -> float:
    return w * type(x)(0.5) * _fast_sigmoid(x, w)


@contracted
def _fast_sigmoid(x: float, w: float) -> float:
    y = type(x)(1) + w * abs(x)
    return type(x)(1) / (y * y)


@contracted
def _piecewise_exponential(x: float, w: float) -> float:
    return w * type(x)(0.5) * _power_of_two(type(x)(-LOG2E) * w * abs(x))


@contracted
def _gaussian(x: float, w: float) -> float:
    peak = type(x)(1) / (w * type(x)(np.sqrt(2 * np.pi)))
    y = x / w
    return peak * _power_of_two(type(x)(-LOG2E / 2) * (y * y))


_SLOPES = (  # by code
    _triangle,
    _rectangular,
    _sigmoid,
    _arctan,
    _softsign,
    _fast_sigmoid,
    _piecewise_exponential,
    _gaussian,
)


def _power_of_two(y: float) -> float:
    """2^y of y <= 0, with a relative error of 2 roundings at most; for compiled code only.

    The library's function is called unit by unit and would take most of the backward pass. Here
    y = n + r with abs r <= 1/2; a polynomial gives 2^r and n is added to its exponent, so that the
    loop vectorises. From the exponent after that of the least normal number on down y is held.
    """
    raise NotImplementedError


@overload(_power_of_two, jit_options={"fastmath": {"contract"}})
def _power_of_two_of(y: Any) -> Callable[..., Any]:
    single = y == types.float32
    real: Any = np.float32 if single else np.float64
    bits: Any = np.uint32 if single else np.uint64
    digits, bias, degree = (23, 127, 6) if single else (52, 1023, 12)
    least, place = real(2 - bias), bits(digits)
    # A sum with it has no digits for fractions: y is rounded to n, whose bits are the sum's last.
    shift = real(1.5 * 2**digits)
    highest, *others = map(real, _coefficients(degree)[::-1])
    *pairs, last = zip(others[::2], others[1::2], strict=True)  # fewer terms wait for each other
    but_last = tuple(pairs)

    def power(y: Any) -> Any:
        y = max(y, least)
        shifted = real(y + shift)
        r = y - (shifted - shift)
        square, value = r * r, highest
        for odd, even in but_last:
            value = value * square + (odd * r + even)
        mantissa = real(value * square + (last[0] * r + last[1]))
        return bits(mantissa.view(bits) + (shifted.view(bits) << place)).view(real)

    return power


def _coefficients(degree: int) -> np.ndarray:
    """Coefficients of 2^r for abs r <= 1/2.

    Those of a Taylor sum one degree higher, less a multiple of the Chebyshev polynomial T(2r) that
    takes away its last term: 2^degree times as exact as leaving it out.
    """
    powers = range(degree + 2)
    taylor = np.array([math.log(2) ** k / math.factorial(k) for k in powers])
    chebyshev = np.polynomial.Chebyshev.basis(degree + 1).convert(kind=np.polynomial.Polynomial)
    scaled = np.array([c * 2**k for k, c in enumerate(chebyshev.coef)])
    return (taylor - taylor[-1] / scaled[-1] * scaled)[:-1]
