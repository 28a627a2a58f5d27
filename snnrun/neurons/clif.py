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
        membrane: [B, ...] after the last step's reset.
        complement: [B, ...] complementary state m.
    """

    carried = ("membrane", "complement")

    def __init__(self, spec: CLIF) -> None:
        super().__init__()
        self.spec = spec
        self.threshold = spec.threshold
        self.membrane: Tensor | None = None
        self.complement: Tensor | None = None

    def forward(self, current: Tensor) -> Tensor:
        """Spikes [T', B, ...] of the next T' steps; the gradient passes through both states."""
        spec, rate = self.spec, 1 - self.spec.leak  # rate: 1 / τ
        v = torch.zeros_like(current[0]) if self.membrane is None else self.membrane
        m = torch.zeros_like(v) if self.complement is None else self.complement
        spikes = []
        for x in current.unbind():
            u = spec.leak * v + x
            s = spike(u - spec.threshold, spec.surrogate, fires_at_zero=spec.fires_at_threshold)
            m = m * torch.sigmoid(rate * u) + s
            v = u - s * (spec.threshold + torch.sigmoid(m))
            spikes.append(s)
        self.membrane, self.complement = v, m
        return torch.stack(spikes)

    def extra_repr(self) -> str:
        """The constants, for printing the module."""
        return f"leak={self.spec.leak}, threshold={self.threshold}"
