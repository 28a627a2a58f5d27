"""Which neurons other programs can be given, as constants of one recursion."""

from torch import nn

from snnrun.errors import ConfigError
from snnrun.kernels.lif.parameters import LIFParameters
from snnrun.neurons.lif import LIFNeuron
from snnrun.neurons.plif import PLIFNeuron


def constants(neuron: nn.Module) -> LIFParameters:
    """What the units of a layer compute; trained numbers are taken as they are.

    Raises:
        ConfigError: they are no integrate-and-fire units driven by their input current.
    """
    if type(neuron) is LIFNeuron or type(neuron) is PLIFNeuron:
        return neuron.constants.fixed()
    raise ConfigError(
        f"{type(neuron).__name__} cannot be exported, only lif, if and plif; use --to state_dict"
    )
