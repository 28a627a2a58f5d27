"""Compiled parts of a step, against torch operations and in the layers that use them."""

import pytest
import torch
from units import UNITS

from snnrun.kernels.compiled.compiling import COMPILED_FROM
from snnrun.kernels.step import add_through_spikes, fire, integrate_and_fire, through_spikes
from snnrun.kits.accumulations import AccumulationNeuron
from snnrun.kits.stepwise import Fire
from snnrun.kits.traces import TraceNeuron
from snnrun.neurons.surrogate import SURROGATES, Surrogate

THRESHOLD = 0.7


@pytest.mark.parametrize("cutoff", [None, 0.4])
@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-14)])
def test_gradient_is_that_above_times_the_surrogate(name, cutoff, dtype, tolerance):
    torch.manual_seed(0)
    surrogate = Surrogate(name=name, width=1.5, cutoff=cutoff)
    u, grad = torch.randn(2, 3, 999, dtype=dtype)  # several blocks, the last one not full
    found = through_spikes(grad, u, THRESHOLD, surrogate)
    expected = grad * surrogate(u - THRESHOLD)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    add_through_spikes(grad, u, THRESHOLD, surrogate, found)
    torch.testing.assert_close(found, 2 * expected, rtol=0, atol=2 * tolerance)


def test_memory_may_be_laid_out_in_any_way():
    surrogate = Surrogate(name="triangle", width=1.0)
    u, grad = torch.randn(3, 50, 40).transpose(1, 2), torch.ones(1).expand(3, 40, 50)
    found = through_spikes(grad, u, THRESHOLD, surrogate)
    torch.testing.assert_close(found, surrogate(u - THRESHOLD))
    add_through_spikes(grad, u, THRESHOLD, surrogate, found)
    torch.testing.assert_close(found, 2 * surrogate(u - THRESHOLD))


def test_large_layers_have_the_gradient_of_small_ones():
    surrogate = Surrogate(name="sigmoid", width=4.0)
    large = torch.randn(COMPILED_FROM, requires_grad=True)
    (found,) = torch.autograd.grad(Fire.apply(large, THRESHOLD, surrogate).sum(), large)
    expected = []
    for small in large.detach().split(COMPILED_FROM // 2):
        small.requires_grad_()
        expected += torch.autograd.grad(Fire.apply(small, THRESHOLD, surrogate).sum(), small)
    torch.testing.assert_close(found, torch.cat(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [lambda u: u, lambda u: u.transpose(1, 2)])
def test_the_first_step_is_that_of_a_membrane_of_zero(dtype, layout):
    u = layout(torch.randn(3, 70, 50, dtype=dtype, generator=torch.Generator().manual_seed(0)))
    u[0, 0, 0] = THRESHOLD  # fires, too
    expected = (u >= u.new_tensor(THRESHOLD)).to(dtype)
    assert torch.equal(fire(u, THRESHOLD), expected)
    found = integrate_and_fire(u, None, 0.9, THRESHOLD)
    for ours, zeros in zip(found, integrate_and_fire(u, u * 0, 0.9, THRESHOLD), strict=True):
        assert torch.equal(ours, zeros)
    assert torch.equal(found[1], expected)
    assert torch.equal(found[2], u - expected * u.new_tensor(THRESHOLD))


LAYERS = {
    "accumulations": lambda: AccumulationNeuron(UNITS),
    "spikes": lambda: TraceNeuron(UNITS),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_large_layers_step_as_small_ones_do(layer):
    currents = torch.randn(6, 2, COMPILED_FROM // 2, dtype=torch.float64)
    if layer == "accumulations":
        currents = currents.cumsum(0)
    found, expected = _run(LAYERS[layer](), currents), []
    for half in currents.chunk(2, dim=1):
        expected.append(_run(LAYERS[layer](), half))
    for whole, halves in zip(found, zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.cat(halves, 1), rtol=1e-12, atol=1e-14)


def _run(layer, currents):
    """All outputs and the gradient of the currents, each step weighed differently."""
    currents = currents.detach().clone().requires_grad_()
    out = torch.cat([layer(x) for x in currents.split(1)])
    (out * torch.arange(1.0, 7, dtype=out.dtype).view(6, 1, 1)).sum().backward()
    return out.detach(), currents.grad


@pytest.mark.parametrize("layout", [lambda x: x, lambda x: x.transpose(1, 2)])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_leaf_gathers_the_gradients_of_its_steps(layer, layout):
    current = layout(torch.randn(1, 70, COMPILED_FROM // 50, dtype=torch.float64))
    found, expected = (current.clone().requires_grad_() for _ in range(2))
    for x, given in ((found, lambda x: x), (expected, lambda x: 1 * x)):  # a leaf, and none
        steps = LAYERS[layer]()
        for weight in (1.0, 2.0, 3.0):
            (weight * steps(given(x))).sum().backward()
    assert not torch.equal(expected.grad, torch.zeros_like(expected))
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-13, atol=1e-15)
