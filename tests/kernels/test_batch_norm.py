"""Compiled batch norm is torch's, which it replaces for large contiguous maps."""

import pytest
import torch

from snnrun.kernels.batch_norm import batch_norm
from snnrun.kernels.compiled.compiling import COMPILED_FROM
from snnrun.kits.norm import TimeBatchNorm

EPS = 1e-5
SHAPES = [(2, 1, 2), (3, 5, 7), (1, 40, 3, 11), (40, 6, 15, 17), (7, 2, 50, 61)]


def torchs(x, weight, bias, eps):
    mean, var = torch.zeros_like(weight), torch.zeros_like(weight)
    return torch.batch_norm(x, weight, bias, mean, var, True, 1.0, eps, False), mean, var


def drawn(shape, dtype):
    """Maps whose means are well away from zero, a gradient from above, weights and biases."""
    draw = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2))
    factors = torch.randn(2, shape[1], generator=draw, dtype=torch.float64)
    precise = torch.promote_types(dtype, torch.float32)
    return (3 * x + 5).to(dtype), grad.to(dtype), *factors.to(precise)


def results(norm, x, grad, *channels):
    leaves = [t.detach().requires_grad_() for t in (x, *channels)]
    out = norm(*leaves, EPS)
    out[0].backward(grad)
    return [*(t.detach() for t in out), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_and_gradients_are_torchs(shape):
    values = drawn(shape, torch.float64)
    for ours, theirs in zip(results(batch_norm, *values), results(torchs, *values), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rounding_is_that_of_the_maps_and_statistics_are_more_precise(shape, dtype):
    values = drawn(shape, dtype)
    found = results(batch_norm, *values)
    exact = results(torchs, *(t.double() for t in values))
    for name, ours, theirs in zip(("out", "mean", "var", "x"), found, exact, strict=False):
        maps = name in ("out", "x")
        assert ours.dtype == (dtype if maps else torch.float32)
        rounding = 2 * torch.finfo(ours.dtype).eps
        atol = 4 * max(rounding, torch.finfo(torch.float32).eps) if maps else 0
        torch.testing.assert_close(ours.double(), theirs, rtol=rounding, atol=atol, msg=name)


def test_a_small_spread_about_a_large_mean_is_found():
    x = 1e4 + torch.arange(60.0).view(3, 4, 5)
    expected = x.double().transpose(0, 1).flatten(1).var(1)
    torch.testing.assert_close(
        batch_norm(x, torch.ones(4), torch.zeros(4), EPS)[2].double(), expected
    )


def test_equal_values_have_variance_zero():
    x = torch.full((3, 4, 5), 0.1)
    out, _, var = batch_norm(x, torch.ones(4), torch.full((4,), 2.0), EPS)
    assert var.tolist() == [0] * 4
    assert torch.equal(out, torch.full_like(x, 2.0))


def test_threads_share_the_samples():
    values = drawn((9, 3, 5, 5), torch.float64)
    alone = results(batch_norm, *values)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        shared = results(batch_norm, *values)
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(alone, shared, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_layer_does_the_same_to_maps_in_either_layout():
    x, grad, *_ = drawn((16, 8, 14, 14), torch.float64)
    assert x.numel() >= COMPILED_FROM
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        layer = TimeBatchNorm(8, scale=0.5).double()
        leaf = x.detach().contiguous(memory_format=layout).requires_grad_()
        out = layer(leaf, repeats=3)
        out.backward(grad.transpose(2, 3))  # in an order of its own
        statistics = layer.running_mean, layer.running_var
        found.append((out.detach(), leaf.grad, layer.weight.grad, layer.bias.grad, *statistics))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
