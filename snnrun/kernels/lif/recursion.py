"""One step of the recursion of `parameters.LIFParameters`, of one unit; for compiled code.

A constant that changes nothing is None, and the code is compiled without it: most units leave out
half of the recursion.
"""

from typing import NamedTuple

import numpy as np

from snnrun.kernels.compiled.machine_code import compiled
from snnrun.kernels.lif.parameters import LIFParameters


class Constants(NamedTuple):
    """What compiled steps take of `LIFParameters`, in the type in which they compute.

    Attributes:
        before: factor on what the last step left; None if it is 1, as all factors.
        gain: factor on the current.
        after: factor on a potential that does not fire.
        scale: factor on one that does.
        offset: added to it.
        threshold: what a potential is compared with.
        firing: the largest potential that does not fire.
        lost: share of a potential that a spike takes away; None if no gradient goes that way.
        width: of the surrogate.
        cutoff: distance from which on the surrogate is zero; None if there is none.
    """

    before: float | None
    gain: float | None
    after: float | None
    scale: float | None
    offset: float
    threshold: float
    firing: float
    lost: float | None
    width: float
    cutoff: float | None


def constants_of(p: LIFParameters, dtype: np.dtype) -> Constants:
    """The present constants; of trained ones no factor is None, as code is compiled for that."""
    fixed, kind = p.fixed(), dtype.type
    *numbers, offset, threshold = map(kind, fixed.recursion)
    before, gain, after, scale = (None if x == 1 and not p.trained else x for x in numbers)
    firing = threshold
    if p.fires_at_threshold:  # u >= threshold is u > the next number below it
        firing = np.nextafter(firing, kind(-np.inf))
    lost = None if p.detach_reset else kind(fixed.leak_after - fixed.scale_fired)
    width, cutoff = p.surrogate.width, p.surrogate.cutoff
    cutoff = None if cutoff is None else kind(cutoff)
    return Constants(
        before, gain, after, scale, offset, threshold, firing, lost, kind(width), cutoff
    )


@compiled
def times(x: float, factor: float | None) -> float:
    """The product with a factor, if there is one."""
    return x if factor is None else x * factor


@compiled
def charged(v: float, current: float, constants: Constants) -> float:
    """Potential of a unit, of what the last step left of it and the current that acts."""
    return times(v, constants.before) + times(current, constants.gain)


@compiled
def left(u: float, constants: Constants) -> float:
    """What a step leaves of a potential."""
    if u > constants.firing:
        return times(u, constants.scale) + constants.offset
    return times(u, constants.after)


@compiled
def to_spike(arriving: float, u: float, grad: float, constants: Constants) -> float:
    """dL/ds of dL/ds from elsewhere and, where it goes through the reset, dL/dv."""
    return _reset(arriving, u, grad, constants.offset, constants.lost)


@compiled
def _reset(arriving: float, u: float, grad: float, offset: float, lost: float | None) -> float:
    return arriving if lost is None else arriving - grad * (u * lost - offset)


@compiled
def to_potential(u: float, grad: float, constants: Constants) -> float:
    """dL/du of dL/dv with the spike held fast."""
    if u > constants.firing:
        return times(grad, constants.scale)
    return times(grad, constants.after)
