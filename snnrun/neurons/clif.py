"""Complementary LIF neuron: a second state remembers spikes and makes the reset deeper.

u[t] = leak v[t-1] + I[t],  s = Θ(u - θ),  m[t] = m[t-1] σ(u / τ) + s,  v = u - s (θ + σ(m)),
leak = 1 - 1/τ (Huang et al., ICML 2024, arXiv 2402.04663, eq. 8-11). m decays with the membrane
before its reset, takes in the new spike, and then enters the reset. It gives the gradient a second
path through time where that of the membrane is cut. No parameters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrun.errors import require
from snnrun.neurons.base import Neuron, SpikingNeuron
from snnrun.neurons.lif import check_firing
from snnrun.neurons.spike import spike
from snnrun.neurons.surrogate import Surrogate


@dataclass(kw_only=True)
class CLIF(Neuron):
    """Spec of the complementary LIF neuron; the keys are explained in conf/neuron/clif.yaml.

    Raises:
        ConfigError: for a value outside its range, naming the key.
    """

    leak: float
    threshold: float
    surrogate: Surrogate
    fires_at_threshold: bool

    def __post_init__(self) -> None:
        require(0 <= self.leak < 1, f"leak: {self.leak} is not in [0, 1)")
        check_firing(self.threshold, "soft", rest=0.0, delay=0)

    def build(self) -> "CLIFNeuron":
        """A new layer of these units."""
        return CLIFNeuron(self)


class CLIFNeuron(SpikingNeuron):
    """A layer of these units: currents [T', B, ...] to spikes, 0 or 1, of the same shape.

    Attributes:
        spec: constants.
        state: membrane after the reset and complementary state m, both [B, ...]; None at the start
            of a sequence.
    """

    def __init__(self, spec: CLIF) -> None:
        super().__init__()
        self.spec = spec
        self.threshold = spec.threshold
        self.state: tuple[Tensor, Tensor] | None = None

    def reset(self) -> None:
        """Start a new sequence: both states are zero."""
        self.state = None

    def detach(self) -> None:
        """Cut the graph at the present states."""
        if self.state is not None:
            self.state = (self.state[0].detach(), self.state[1].detach())

    def forward(self, current: Tensor) -> Tensor:
        """Spikes [T', B, ...] of the next T' steps; the gradient passes through both states."""
        spec, rate = self.spec, 1 - self.spec.leak  # rate: 1 / τ
        zero = torch.zeros_like(current[0])
        v, m = self.state or (zero, zero)
        spikes = []
        for x in current.unbind():
            u = spec.leak * v + x
            s = spike(u - spec.threshold, spec.surrogate, fires_at_zero=spec.fires_at_threshold)
            m = m * torch.sigmoid(rate * u) + s
            v = u - s * (spec.threshold + torch.sigmoid(m))
            spikes.append(s)
        self.state = (v, m)
        return torch.stack(spikes)

    def extra_repr(self) -> str:
        """The constants, for printing the module."""
        return f"leak={self.spec.leak}, threshold={self.threshold}"
