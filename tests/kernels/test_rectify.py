"""Rectified values and the largest of them against plain torch, bit by bit."""

import pytest
import torch
import torch.nn.functional as F

from snnrun.kernels.compiled.compiling import COMPILED_FROM
from snnrun.kernels.rectify import BLOCK, rectify
from snnrun.neurons.spike_time import SpikeTimeNeuron, rectified

RAGGED = [(1,), (3, 5, 7), (BLOCK,), (2, 3, 1461)]


@pytest.fixture(params=[torch.float32, torch.float64], ids=["fp32", "fp64"])
def dtype(request):
    return request.param


def results(rectifier, x):
    """Values, the largest, and the gradient of a weighted sum."""
    leaf = x.clone().requires_grad_()
    out, largest = rectifier(leaf)
    (out * torch.arange(1, x.numel() + 1, dtype=x.dtype).view_as(x)).sum().backward()
    assert not largest.requires_grad
    return out.detach(), largest, leaf.grad


def plain(x):
    out = F.relu(x)
    return out, out.detach().max()


@pytest.mark.parametrize("shape", RAGGED)
def test_values_largest_and_gradients_are_torchs(shape, dtype, threads):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype)
    x = torch.where(torch.rand(shape) < 0.2, 0.0, x)
    for signed in (x, -x, -x.abs()):
        for own, torchs in zip(results(rectify, signed), results(plain, signed), strict=True):
            assert torch.equal(own, torchs)


@pytest.mark.parametrize("at", [0, BLOCK - 1, BLOCK, 3 * BLOCK])
def test_the_largest_value_is_found_wherever_it_lies(at, dtype, threads):
    x = torch.rand(3 * BLOCK + 1, dtype=dtype)
    x[at] = 2.5
    assert rectify(x)[1] == 2.5


@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_not_a_number_stays_so(sign, dtype):
    x = torch.rand(BLOCK, dtype=dtype)
    x[7] = torch.tensor(torch.nan).copysign(torch.tensor(sign))
    out, largest = rectify(x)
    assert out.isnan().nonzero().tolist() == [[7]]
    assert largest.isnan()


def last(x):
    """The same values with the channels innermost in memory."""
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)


@pytest.mark.parametrize("like", [lambda x: x, last], ids=["contiguous", "channels last"])
def test_maps_in_any_layout_are_taken(like, dtype):
    x = torch.randn(1, 8, 16, 16, 16, dtype=dtype)
    assert x.numel() >= COMPILED_FROM
    for own, torchs in zip(results(rectified, like(x)), results(plain, x), strict=True):
        assert torch.equal(own, torchs)


def test_windows_grow_with_the_largest_lead_of_large_maps():
    neuron = SpikeTimeNeuron(1.5)
    x = torch.rand(1, 2, COMPILED_FROM)
    x[0, 1, 5] = 4.0
    neuron(x)
    assert neuron.window == 6.0
    neuron(x / 2)
    assert neuron.window == 6.0
