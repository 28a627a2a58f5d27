"""Differentiation on spike representation: the gradient of a clamp network, no backward in time."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from snnrun.errors import ConfigError, choice, require
from snnrun.kits.plain import Kit
from snnrun.kits.representation import RepresentationKit
from snnrun.methods.base import Method, StepOutput, Update, sequence_step
from snnrun.models.network import Network
from snnrun.neurons.base import Neuron
from snnrun.neurons.if_ import IF
from snnrun.neurons.lif import LIF
from snnrun.neurons.representation import Representation, weights


@dataclass(kw_only=True)
class DSR(Method):
    """Forward a spiking net, backward the net of clamped mean currents it converges to.

    Meng et al., CVPR 2022, arXiv 2205.00459. Thresholds are trained, one per layer, and decayed
    like weights; a unit fires at ``scale`` times its threshold.
    """

    norms: ClassVar[tuple[str, ...]] = ("bn", "none")
    refuses: ClassVar[dict[str, str]] = {
        "feedback": "it runs layer by layer, all steps at once",
        "max_pool": "the maximum of spikes has no rate; use average pooling",
    }

    threshold: float
    bound: float
    scale: float
    tau: float
    gradient: str

    def __post_init__(self) -> None:
        """Check names and ranges."""
        super().__post_init__()
        self._leak = 1.0  # of the neuron it trains; decoding weighs the steps by it
        choice("gradient", self.gradient, ("code", "paper"))
        require(0 < self.scale <= 1, f"scale: {self.scale} is not in (0, 1]")
        require(self.tau > 0, f"tau: {self.tau} is not positive")
        require(
            0 < self.bound <= self.threshold,
            f"bound: {self.bound} is not positive and at most the threshold {self.threshold}",
        )

    def neuron(self, neuron: Neuron) -> Neuron:
        """The unit with a trainable threshold and this method's gradient; IF or LIF."""
        if not isinstance(neuron, IF | LIF):
            raise ConfigError(f"method=dsr trains neuron=if or neuron=lif, not {neuron.name}")
        leak = neuron.leak if isinstance(neuron, LIF) else 1.0
        require(leak > 0, "method=dsr: neuron.leak is 0, but the rate needs a memory")
        self._leak = leak
        return Representation(
            name=neuron.name,
            threshold=self.threshold,
            scale=self.scale,
            bound=self.bound,
            leak=leak,
            tau=self.tau,
            gradient=self.gradient,
        )

    def kit(self, neuron: Neuron, norm: str) -> Kit:
        """Outputs fire, too."""
        return RepresentationKit(neuron, norm)

    def plain_kit(self, neuron: Neuron, norm: str) -> Kit:
        """The training form is the spiking form."""
        return self.kit(neuron, norm)

    def setup(self, net: Network) -> Update:
        """Thresholds and norms are decayed, too: the paper's regulariser."""
        return Update(net, self.optim, decay_all=True)

    def step(self, net: Network, update: Update, x: Tensor, y: Tensor) -> StepOutput:
        """See Method.step."""
        logits = self.decode(net(x))
        return sequence_step(F.cross_entropy(logits, y), update, logits)

    def decode(self, outputs: Tensor) -> Tensor:
        """Spike representation [B, C] of the output neurons' spikes [T, B, C]."""
        return torch.tensordot(weights(self._leak, len(outputs), outputs), outputs, 1)
