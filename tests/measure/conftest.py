import pytest
import torch
from torch import Tensor, nn

from snnrun.kits.synapse import Synapse
from snnrun.models.network import Chain, Layer
from snnrun.neurons.base import SpikingNeuron


class Counter(SpikingNeuron):
    """Integrates without leak, fires at 1 and subtracts 1: easy to follow on paper."""

    carried = ("v",)
    threshold = 1.0

    def __init__(self, amplitude: float = 1.0):
        super().__init__()
        self.amplitude = amplitude
        self.v: Tensor | None = None

    def forward(self, current: Tensor) -> Tensor:
        outputs = []
        for step in current:
            v = step if self.v is None else self.v + step
            spike = (v >= self.threshold).to(v.dtype)
            self.v = v - spike
            outputs.append(spike * self.amplitude)
        return torch.stack(outputs)


def linear(weight: list[list[float]]) -> Synapse:
    op = nn.Linear(len(weight[0]), len(weight), bias=False)
    op.weight.data = torch.tensor(weight)
    return Synapse(op)


@pytest.fixture
def chain():
    """Two inputs each drive one neuron of the same number; one readout sums both neurons."""

    def build(amplitude: float = 1.0) -> Chain:
        layer = Layer(linear([[1.0, 0.0], [0.0, 1.0]]), Counter(amplitude))
        return Chain([layer], linear([[1.0, 1.0]])).eval()

    return build


@pytest.fixture
def currents() -> Tensor:
    """Five samples [T=3, B=5, 2], every one with other spike counts.

    Membranes start at 0 and lose 1 per spike, so a constant current c gives floor(3 c) spikes for
    c <= 1: 0.5 -> 1 (at the second step), 1.0 -> 3, 0.75 -> 2 (at steps 2 and 3), 0.25 -> 0.
    Spikes of (neuron 0, neuron 1): (3, 0) (1, 0) (2, 1) (0, 0) (3, 3); in all 9 and 4.
    """
    per_sample = [[1.0, 0.0], [0.5, 0.0], [0.75, 0.5], [0.25, 0.25], [1.0, 1.0]]
    return torch.tensor(per_sample).repeat(3, 1, 1)
