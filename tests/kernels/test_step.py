"""The compiled gradient through spikes, against torch operations and in the layers that use it."""

import pytest
import torch

from snnrun.kernels.compiling import COMPILED_FROM
from snnrun.kernels.step import through_spikes
from snnrun.kits.stepwise import Fire
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


def test_memory_may_be_laid_out_in_any_way():
    surrogate = Surrogate(name="triangle", width=1.0)
    u, grad = torch.randn(3, 50, 40).transpose(1, 2), torch.ones(1).expand(3, 40, 50)
    found = through_spikes(grad, u, THRESHOLD, surrogate)
    torch.testing.assert_close(found, surrogate(u - THRESHOLD))


def test_large_layers_have_the_gradient_of_small_ones():
    surrogate = Surrogate(name="sigmoid", width=4.0)
    large = torch.randn(COMPILED_FROM, requires_grad=True)
    (found,) = torch.autograd.grad(Fire.apply(large, THRESHOLD, surrogate).sum(), large)
    expected = []
    for small in large.detach().split(COMPILED_FROM // 2):
        small.requires_grad_()
        expected += torch.autograd.grad(Fire.apply(small, THRESHOLD, surrogate).sum(), small)
    torch.testing.assert_close(found, torch.cat(expected))
