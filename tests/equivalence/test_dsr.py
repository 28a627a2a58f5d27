"""Differentiation on spike representation against the clamp network it stands for (fp64)."""

import math

import pytest
import torch
from torch import nn

from snnrun.kits.representation import RepresentationKit
from snnrun.kits.synapse import Synapse
from snnrun.models.network import Chain, Layer
from snnrun.neurons.representation import Representation, weights

STEPS = 20
DT_OVER_TAU = 0.05


def spec(kind, gradient="code", threshold=0.3, scale=0.5):
    leak = 1.0 if kind == "if" else math.exp(-DT_OVER_TAU)
    shape = {"threshold": threshold, "scale": scale, "bound": 1e-3}
    return Representation(name=kind, leak=leak, tau=1.0, gradient=gradient, **shape)


def relative(a, b):
    return ((a - b).norm() / b.norm().clamp(min=1e-9)).item()


@pytest.mark.parametrize("kind", ["if", "lif"])
def test_representation_is_mean_current_minus_what_is_left(kind):
    s = spec(kind)
    neuron = s.build().double()
    current = torch.randn(STEPS, 3, 7, dtype=torch.float64)
    spikes = neuron(current)
    q = weights(s.leak, STEPS, current)
    mean_out, mean_in = (torch.tensordot(q, z, 1) for z in (spikes, current))
    if kind == "if":
        expected = mean_in - neuron.membrane / STEPS
    else:
        total = sum(s.leak**m for m in range(STEPS))
        expected = ((1 - s.leak) * mean_in - neuron.membrane / total) / s.dt
    torch.testing.assert_close(mean_out, expected, rtol=0, atol=1e-12)


def chain(s):
    """Two layers behind 6 inputs and a spiking readout of 4 units, without norms."""
    kit = RepresentationKit(s, "none")
    torch.manual_seed(0)
    widths = [(6, 24), (24, 24)]
    layers = [Layer(kit.connect(nn.Linear(*w)), kit.neuron()) for w in widths]
    return Chain(layers, kit.readout(nn.Linear(24, 4))).double()


def spiking_gradients(net, s, x, target):
    outputs = net(x)
    decoded = torch.tensordot(weights(s.leak, len(outputs), outputs), outputs, 1)
    (decoded * target).sum().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters()}


def clamp_gradients(net, s, x, target, weighted):
    """Autograd through clamp layers at the spiking net's mean inputs.

    The clamp acts on the weighted mean of the current; ``weighted`` says which mean of a layer's
    input its weights see.
    """
    q = weights(s.leak, len(x), x)
    parts = [(layer.synapse, layer.neuron) for layer in net.layers]
    parts.append((net.readout, net.readout.neuron))
    inputs = []
    hooks = [
        synapse.register_forward_hook(lambda m, args, out: inputs.append(args[0]))
        for synapse, _ in parts
    ]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    net.zero_grad()
    value = None
    for (synapse, neuron), recorded in zip(parts, inputs, strict=True):
        # The value is the spiking net's, the gradient that of the clamp network.
        here = torch.tensordot(q, recorded, 1) if weighted else recorded.mean(0)
        at = here if value is None else here + value - value.detach()
        current = nn.functional.linear(at, synapse.op.weight, synapse.op.bias)
        at_clamp = torch.tensordot(q, Synapse.forward(synapse, recorded), 1)
        current = current + (at_clamp - current).detach()
        top = neuron.threshold if s.leak == 1 else neuron.threshold / s.dt
        slope = 1.0 if s.leak == 1 else 1 / s.tau
        value = torch.minimum((current * slope).clamp(min=0), top.expand_as(current))
    (value * target).sum().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters()}


