"""What a multi-step kernel is told: the constants of the unit and the state it starts from."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

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
        trained: the backward pass returns the gradients to the constants of the recursion, too.
    """

    trained: ClassVar[bool] = False
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

    @property
    def recursion(self) -> tuple[float | Tensor, ...]:
        """The six constants of the recursion, in the order of its formulas."""
        return (
            self.leak_before,
            self.gain,
            self.leak_after,
            self.scale_fired,
            self.offset_fired,
            self.threshold,
        )

    def fixed(self) -> "LIFParameters":
        """The same in plain numbers."""
        return self


@dataclass(frozen=True, kw_only=True)
class TrainedParameters(LIFParameters):
    """Constants that follow from trained numbers, whose gradients come back through them.

    Attributes:
        leak: a tensor of no dimensions in double precision, with its graph.
        threshold: another, or a plain number if it is not trained.
    """

    trained: ClassVar[bool] = True
    leak: Tensor  # type: ignore[assignment]  # a tensor computes the constants as a float does
    threshold: Tensor | float  # type: ignore[assignment]

    def fixed(self) -> LIFParameters:
        """The present values; waits for the device that holds them."""
        numbers: dict[str, Any] = {name: _value(x) for name, x in vars(self).items()}
        return LIFParameters(**numbers)


def _value(x: Any) -> Any:
    """A tensor's number; not one in a net of shapes alone, which counts its operations."""
    if not isinstance(x, Tensor):
        return x
    return math.nan if x.is_meta else x.item()
