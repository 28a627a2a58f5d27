"""The conventional kit: rectified activations travel."""

import torch.nn.functional as F
from torch import Tensor, nn

from snnrun.kits.plain import Kit


class Rectifier(nn.Module):
    """ReLU in the place of a layer of neurons; has no state."""

    def forward(self, current: Tensor) -> Tensor:
        """Rectify a chunk [T', B, ...]."""
        return F.relu(current)


class ReLUKit(Kit):
    """Parts of a net of rectified linear units."""

    def neuron(self) -> nn.Module:
        """A rectifier in the place of spiking units."""
        return Rectifier()
