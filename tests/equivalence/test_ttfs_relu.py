"""Single spikes in continuous time compute what rectified units compute."""

import pytest
import torch
import torch.nn.functional as F

from snnrun.kits.relu import ReLUKit
from snnrun.kits.spike_times import SpikeTimeKit
from snnrun.models.convnet import ConvNet
from snnrun.models.mlp import MLP
from snnrun.neurons.spike_time import SpikeTimeNeuron

pytestmark = pytest.mark.usefixtures("fp64")

SHAPE = (1, 8, 8)
MODELS = {
    "mlp": MLP(name="mlp", norm="auto", hidden=[30, 30, 30], dropout=0.0, feedback=False),
    "convnet": ConvNet(
        name="convnet", norm="auto", channels=[6, 8], hidden=[20], pool="max", dropout=0.0
    ),
}


@pytest.fixture(params=MODELS)
def pair(request, lif):
    """A ReLU net and the single-spike net of the same weights, windows set by one batch."""
    model = MODELS[request.param]
    relu = model.build(ReLUKit(lif(), "none"), SHAPE, 10)
    spiking = model.build(SpikeTimeKit(lif(), "none", margin=1.5), SHAPE, 10)
    spiking.load_state_dict(relu.state_dict(), strict=False)
    return relu, spiking


def test_logits_and_gradients_equal_those_of_the_relu_net(pair):
    relu, spiking = pair
    x, y = torch.rand(1, 16, *SHAPE), torch.randint(10, (16,))
    logits = [net(x)[0] for net in pair]
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-10)
    for out in logits:
        F.cross_entropy(out, y).backward()
    for (name, p), q in zip(relu.named_parameters(), spiking.parameters(), strict=True):
        assert p.grad.any(), name
        torch.testing.assert_close(q.grad, p.grad, rtol=0, atol=1e-10, msg=name)


def test_windows_found_in_training_serve_in_evaluation(pair):
    relu, spiking = pair
    x = torch.rand(1, 16, *SHAPE)
    spiking(x)
    other = 0.9 * x.flip(1)
    torch.testing.assert_close(spiking.eval()(other), relu(other), rtol=0, atol=1e-10)


def test_spike_times_are_those_of_a_simulation_in_small_steps():
    dt, window, bias = 1e-4, 1.0, 0.2
    weights, leads = torch.tensor([0.5, -0.4, 0.3]), torch.tensor([0.8, 0.1, 0.6])
    v, t = 0.0, -1.0  # the inputs' window is [-1, 0], they fire at -lead
    while v < window - bias and t < window:
        slope = (weights * (-leads <= t)).sum().item() if t < 0 else 1.0
        v, t = v + slope * dt, t + dt
    neuron = SpikeTimeNeuron(1.5).eval()
    exact = neuron.times((weights * leads).sum() + bias).item()
    assert 0 <= t - exact + 1e-9 < 4 * dt  # late by at most a step per input and one to cross


def test_inhibited_units_stay_silent_and_early_ones_wait_for_the_window():
    neuron = SpikeTimeNeuron(1.5).eval()
    assert neuron(torch.tensor([-2.0, 0.0, 0.25, 5.0])).tolist() == [0, 0, 0.25, 1]


def test_in_training_leads_and_gradients_are_exactly_those_of_rectified_units():
    charge = torch.tensor([-2.0, 0.0, 0.1, 5.0])  # the window grows to the largest, and no further
    found = []
    for unit in (SpikeTimeNeuron(1.0), F.relu):
        leaf = charge.clone().requires_grad_()
        leads = unit(leaf)
        leads.sum().backward()
        found.append((leads.detach(), leaf.grad))
    for spiking, rectified in zip(*found, strict=True):
        assert torch.equal(spiking, rectified)
