"""Turning pixels into what a spiking net receives at each of T steps.

x is the pixel scaled to [0, 1]; every code is a function of x alone, never of the batch around it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from snnrun.errors import choice, require

ENCODINGS = ("direct", "poisson", "latency", "latency_linear")


@dataclass(kw_only=True)
class Encoding:
    """How pixels become input over time.

    - `direct`: the normalised image at every step, as one expanded view.
    - `poisson`: a spike where u < gain * x, u uniform in [0, 1).
    - `latency`: one spike at step floor(tau ln(x / (x - threshold))), none if x <= threshold or the
      step is past the end (SSGD, Bauer et al.; FastSNN).
    - `latency_linear`: exactly one spike per pixel, at (T - 1)(1 - x).
    """

    name: str
    gain: float  # poisson
    threshold: float  # latency
    tau: float  # latency, in steps
    rounding: str  # latency_linear

    def __post_init__(self) -> None:
        choice("encoding.name", self.name, ENCODINGS)
        choice("encoding.rounding", self.rounding, ("round", "floor"))
        require(self.gain > 0, f"encoding.gain: {self.gain} is not above 0")
        require(0 < self.threshold < 1, f"encoding.threshold: {self.threshold} is not in (0, 1)")
        require(self.tau > 0, f"encoding.tau: {self.tau} is not above 0")


def spike_steps(encoding: Encoding, *, peak: int, timesteps: int) -> Tensor:
    """The step at which each pixel value 0..255 fires under a latency code.

    Returns:
        int64 [256]; `timesteps` stands for "never".
    """
    steps = [_spike_step(encoding, min(v / peak, 1.0), timesteps) for v in range(256)]
    return torch.tensor([min(step, timesteps) for step in steps])


def _spike_step(encoding: Encoding, x: float, timesteps: int) -> int:
    if encoding.name == "latency_linear":
        step = (timesteps - 1) * (1 - x)
        return round(step) if encoding.rounding == "round" else math.floor(step)
    if x <= encoding.threshold:
        return timesteps
    return int(encoding.tau * math.log(x / (x - encoding.threshold)))


def latency_spikes(pixels: Tensor, steps: Tensor, timesteps: int, dtype: torch.dtype) -> Tensor:
    """One spike per pixel at the step its value maps to.

    Args:
        pixels: uint8 [B,C,H,W].
        steps: int64 [256] from `spike_steps`, on the same device.
        timesteps: T.
        dtype: of the result.

    Returns:
        Zeros and ones [T,B,C,H,W].
    """
    at = steps.index_select(0, pixels.flatten().int()).view(1, *pixels.shape)
    # One plane more than asked for: pixels that never fire land there and are cut off.
    spikes = torch.zeros(timesteps + 1, *pixels.shape, dtype=dtype, device=pixels.device)
    return spikes.scatter_(0, at, 1.0)[:timesteps]


def poisson_spikes(
    pixels: Tensor, gain: float, timesteps: int, dtype: torch.dtype, draws: torch.Generator
) -> Tensor:
    """Independent spikes with probability `gain * pixel`, capped at 1.

    Args:
        pixels: uint8 [B,C,H,W].
        gain: probability of a spike per unit of pixel value.
        timesteps: T.
        dtype: of the result.
        draws: generator on the pixels' device.

    Returns:
        Zeros and ones [T,B,C,H,W].
    """
    # "<" with u in [0, 1): a black pixel never fires and a certain one always does.
    shape = (timesteps, *pixels.shape)
    uniform = torch.rand(shape, generator=draws, device=pixels.device)
    return (uniform < pixels.float() * gain).to(dtype)
