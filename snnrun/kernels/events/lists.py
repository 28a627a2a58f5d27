"""What the event-driven kernels exchange: index lists, and the constants of the units between them.

Nothing here depends on a backend; `eager` is the readable reference, `cpu` the compiled form,
`cuda` the one for CUDA devices.
Sparse spiking gradient descent: Perez-Nieves and Goodman, NeurIPS 2021, arXiv 2105.08810.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Events(NamedTuple):
    """Which units of a layer did something, sample by sample and step by step.

    Attributes:
        index: int32 [n] unit of each event, ordered by sample, then step, then unit.
        start: int32 [B * T + 1] where the events of (sample b, step t) begin, at b * T + t.
    """

    index: Tensor  # type: ignore[assignment]  # hides the tuple's method of that name
    start: Tensor


class Record(NamedTuple):
    """What one layer of units keeps for the backward pass.

    Attributes:
        spikes: its spikes.
        active: units within the window around the threshold: only these carry gradient.
        slope: [n] surrogate derivative of each active event.
    """

    spikes: Events
    active: Events
    slope: Tensor


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Constants of a layer of units with one step of delay and a soft reset outside the gradient.

    V[t+1] = leak V[t] + I[t] - drop S[t],  S[t] = V[t] > threshold,  I[t] = W S_below[t] or, with a
    synaptic leak, I[t+1] = synapse I[t] + W S_below[t];  all 0 at t = 0.

    Attributes:
        leak: factor the membrane keeps per step.
        synapse: factor the synaptic current keeps per step; None: no synaptic current.
        threshold: a unit fires strictly above it.
        drop: what a spike takes off the membrane.
        window: half-width around the threshold outside of which the surrogate is exactly 0.
        steepness: beta of the surrogate 1 / (beta |V - threshold| + 1)^2.
    """

    leak: float
    synapse: float | None
    threshold: float
    drop: float
    window: float
    steepness: float


@dataclass(frozen=True, kw_only=True)
class Readout:
    """O[0] = 0, O[t+1] = leak O[t] + (1 - leak) W S[t]; logits are its max or sum over t < T."""

    leak: float
    reduce: str


class Incoming(NamedTuple):
    """Gradient that arrives at the potentials of a layer, as events and as a part constant in time.

    Attributes:
        at: where it arrives.
        value: [n] dL/dV at each event.
        drive: [B, units] added at every step, or [0, units] for none.
    """

    at: Events
    value: Tensor
    drive: Tensor


def pointers(counts: Tensor) -> Tensor:
    """Where each row of a list begins, int32 [rows + 1], for the rows' lengths [rows]."""
    start = torch.zeros(counts.numel() + 1, dtype=torch.int32, device=counts.device)
    torch.cumsum(counts, 0, dtype=torch.int32, out=start[1:])
    return start


def from_mask(mask: Tensor) -> Events:
    """Events of a mask [B, T, units]."""
    rows = mask.flatten(0, 1)
    return Events(rows.nonzero()[:, 1].int(), pointers(rows.sum(1)))


def rows(events: Events) -> Tensor:
    """Row b * T + t of each event, int64 [n]."""
    lengths = events.start.diff()
    every = torch.arange(len(lengths), device=lengths.device)
    return every.repeat_interleave(lengths, output_size=len(events.index))


def to_dense(
    events: Events, value: Tensor | float, shape: tuple[int, int, int], like: Tensor
) -> Tensor:
    """Values [B, T, units] at the events, 0 elsewhere, of the type and device of ``like``."""
    dense = like.new_zeros(shape)
    dense.flatten(0, 1)[rows(events), events.index.long()] = (
        value if isinstance(value, Tensor) else like.new_tensor(value)
    )
    return dense


def counts(events: Events, batch: int, units: int, like: Tensor) -> Tensor:
    """Events of every unit over all steps, [B, units] of the type of ``like``."""
    steps = (len(events.start) - 1) // batch
    place = rows(events).div_(steps, rounding_mode="floor").mul_(units).add_(events.index)
    return torch.bincount(place, minlength=batch * units).view(batch, units).to(like.dtype)
