"""What every neuron is: a spec that builds a module that turns currents into spikes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn


class Stateful(nn.Module):
    """A part of a net that carries state from one chunk of time to the next.

    Attributes:
        carried: names of the attributes that hold the state, each a floating tensor or None, as all
            are at the start of a sequence. It is not part of the state dict.
    """

    carried: ClassVar[tuple[str, ...]]

    def reset(self) -> None:
        """Forget the state; the next chunk starts a new sequence of any batch size."""
        for name in self.carried:
            setattr(self, name, None)


class SpikingNeuron(Stateful, ABC):
    """A layer of spiking units.

    A whole sequence is one chunk of T steps, step by step is T chunks of one step; the spikes are
    the same.

    Attributes:
        threshold: membrane value at which a unit fires.
        amplitude: value a spike has in the output; the output over the amplitude is 0 or 1.
    """

    threshold: float
    amplitude: float = 1.0

    def detach(self) -> None:
        """Cut the graph at the present state: no gradient flows to the chunks before it."""
        for name in self.carried:
            value = getattr(self, name)
            setattr(self, name, None if value is None else value.detach())

    @abstractmethod
    def forward(self, current: Tensor) -> Tensor:
        """Spikes [T', B, ...] for the currents [T', B, ...] of the next T' steps."""


@dataclass(kw_only=True)
class Neuron(ABC):
    """Spec of a neuron: the keys of one yaml of conf/neuron.

    Attributes:
        name: option of the group, recorded with the run.
        threshold: membrane at which a unit fires; tdBN scales currents to it.
    """

    name: str
    threshold: float

    @abstractmethod
    def build(self) -> SpikingNeuron:
        """A new layer with no state; called once per layer."""
