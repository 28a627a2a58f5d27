"""Integrate-and-fire neuron: the LIF layer with leak 1."""

from dataclasses import dataclass

from snnrun.kernels.lif.parameters import LIFParameters
from snnrun.neurons.base import Neuron
from snnrun.neurons.lif import LIFNeuron, check_firing
from snnrun.neurons.surrogate import Surrogate


@dataclass(kw_only=True)
class IF(Neuron):
    """Spec of the IF neuron; the keys are explained in conf/neuron/if.yaml.

    Raises:
        ConfigError: for a value outside its range, naming the key.
    """

    threshold: float
    reset: str
    rest: float
    surrogate: Surrogate
    detach_reset: bool
    fires_at_threshold: bool
    delay: int

    def __post_init__(self) -> None:
        check_firing(self.threshold, self.reset, self.rest, self.delay)

    def build(self) -> LIFNeuron:
        """A new layer of these units."""
        return LIFNeuron(
            LIFParameters(
                leak=1.0,
                threshold=self.threshold,
                hard=self.reset == "hard",
                rest=self.rest,
                surrogate=self.surrogate,
                detach_reset=self.detach_reset,
                fires_at_threshold=self.fires_at_threshold,
                decay_input=False,
                leak_reset=True,
                delay=self.delay,
            )
        )
