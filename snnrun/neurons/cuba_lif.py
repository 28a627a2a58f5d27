"""Leaky integrate-and-fire neuron driven by a synaptic current that decays by itself.

I[t] = synaptic_leak I[t-1] + c[t - delay],  u[t] = leak v[t-1] + I[t - delay], then as `lif`; with
delay 1 the current-based unit of surrogate-gradient learning (Neftci, Mostafa and Zenke, 2019).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrun.errors import require
from snnrun.kernels.leaky import leaky
from snnrun.kernels.lif.parameters import LIFParameters
from snnrun.neurons.lif import LIF, LIFNeuron


class CubaLIFNeuron(LIFNeuron):
    """A layer of these units: input [T', B, ...] to spikes, 0 or 1, of the same shape.

    Attributes:
        synaptic_leak: factor the synaptic current keeps per step.
        synaptic: [B, ...] synaptic current of the last step.
        waiting: [B, ...] input of the last step, which acts later with delay 1; else None.
    """

    carried = (*LIFNeuron.carried, "synaptic", "waiting")

    def __init__(self, constants: LIFParameters, synaptic_leak: float) -> None:
        super().__init__(constants)
        self.synaptic_leak = synaptic_leak
        self.synaptic: Tensor | None = None
        self.waiting: Tensor | None = None

    def drive(self, current: Tensor) -> Tensor:
        """See LIFNeuron.drive: the synaptic currents."""
        zero = torch.zeros_like(current[0])
        if self.constants.delay:
            waiting, self.waiting = zero if self.waiting is None else self.waiting, current[-1]
            current = torch.cat([waiting[None], current[:-1]])
        before = zero if self.synaptic is None else self.synaptic
        synaptic = leaky(current, before, self.synaptic_leak)
        self.synaptic = synaptic[-1]
        return synaptic


@dataclass(kw_only=True)
class CubaLIF(LIF):
    """Spec of the current-based LIF neuron; the keys are explained in conf/neuron/cuba_lif.yaml.

    Raises:
        ConfigError: for a value outside its range, naming the key.
    """

    synaptic_leak: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 <= self.synaptic_leak < 1,
            f"synaptic_leak: {self.synaptic_leak} is not in [0, 1)",
        )

    def build(self) -> CubaLIFNeuron:
        """A new layer of these units."""
        return CubaLIFNeuron(super().build().constants, self.synaptic_leak)
