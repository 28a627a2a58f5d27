"""The conventional network: the same topology with ReLU, trained by backpropagation."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from snnrun.errors import require
from snnrun.kits.plain import Kit
from snnrun.kits.relu import ReLUKit
from snnrun.methods.base import Method, StepOutput, Update, sequence_step
from snnrun.models.network import Network
from snnrun.neurons.base import Neuron


@dataclass(kw_only=True)
class ANN(Method):
    """What the spiking methods are compared with; runs one step, counts multiply-accumulates."""

    norms: ClassVar[tuple[str, ...]] = ("bn", "sws", "none")

    def __post_init__(self) -> None:
        """Check that there is one step."""
        super().__post_init__()
        require(self.timesteps == 1, f"timesteps: {self.timesteps} must be 1, it has no time")

    def kit(self, neuron: Neuron, norm: str) -> Kit:
        """Rectifiers in the place of neurons."""
        return ReLUKit(neuron, norm)

    def plain_kit(self, neuron: Neuron, norm: str) -> Kit:
        """The same net: it has no spiking form."""
        return ReLUKit(neuron, norm)

    def step(self, net: Network, update: Update, x: Tensor, y: Tensor) -> StepOutput:
        """See Method.step."""
        logits = self.decode(net(x))
        return sequence_step(F.cross_entropy(logits, y), update, logits)