def both(kind, gradient, weighted):
    # Thresholds at which a good part of the units is inside the clamp.
    s = spec(kind, gradient, threshold=1.0 if kind == "if" else 0.05)
    net = chain(s)
    torch.manual_seed(1)
    x = torch.randn(1, 5, 6, dtype=torch.float64) + torch.randn(STEPS, 5, 6, dtype=torch.float64)
    target = torch.randn(5, 4, dtype=torch.float64)
    got = spiking_gradients(net, s, x, target)
    return s, got, clamp_gradients(net, s, x, target, weighted)


@pytest.mark.parametrize("gradient", ["code", "paper"])
def test_if_gradients_are_those_of_the_clamp_network(gradient):
    _, got, expected = both("if", gradient, weighted=False)
    assert all(relative(got[name], expected[name]) < 1e-12 for name in expected)


def test_lif_paper_gradients_are_those_of_the_weighted_clamp_network():
    _, got, expected = both("lif", "paper", weighted=True)
    assert all(relative(got[name], expected[name]) < 1e-12 for name in expected)


def test_lif_code_gradients_carry_the_known_factors():
    s, got, expected = both("lif", "code", weighted=False)
    q = weights(s.leak, STEPS, torch.zeros((), dtype=torch.float64))
    c = (STEPS * (q**2).sum()).item()
    assert c == pytest.approx(1.0818, abs=1e-4)
    for name, value in expected.items():
        factor = c * s.dt**2 if name.endswith("threshold") else c
        assert relative(got[name] / factor, value) < 1e-12, name


def test_lif_code_weight_gradients_use_the_plain_mean_input():
    _, got, expected = both("lif", "code", weighted=True)
    name = "layers.0.synapse.op.weight"
    assert 0.005 < relative(got[name] / 1.0818, expected[name]) < 0.2


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_if_representation_error_reaches_its_bound(scale):
    s = spec("if", threshold=1.0, scale=scale)
    constant = torch.linspace(0, 1, 20001, dtype=torch.float64)
    spikes = s.build().double()(constant.expand(STEPS, 1, -1))
    error = (spikes.mean(0)[0] - constant).abs().max().item()
    bound = max(scale, 1 - scale) / STEPS
    assert 0.98 * bound < error <= bound + 1e-12


def test_lif_representation_error_stays_in_its_bound():
    s = spec("lif", threshold=1.0, scale=0.5)
    constant = torch.linspace(0, 0.9 / s.dt, 2001, dtype=torch.float64)
    spikes = s.build().double()(constant.expand(STEPS, 1, -1))
    total = sum(s.leak**m for m in range(STEPS))
    q = weights(s.leak, STEPS, constant)
    limit = (1 - s.leak) / s.dt * constant
    error = (torch.tensordot(q, spikes, 1)[0] - limit).abs().max().item()
    bound = 0.5 / (s.dt * total)
    assert 0.9 * bound < error <= bound + 1e-12


@pytest.mark.parametrize("kind", ["if", "lif"])
def test_no_gradient_outside_the_clamp(kind):
    s = spec(kind)
    top = 0.3 if kind == "if" else 0.3 / s.dt
    means = torch.tensor([-0.1, 0.5 * top, 1.1 * top], dtype=torch.float64)
    current = means.expand(STEPS, 1, 3).clone().requires_grad_()
    s.build().double()(current).sum().backward()
    per_unit = current.grad.abs().sum((0, 1))
    assert per_unit[0] == 0
    assert per_unit[1] > 0
    assert per_unit[2] == 0


def test_steps_share_one_gradient_in_the_code_form():
    s = spec("lif")
    current = torch.rand(STEPS, 2, 5, dtype=torch.float64, requires_grad=True)
    (s.build().double()(current) * torch.randn(STEPS, 2, 5, dtype=torch.float64)).sum().backward()
    torch.testing.assert_close(current.grad, current.grad[:1].expand_as(current), rtol=0, atol=0)


def test_threshold_stays_above_its_bound():
    neuron = spec("if").build()
    neuron.threshold.data.fill_(-1.0)
    neuron(torch.rand(3, 1, 2))
    assert neuron.threshold.item() == pytest.approx(1e-3)
