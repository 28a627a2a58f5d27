"""Surrogate derivatives h(u - θ): what stands in for the derivative of the spike step.

All share the forward step Θ(u - θ). Each takes x = u - θ, of any shape, and one constant, the
`width`, in the unit of x for the first two and for the Gaussian and in its inverse (a sharpness)
for the others. All but the fast sigmoid have integral 1; compare widths at equal peak or equal
integral, never at equal number. Triangle and rectangular are exactly zero outside their support,
so a unit that never comes near its threshold gets no gradient; the others revive it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from snnrun.errors import choice, require


def triangle(x: Tensor, width: float) -> Tensor:
    """Half-width `width`, peak 1/width (Deng et al., 2022; Bellec et al., 2018)."""
    return (width - x.abs()).clamp(min=0) / width**2


def rectangular(x: Tensor, width: float) -> Tensor:
    """Full width `width`, peak 1/width (Wu et al., 2018; Zheng et al., 2021)."""
    return (x.abs() < width / 2).to(x.dtype) / width


def sigmoid(x: Tensor, width: float) -> Tensor:
    """Derivative of the logistic function of sharpness `width`, peak width/4."""
    y = torch.sigmoid(width * x)
    return width * y * (1 - y)


def arctan(x: Tensor, width: float) -> Tensor:
    """Derivative of the scaled arc tangent, peak width/2 (Fang et al., 2021)."""
    return width / 2 / (1 + (math.pi / 2 * width * x).square())


def softsign(x: Tensor, width: float) -> Tensor:
    """Derivative of the scaled soft sign, peak width/2."""
    return width / 2 / (1 + width * x.abs()).square()


def fast_sigmoid(x: Tensor, width: float) -> Tensor:
    """SuperSpike's derivative, peak 1 and integral 2/width (Zenke and Ganguli, 2018)."""
    return 1 / (1 + width * x.abs()).square()


def piecewise_exponential(x: Tensor, width: float) -> Tensor:
    """Two-sided exponential of sharpness `width`, peak width/2 (Shrestha and Orchard, 2018)."""
    return width / 2 * torch.exp(-width * x.abs())


def gaussian(x: Tensor, width: float) -> Tensor:
    """Normal density of standard deviation `width` (Yin et al., 2021)."""
    return torch.exp(-0.5 * (x / width).square()) / (width * math.sqrt(2 * math.pi))


SURROGATES: dict[str, Callable[[Tensor, float], Tensor]] = {
    h.__name__: h
    for h in (
        triangle,
        rectangular,
        sigmoid,
        arctan,
        softsign,
        fast_sigmoid,
        piecewise_exponential,
        gaussian,
    )
}


@dataclass(kw_only=True, unsafe_hash=True)  # not frozen: OmegaConf could not fill it
class Surrogate:
    """A surrogate derivative by name, with its constant.

    Attributes:
        name: key of `SURROGATES`.
        width: constant of that function, see its docstring; positive.
        cutoff: distance from the threshold from which on h is exactly 0; None for no window.

    Raises:
        ConfigError: for an unknown name, or a width or cutoff that is not positive.
    """

    name: str
    width: float
    cutoff: float | None = None

    @property
    def code(self) -> int:
        """The number by which compiled kernels know the function: its place in `SURROGATES`."""
        return list(SURROGATES).index(self.name)

    def __post_init__(self) -> None:
        choice("surrogate.name", self.name, tuple(SURROGATES))
        require(
            0 < self.width < math.inf,
            f"surrogate.width: {self.width} is not a positive, finite number",
        )
        require(
            self.cutoff is None or self.cutoff > 0,
            f"surrogate.cutoff: {self.cutoff} is not a positive number (null: no window)",
        )

    def __call__(self, x: Tensor) -> Tensor:
        """h(x) at x = u - θ, of the shape of x."""
        slope = SURROGATES[self.name](x, self.width)
        return slope if self.cutoff is None else slope * (x.abs() < self.cutoff)
