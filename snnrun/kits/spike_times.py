"""Spike times travel, as leads: how long before the end of its window each unit has fired."""

from snnrun.kits.plain import Kit
from snnrun.neurons.base import Neuron
from snnrun.neurons.spike_time import SpikeTimeNeuron


class SpikeTimeKit(Kit):
    """Parts of a net of single spikes in continuous time, equal to one of rectified units.

    Args:
        neuron: not used; the mapping fixes what a unit does.
        norm: as in Kit; a batch norm folds into weights and bias.
        margin: of the windows, see SpikeTimeNeuron.
    """

    def __init__(self, neuron: Neuron, norm: str, *, margin: float):
        super().__init__(neuron, norm)
        self.margin = margin

    def neuron(self) -> SpikeTimeNeuron:
        """Single-spike units."""
        return SpikeTimeNeuron(self.margin)
