"""Leaky integrate-and-fire neuron, with the variants the training methods were published with.

u[t] = leak v[t-1] + I[t],  s[t] = Θ(u[t] - threshold),  v = u reset where s = 1,  v[0] = 0
(Wu et al., 2018; reset and tie rule differ between papers and are keys of the spec).
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from snnrun.errors import choice, require
from snnrun.kernels.lif.multistep import counted_lif, lif
from snnrun.kernels.lif.parameters import LIFParameters, State
from snnrun.neurons.base import Neuron, SpikingNeuron
from snnrun.neurons.surrogate import Surrogate


class LIFNeuron(SpikingNeuron):
    """A layer of LIF units: currents [T', B, ...] to spikes, 0 or 1, of the same shape.

    Attributes:
        constants: what the kernels are told of the units.
        membrane: [B, ...] after the last step's reset.
        held: [B, ...] the last step's current, still to act; None without a delay.
    """

    carried: ClassVar[tuple[str, ...]] = ("membrane", "held")

    def __init__(self, constants: LIFParameters) -> None:
        super().__init__()
        self.constants = constants
        self.threshold = constants.threshold
        self.membrane: Tensor | None = None
        self.held: Tensor | None = None

    def forward(self, current: Tensor) -> Tensor:
        """Spikes [T', B, ...] of the next T' steps."""
        spikes, (self.membrane, self.held) = lif(self.drive(current), self._state(), self.constants)
        return spikes

    def counted(self, current: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` returns, and how many of these spikes each unit has, [B, ...]."""
        drive, before = self.drive(current), self._state()
        spikes, (self.membrane, self.held), counts = counted_lif(drive, before, self.constants)
        return spikes, counts

    def drive(self, current: Tensor) -> Tensor:
        """What acts on the membranes when ``current`` arrives, both [T', B, ...]."""
        return current

    def _state(self) -> State | None:
        return None if self.membrane is None else State(self.membrane, self.held)

    def extra_repr(self) -> str:
        """The constants, for printing the module."""
        return str(self.constants)


@dataclass(kw_only=True)
class LIF(Neuron):
    """Spec of the LIF neuron; the keys are explained in conf/neuron/lif.yaml.

    Raises:
        ConfigError: for a value outside its range, naming the key.
    """

    leak: float
    threshold: float
    reset: str
    rest: float
    surrogate: Surrogate
    detach_reset: bool
    fires_at_threshold: bool
    decay_input: bool
    leak_reset: bool
    delay: int

    def __post_init__(self) -> None:
        require(0 <= self.leak <= 1, f"leak: {self.leak} is not between 0 and 1")
        require(
            not (self.decay_input and self.leak == 1),
            "decay_input: true with leak 1 scales every current to 0; lower leak or set it false",
        )
        check_firing(self.threshold, self.reset, self.rest, self.delay)

    def build(self) -> LIFNeuron:
        """A new layer of these units."""
        return LIFNeuron(
            LIFParameters(
                leak=self.leak,
                threshold=self.threshold,
                hard=self.reset == "hard",
                rest=self.rest,
                surrogate=self.surrogate,
                detach_reset=self.detach_reset,
                fires_at_threshold=self.fires_at_threshold,
                decay_input=self.decay_input,
                leak_reset=self.leak_reset,
                delay=self.delay,
            )
        )


def check_firing(threshold: float, reset: str, rest: float, delay: int) -> None:
    """Refuse values of the keys that every integrate-and-fire neuron has.

    Raises:
        ConfigError: naming the key.
    """
    require(0 < threshold < float("inf"), f"threshold: {threshold} is not positive and finite")
    choice("reset", reset, ("soft", "hard"))
    require(
        -float("inf") < rest < threshold,
        f"rest: {rest} is not below the threshold {threshold}, so a spike would not reset",
    )
    require(delay in (0, 1), f"delay: {delay} is not 0 or 1 step")
