"""Fully connected ops that skip zeros are those that multiply them, up to the order of sums."""

import pytest
import torch
import torch.nn.functional as F

from snnrun.kernels.products import spike_linear as module
from snnrun.kernels.products.ones import DENSEST, LARGEST_BLOCK
from snnrun.kernels.products.spike_linear import spike_linear, spike_weight_gradient
from snnrun.kernels.products.tiles import COLUMNS
from snnrun.kernels.products.weighted import (
    LEAST_OUTPUTS,
    LEAST_PRODUCTS,
    LEAST_ROWS,
    linear,
    skips_zeros,
    weight_gradient,
)

SIZES = {  # rows, inputs, outputs
    "whole blocks": (2 * LARGEST_BLOCK, LARGEST_BLOCK, 2 * COLUMNS),
    "ends within blocks": (2 * LARGEST_BLOCK + 7, 3 * LARGEST_BLOCK + 5, 3 * COLUMNS + 9),
    "less than a block": (20, 30, COLUMNS),
}


@pytest.fixture(autouse=True)
def _skipping():
    with skips_zeros(True):
        yield


def spikes(rows, inputs, rate=0.2, amplitude=1.0):
    torch.manual_seed(0)
    return (torch.rand(rows, inputs) < rate).float() * amplitude


def whole_numbers(*shape):
    """Values whose sums are exact in whatever order they are taken."""
    return torch.randint(-64, 64, shape).float()


def in_bf16(enabled=True):
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled, cache_enabled=False)


def with_gradients(function, x, weight, bias, above):
    leaves = [t.clone().requires_grad_() for t in (x, weight)]
    leaves += [] if bias is None else [bias.clone().requires_grad_()]
    y = function(leaves[0], leaves[1], leaves[2] if bias is not None else None)
    return [y.detach(), *torch.autograd.grad(y, leaves, above)]


@pytest.fixture
def products(monkeypatch):
    """The products for which zeros were skipped."""
    calls, add_up = [], module._add_up
    monkeypatch.setattr(module, "_add_up", lambda ones, *a: calls.append(ones) or add_up(ones, *a))
    return calls


