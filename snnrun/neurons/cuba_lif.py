"""Leaky integrate-and-fire neuron driven by a synaptic current that decays by itself.

I[t] = synaptic_leak I[t-1] + c[t - delay],  u[t] = leak v[t-1] + I[t - delay], then as `lif`; with
delay 1 the current-based unit of surrogate-gradient learning (Neftci, Mostafa and Zenke, 2019).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrun.errors import require
from snnrun.kernels.leaky import leaky
from snnrun.kernels.parameters import LIFParameters
from snnrun.neurons.lif import LIF, LIFNeuron


class CubaLIFNeuron(LIFNeuron):
    """A layer of these units: input [T', B, ...] to spikes, 0 or 1, of the same shape.

    Attributes:
        synaptic_leak: factor the synaptic current keeps per step.
        current: synaptic current and input of the last step; the input acts later with delay 1.
    """

    def __init__(self, constants: LIFParameters, synaptic_leak: float) -> None:
        super().__init__(constants)
        self.synaptic_leak = synaptic_leak
        self.current: tuple[Tensor, Tensor] | None = None

    def reset(self) -> None:
        """Start a new sequence: membrane, synaptic current and held input are zero."""
        super().reset()
        self.current = None

    def detach(self) -> None:
        """Cut the graph at the present state."""
        super().detach()
        if self.current is not None:
            self.current = (self.current[0].detach(), self.current[1].detach())

    def forward(self, current: Tensor) -> Tensor:
        """Spikes [T', B, ...] of the next T' steps."""
        zero = torch.zeros_like(current[0])
        before, held = self.current or (zero, zero)
        last = current[-1]
        if self.constants.delay:
            current = torch.cat([held[None], current[:-1]])
        synaptic = leaky(current, before, self.synaptic_leak)
        self.current = (synaptic[-1], last)
        return super().forward(synaptic)


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
