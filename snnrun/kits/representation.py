"""The kit of spike representation: amplitude-carrying spikes travel, and the outputs fire, too."""

from typing import Any

from torch import Tensor, nn

from snnrun.kits.plain import Kit
from snnrun.kits.synapse import Op, Synapse


class SpikingReadout(Synapse):
    """A readout whose currents drive neurons; the outputs are their spikes."""

    def __init__(self, op: Op, neuron: nn.Module, **norms: Any):
        super().__init__(op, **norms)
        self.neuron = neuron

    def forward(self, x: Tensor) -> Tensor:
        """Output spikes [T', B, classes]."""
        return self.neuron(super().forward(x))


class RepresentationKit(Kit):
    """Parts of a net whose last linear op is normalised and followed by neurons."""

    def readout(self, op: Op) -> Synapse:
        """A normalised linear op and the output neurons."""
        return SpikingReadout(op, self.neuron(), **self.norms(op, 1))
