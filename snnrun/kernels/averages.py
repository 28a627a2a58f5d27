"""One step of units of which only the average output is wanted, compiled for the CPU.

What takes torch a pass over memory per operation takes one in all. Products and sums are rounded
one by one and in torch's order, so results are those of torch bit by bit.

All tensors of a layer have one shape. What a step changes is dense and laid out alike.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from snnrun.kernels.compiled.machine_code import compiled
from snnrun.kernels.compiled.rows import Place, flat, laid_out
from snnrun.kernels.compiled.threads import split
from snnrun.kernels.lif.parameters import LIFParameters
from snnrun.kernels.lif.recursion import Constants, charged, constants_of, left


def firing(
    membrane: Tensor, total: Tensor, spikes: Tensor, p: LIFParameters, *, leak: float
) -> Callable[[Tensor], None]:
    """Units that fire: called with the current of a step, in any layout, they take that step.

    It is the recursion that `LIFParameters` states, without its delay.

    Args:
        membrane: after the last reset; becomes that after this one.
        total: leak-weighted sum of the spikes, to which this step's are added.
        spikes: where to write this step's, 0 or 1.
        p: constants of the units.
        leak: that of the sum.
    """
    arrays = [flat(t) for t in (membrane, total, spikes)]
    dtype = arrays[0].dtype
    constants, kept = constants_of(p, dtype), dtype.type(leak)

    def step(current: Tensor) -> None:
        x = flat(laid_out(current, membrane))
        split(x.size, lambda lo, hi: _fire(x, *arrays, constants, kept, lo, hi))

    return step


def coupling(
    potential: Tensor,
    total: Tensor,
    count: Tensor,
    mask: Tensor,
    sent: Tensor,
    *,
    leak: float,
    threshold: float,
    subtracted: float,
) -> Callable[[Tensor], None]:
    """Ternary couples, which output 2 threshold with their sign and subtract it.

    Called with the current of a step, in any layout, they take that step.

    Args:
        potential: after the last reset, before the leak; becomes that after this one.
        total: leak-weighted sum of the outputs, to which this step's are added.
        count: number of outputs of either sign.
        mask: booleans, which units send anything on; laid out in any way.
        sent: where to write this step's outputs, masked and divided by ``subtracted``.
        leak: factor the potential and the sum keep per step.
        threshold: size of the potential at which a couple fires.
        subtracted: see ``sent``.
    """
    arrays = [flat(t) for t in (potential, total, count, laid_out(mask, potential), sent)]
    kind = arrays[0].dtype.type
    constants = [kind(c) for c in (leak, threshold, 2 * threshold, subtracted)]

    def step(current: Tensor) -> None:
        x = flat(laid_out(current, potential))
        split(x.size, lambda lo, hi: _couple(x, *arrays, *constants, lo, hi))

    return step


@compiled
def _fire(
    current: np.ndarray,
    membrane: np.ndarray,
    total: np.ndarray,
    spikes: np.ndarray,
    constants: Constants,
    leak: float,
    lo: Place,
    hi: Place,
) -> None:
    lo, hi = np.uint64(lo), np.uint64(hi)
    zero, one = membrane.dtype.type(0), membrane.dtype.type(1)
    for j in range(lo, hi):
        u = charged(membrane[j], current[j], constants)
        spike = one if u > constants.firing else zero
        membrane[j] = left(u, constants)
        total[j] = total[j] * leak + spike
        spikes[j] = spike


@compiled
def _couple(
    current: np.ndarray,
    potential: np.ndarray,
    total: np.ndarray,
    count: np.ndarray,
    mask: np.ndarray,
    sent: np.ndarray,
    leak: float,
    threshold: float,
    output: float,
    subtracted: float,
    lo: Place,
    hi: Place,
) -> None:
    lo, hi = np.uint64(lo), np.uint64(hi)
    zero, one = potential.dtype.type(0), potential.dtype.type(1)
    for j in range(lo, hi):
        u = potential[j] * leak + current[j]
        sign = one if u >= threshold else (-one if u <= -threshold else zero)
        potential[j] = u - sign * output
        total[j] = total[j] * leak + sign * output
        count[j] += abs(sign)
        sent[j] = sign * output / subtracted if mask[j] else zero
