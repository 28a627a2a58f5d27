"""Which neurons other programs can be given, as constants of one recursion."""

import torch
from torch import nn

from snnrun.errors import ConfigError
from snnrun.kernels.parameters import LIFParameters
from snnrun.neurons.lif import LIFNeuron
from snnrun.neurons.plif import PLIFNeuron


def constants(neuron: nn.Module) -> LIFParameters:
    """What the units of a layer compute; trained numbers are taken as they are.

    Raises:
        ConfigError: they are no integrate-and-fire units driven by their input current.
    """
    if type(neuron) is LIFNeuron:
        return neuron.constants
    if type(neuron) is PLIFNeuron:
        spec = neuron.spec
        return LIFParameters(
            leak=torch.sigmoid(neuron.leak_logit.double()).item(),
            threshold=neuron.threshold,
            hard=spec.reset == "hard",
            rest=spec.rest,
            surrogate=spec.surrogate,
            detach_reset=spec.detach_reset,
            fires_at_threshold=spec.fires_at_threshold,
            decay_input=spec.decay_input,
            leak_reset=True,
            delay=0,
        )
    raise ConfigError(
        f"{type(neuron).__name__} cannot be exported, only lif, if and plif; use --to state_dict"
    )
