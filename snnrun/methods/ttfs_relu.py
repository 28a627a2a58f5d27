"""A ReLU network trained and run as one of single spikes in continuous time, with equal logits."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from snnrun.errors import require
from snnrun.kits.plain import Kit
from snnrun.kits.spike_times import SpikeTimeKit
from snnrun.methods.base import Method, StepOutput, Update, sequence_step
from snnrun.models.network import Network
from snnrun.neurons.base import Neuron


@dataclass(kw_only=True)
class TTFSReLU(Method):
    """Backpropagation through spike times, whose gradients are those of the ReLU network.

    Stanojevic et al., Nature Communications 15:6793 (2024). Time is continuous: ``timesteps`` is 1,
    and the answer comes after one window per layer. The meters count one accumulate with a factor,
    hence a multiply-accumulate, per spike and synapse: its ramp has run for its lead.
    """

    norms: ClassVar[tuple[str, ...]] = ("bn", "none")
    needs: ClassVar[frozenset[str]] = frozenset({"chain"})
    refuses: ClassVar[dict[str, str]] = {
        "feedback": "a unit has fired its one spike before anything comes back"
    }

    margin: float

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        require(self.timesteps == 1, f"timesteps: {self.timesteps} must be 1, time is continuous")
        require(self.margin >= 1, f"margin: {self.margin} is below 1")

    def kit(self, neuron: Neuron, norm: str) -> Kit:
        """See Method.kit."""
        return SpikeTimeKit(neuron, norm, margin=self.margin)

    plain_kit = kit

    def step(self, net: Network, update: Update, x: Tensor, y: Tensor) -> StepOutput:
        """See Method.step."""
        logits = self.decode(net(x))
        return sequence_step(F.cross_entropy(logits, y), update, logits)
