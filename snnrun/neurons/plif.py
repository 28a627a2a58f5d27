"""Parametric LIF neuron: every layer learns its leak, and its threshold if asked to.

u[t] = leak v[t-1] + gain I[t],  leak = σ(w) with one trained w per layer (Fang et al., ICCV 2021,
arXiv 2007.05785, whose 1/τ is 1 - leak). The gradient is that of the surrogate graph, which the
trained numbers are part of.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snnrun.errors import require
from snnrun.kernels.lif.multistep import lif
from snnrun.kernels.lif.parameters import State, TrainedParameters
from snnrun.neurons.base import Neuron, SpikingNeuron
from snnrun.neurons.lif import check_firing
from snnrun.neurons.surrogate import Surrogate


@dataclass(kw_only=True)
class PLIF(Neuron):
    """Spec of the parametric LIF neuron; the keys are explained in conf/neuron/plif.yaml.

    Raises:
        ConfigError: for a value outside its range, naming the key.
    """

    leak: float
    threshold: float
    train_threshold: bool
    reset: str
    rest: float
    surrogate: Surrogate
    detach_reset: bool
    fires_at_threshold: bool
    decay_input: bool

    def __post_init__(self) -> None:
        require(0 < self.leak < 1, f"leak: {self.leak} is not strictly between 0 and 1")
        check_firing(self.threshold, self.reset, self.rest, delay=0)
        require(
            not self.train_threshold or self.rest <= 0,
            f"rest: {self.rest} is above 0, which a trained threshold may come down to",
        )

    def build(self) -> "PLIFNeuron":
        """A new layer of these units, with a leak (and threshold) of its own."""
        return PLIFNeuron(self)


class PLIFNeuron(SpikingNeuron):
    """A layer of these units: currents [T', B, ...] to spikes, 0 or 1, of the same shape.

    Attributes:
        spec: constants, and initial values of what is trained.
        leak_logit: w; the layer keeps σ(w) of its membrane per step.
        log_threshold: logarithm of the threshold, trained or not; so it stays positive.
        membrane: [B, ...] after the last step's reset.
    """

    carried = ("membrane",)

    def __init__(self, spec: PLIF) -> None:
        super().__init__()
        self.spec = spec
        self.leak_logit = nn.Parameter(torch.tensor(math.log(spec.leak / (1 - spec.leak))))
        self.log_threshold: nn.Parameter | None = None
        if spec.train_threshold:
            self.log_threshold = nn.Parameter(torch.tensor(math.log(spec.threshold)))
        self.membrane: Tensor | None = None

    @property
    def constants(self) -> TrainedParameters:
        """What the kernels are told of the units, with the graph of what is trained."""
        spec, threshold = self.spec, self.log_threshold
        return TrainedParameters(
            leak=self.leak_logit.double().sigmoid(),
            threshold=spec.threshold if threshold is None else threshold.double().exp(),
            hard=spec.reset == "hard",
            rest=spec.rest,
            surrogate=spec.surrogate,
            detach_reset=spec.detach_reset,
            fires_at_threshold=spec.fires_at_threshold,
            decay_input=spec.decay_input,
            leak_reset=True,
            delay=0,
        )

    @property
    def threshold(self) -> float:  # type: ignore[override]  # read only: it follows the parameter
        """Present threshold."""
        return self.constants.fixed().threshold

    def forward(self, current: Tensor) -> Tensor:
        """Spikes [T', B, ...] of the next T' steps."""
        before = None if self.membrane is None else State(self.membrane, None)
        spikes, (self.membrane, _) = lif(current, before, self.constants)
        return spikes

    def extra_repr(self) -> str:
        """Leak and threshold, for printing the module."""
        return f"leak={self.leak_logit.sigmoid().item():.4f}, threshold={self.threshold:.4f}"