@pytest.mark.parametrize("amplitude", [1.0, 0.5])
@pytest.mark.parametrize("rate", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_values_and_gradients_are_those_of_all_products(
    size, biased, rate, amplitude, threads, products
):
    rows, inputs, outputs = size
    x = spikes(rows, inputs, rate, amplitude)
    weight, above = whole_numbers(outputs, inputs), whole_numbers(rows, outputs)
    bias = whole_numbers(outputs) if biased else None
    found = with_gradients(spike_linear, x, weight, bias, above)
    assert len(products) == 2
    for here, there in zip(found, with_gradients(F.linear, x, weight, bias, above), strict=True):
        assert torch.equal(here, there)


@pytest.mark.parametrize("rate", [0.2, 0.9])
@pytest.mark.parametrize("outputs", [COLUMNS, 10])
def test_the_gradient_alone_is_that_of_all_products(rate, outputs, threads):
    x, above = spikes(400, 200, rate), whole_numbers(400, outputs)
    assert torch.equal(spike_weight_gradient(x, above), above.t() @ x)


def test_gradients_may_come_in_any_layout():
    x, weight = spikes(400, 200), whole_numbers(128, 200)
    for above in (whole_numbers(128, 400).t(), whole_numbers(1, 1).expand(400, 128)):
        found = with_gradients(spike_linear, x, weight, None, above)
        assert torch.equal(found[2], (above.t() @ x))


@pytest.mark.parametrize("value", [0.5, 2.0, -1.0, float("nan"), -0.0])
@pytest.mark.parametrize("place", [(0, 0), (399, 199), (200, 170)])
def test_one_other_value_is_enough_to_multiply(value, place, products, threads):
    x, weight = spikes(400, 200), torch.randn(128, 200)
    x[place] = value
    torch.testing.assert_close(
        spike_linear(x, weight, None), F.linear(x, weight), rtol=0, atol=0, equal_nan=True
    )
    assert not products


@pytest.mark.parametrize("laid_out", [torch.Tensor.contiguous, lambda x: x.t().contiguous().t()])
def test_weights_may_lie_in_any_layout_and_their_gradient_lies_like_them(laid_out, threads):
    x, above = spikes(400, 200), whole_numbers(400, 128)
    weight = laid_out(whole_numbers(128, 200))
    values, _, to_weight = with_gradients(spike_linear, x, weight, None, above)
    assert torch.equal(values, x @ weight.t())
    assert torch.equal(to_weight, above.t() @ x)
    assert to_weight.stride() == weight.stride()


@pytest.mark.parametrize("dtype", DENSEST)
@pytest.mark.parametrize(("times", "skipped"), [(0.95, True), (1.05, False)])
def test_many_spikes_are_multiplied(times, skipped, dtype, products, threads):
    x = spikes(2000, 500, times * DENSEST[dtype]).to(dtype)
    with in_bf16(dtype == torch.bfloat16):
        spike_linear(x, torch.randn(128, 500), None)
    assert bool(products) is skipped


@pytest.mark.parametrize("amplitude", [1.0, 0.5])
@pytest.mark.parametrize("rate", [0.0, 0.15])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("arriving", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_in_bf16_values_and_gradients_are_rounded_once(
    size, arriving, biased, rate, amplitude, threads, products
):
    """Of the exact values: those of whole numbers, whatever the order of their sums."""
    rows, inputs, outputs = size
    x = spikes(rows, inputs, rate, amplitude)
    weight, above = whole_numbers(outputs, inputs), whole_numbers(rows, outputs)
    bias = whole_numbers(outputs) if biased else None
    with in_bf16():
        found = with_gradients(spike_linear, x.to(arriving), weight, bias, above.bfloat16())
    assert len(products) == 2
    exact = with_gradients(F.linear, x, weight, bias, above)
    to_bias = [exact[3].bfloat16().float()] if biased else []
    expected = [exact[0].bfloat16(), exact[1].bfloat16().to(arriving), exact[2], *to_bias]
    for here, there in zip(found, expected, strict=True):
        assert here.dtype == there.dtype
        assert torch.equal(here, there)


def test_in_bf16_weights_are_not_rounded(products):
    x, weight = spikes(1000, 500, 0.15).bfloat16(), torch.randn(256, 500)
    exact = x.double() @ weight.double().t()
    with in_bf16():
        error = (spike_linear(x, weight, None).double() - exact).abs()
        multiplied = (F.linear(x, weight).double() - exact).abs()
    assert len(products) == 1
    # Half of the last place, and what sums in fp32 are off by.
    assert (error <= exact.abs() * torch.finfo(torch.bfloat16).eps / 2 + 1e-5).all()
    assert error.mean() < multiplied.mean()


def test_the_number_of_threads_does_not_change_a_bit():
    x, weight, above = spikes(1000, 500), torch.randn(200, 500), torch.randn(1000, 200)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            values, _, to_weight = with_gradients(spike_linear, x, weight, None, above)
            found.append((values, to_weight))
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*found, strict=True):
        assert torch.equal(one, three)


def test_it_is_chosen_for_large_products_of_single_precision_where_it_is_asked_for(products):
    rows, inputs, outputs = LEAST_ROWS, 1024, LEAST_PRODUCTS // (LEAST_ROWS * 1024)
    x, weight = spikes(rows, inputs), torch.randn(outputs, inputs)
    linear(x, weight, None)
    assert len(products) == 1
    weight_gradient(x, weight.new_ones(rows, outputs))
    assert len(products) == 2
    with skips_zeros(False):
        linear(x, weight, None)
        weight_gradient(x, weight.new_ones(rows, outputs))
    linear(x[:-1], weight, None)
    linear(x, weight[:-1], None)
    linear(x.double(), weight.double(), None)
    assert len(products) == 2


@pytest.mark.parametrize("arriving", [torch.bfloat16, torch.float32], ids=str)
def test_in_bf16_it_is_chosen_for_wide_outputs(arriving, products):
    wide = LEAST_OUTPUTS[torch.bfloat16]
    x = spikes(LEAST_ROWS, LEAST_PRODUCTS // (LEAST_ROWS * wide), 0.1)
    weight = torch.randn(wide, x.shape[1])
    with in_bf16():
        linear(x.to(arriving), weight, None)
        assert len(products) == 1
        linear(x.to(arriving).repeat(2, 1), weight[:-1], None)
        linear(x.to(arriving), weight.bfloat16(), None)
        weight_gradient(x, weight.new_ones(len(x), wide))
    with torch.autocast("cpu", torch.float16):
        linear(x, weight, None)
    assert len(products) == 1
