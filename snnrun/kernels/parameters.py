"""What a multi-step kernel is told: the constants of the unit and the state it starts from."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from snnrun.neurons.surrogate import Surrogate


class State(NamedTuple):
    """What a layer carries from one chunk to the next.

    Attributes:
        membrane: [B, ...] what is left of the membrane after the last step's reset.
        held: [B, ...] the last step's current, still to act; None without a delay.
    """

    membrane: Tensor
    held: Tensor | None


@dataclass(frozen=True, kw_only=True)
class LIFParameters:
    """Constants of a leaky integrate-and-fire unit; leak 1 is the integrate-and-fire unit.

    Every variant is one recursion,
        u[t] = leak_before * v[t-1] + gain * I[t],   s[t] = Θ(u[t] - threshold),
        v[t] = scale_fired * u[t] + offset_fired where it fires, else leak_after * u[t],
    where the leak acts before (on the reset membrane) or after (the reset is not leaked).

    Attributes:
        leak: factor the membrane keeps per step.
        threshold: membrane value at which the unit fires.
        hard: reset to `rest` if true, else subtract `threshold - rest`.
        rest: value after a hard reset; floor that a soft reset subtracts towards.
        surrogate: derivative used for that of the spike step.
        detach_reset: no gradient through the spike that resets.
        fires_at_threshold: Θ(0) is 1.
        decay_input: the current is scaled by 1 - leak.
        leak_reset: the amount a reset removes leaks with the membrane.
        delay: steps after which a current acts, 0 or 1.
    """

    leak: float
    threshold: float
    hard: bool
    rest: float
    surrogate: Surrogate
    detach_reset: bool
    fires_at_threshold: bool
    decay_input: bool
    leak_reset: bool
    delay: int

    @property
    def gain(self) -> float:
        """Factor on the current."""
        return 1 - self.leak if self.decay_input else 1.0

    @property
    def leak_before(self) -> float:
        """Factor on v[t-1] when it enters step t."""
        return self.leak if self.leak_reset else 1.0

    @property
    def leak_after(self) -> float:
        """Factor on u[t] before the reset is taken off."""
        return 1.0 if self.leak_reset else self.leak

    @property
    def scale_fired(self) -> float:
        """Factor on u[t] where the unit fired: a hard reset forgets it."""
        return 0.0 if self.hard else self.leak_after

    @property
    def offset_fired(self) -> float:
        """Added where the unit fired: the value of a hard reset, or what a soft one takes off."""
        return self.rest if self.hard else self.rest - self.threshold
