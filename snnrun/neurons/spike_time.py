"""Units with one spike in continuous time that compute what a rectified unit computes, exactly.

Stanojevic et al., Nature Communications 15:6793 (2024). All times count from tmin, the end of the
window in which the inputs fire. Each input spike adds a ramp to the membrane, so that at tmin it
has reached V = sum_j W_ij (tmin - t_j); from then on it rises with slope 1 towards the threshold
`window - bias` and crosses it at `window - bias - V`, unless the window ends before.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from snnrun import ranks
from snnrun.kernels.compiled.compiling import compiles
from snnrun.neurons.base import SpikingNeuron


class SpikeTimeNeuron(SpikingNeuron):
    """From V + bias [1, B, ...] to how long before the end of its window each unit fires.

    That lead is what the next layer's ramps have run for when its own window begins. It is 0 for
    a unit that stays silent, and relu(V + bias) as long as no unit would fire before its window.

    Args:
        margin: 1 or more; the window is this times the largest lead seen in training (1.5 in the
            paper).
    """

    carried = ()  # a sequence is one step
    window: Tensor
    threshold = 0.0  # differs from unit to unit: window - bias

    def __init__(self, margin: float):
        super().__init__()
        self.margin = margin
        self.register_buffer("window", torch.ones(()))

    def times(self, charge: Tensor) -> Tensor:
        """Spike time after tmin, 0 to window, from V + bias; the window's end stands for none."""
        return self.window - self._within(F.relu(charge))

    def forward(self, current: Tensor) -> Tensor:
        """Leads [1, B, ...]; in training mode the window grows with them, so that all fit."""
        if not self.training:
            return self._within(F.relu(current))
        leads, largest = rectified(current)
        torch.maximum(self.window, ranks.largest(largest) * self.margin, out=self.window)
        return leads

    def _within(self, leads: Tensor) -> Tensor:
        """Leads of units that wait for the beginning of their window."""
        return torch.minimum(leads, self.window)


def rectified(x: Tensor) -> tuple[Tensor, Tensor]:
    """``relu(x)`` and its largest value [], which takes no gradient."""
    if compiles(x, torch.float32, torch.float64):
        from snnrun.kernels.rectify import rectify  # imports the compiler

        return rectify(x)
    out = F.relu(x)
    return out, out.detach().max()
