"""Convolutions that skip zeros are those that multiply them, up to the order of sums."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnrun.kernels.products import spike_conv as module
from snnrun.kernels.products.ones import DENSEST
from snnrun.kernels.products.spike_conv import spike_conv2d
from snnrun.kernels.products.tiles import COLUMNS
from snnrun.kernels.products.weighted import LEAST_CHANNELS, conv2d, skips_zeros

KERNELS = {  # kernel, padding
    "same": ((3, 3), (1, 1)),
    "valid": ((3, 3), (0, 0)),
    "wide padding": ((3, 3), (2, 2)),
    "longer than wide": ((3, 1), (1, 0)),
    "wider than long": ((1, 5), (0, 2)),
    "one by one": ((1, 1), (0, 0)),
}


def last(x):
    return x.contiguous(memory_format=torch.channels_last)


def spikes(*shape, rate=0.2, amplitude=1.0):
    torch.manual_seed(0)
    return last((torch.rand(shape) < rate).float() * amplitude)


def whole_numbers(*shape):
    """Values whose sums are exact in whatever order they are taken."""
    return torch.randint(-64, 64, shape).float()


def with_gradients(function, x, weight, bias, padding):
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    y = function(*leaves, padding=padding)
    torch.manual_seed(1)
    return [y.detach(), *torch.autograd.grad(y, leaves, last(whole_numbers(*y.shape)).to(y.dtype))]


@pytest.fixture
def convolved(monkeypatch):
    """Convolutions for which zeros were skipped."""
    calls, convolve = [], module._convolve
    monkeypatch.setattr(module, "_convolve", lambda *a: calls.append(a) or convolve(*a))
    return calls


@pytest.mark.parametrize("channels", [5, 200])
@pytest.mark.parametrize(("kernel", "padding"), KERNELS.values(), ids=KERNELS)
def test_values_and_gradients_are_those_of_all_products(
    kernel, padding, channels, threads, convolved
):
    x = spikes(3, channels, 9, 7, amplitude=0.5 if channels == 5 else 1.0)
    weight, bias = last(whole_numbers(2 * COLUMNS, channels, *kernel)), whole_numbers(2 * COLUMNS)
    found = with_gradients(spike_conv2d, x, weight, bias, padding)
    assert len(convolved) == 1
    for here, there in zip(found, with_gradients(F.conv2d, x, weight, bias, padding), strict=True):
        assert torch.equal(here, there)
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in found[:3])


@pytest.mark.parametrize("arriving", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("kernel", "padding"), KERNELS.values(), ids=KERNELS)
def test_in_bf16_values_and_gradients_are_rounded_once(
    kernel, padding, arriving, threads, convolved
):
    """Of the exact values: those of whole numbers, whatever the order of their sums."""
    x = spikes(3, 40, 9, 7, rate=0.15)
    weight, bias = last(whole_numbers(2 * COLUMNS, 40, *kernel)), whole_numbers(2 * COLUMNS)
    with torch.autocast("cpu", torch.bfloat16):
        found = with_gradients(spike_conv2d, x.to(arriving), weight, bias, padding)
    assert len(convolved) == 1
    y, to_x, to_weight, to_bias = with_gradients(F.conv2d, x, weight, bias, padding)
    expected = y.bfloat16(), to_x.bfloat16().to(arriving), to_weight, to_bias.bfloat16().float()
    for here, there in zip(found, expected, strict=True):
        assert here.dtype == there.dtype
        assert torch.equal(here, there)


def test_in_bf16_it_is_chosen_for_more_channels(convolved):
    for channels in (least := LEAST_CHANNELS[torch.bfloat16], least - 1):
        op, x = nn.Conv2d(channels, COLUMNS, 3), spikes(8, channels, 16, 16, rate=0.1)
        with skips_zeros(True), torch.autocast("cpu", torch.bfloat16):
            conv2d(x.bfloat16(), op, last(op.weight.detach()), op.bias)
    assert len(convolved) == 1


def test_a_gradient_may_come_in_any_layout():
    x, weight = spikes(3, 40, 6, 6), last(whole_numbers(COLUMNS, 40, 3, 3)).requires_grad_()
    for above in (whole_numbers(3, COLUMNS, 6, 6), whole_numbers(1).expand(3, COLUMNS, 6, 6)):
        (found,) = torch.autograd.grad(spike_conv2d(x, weight, None, (1, 1)), weight, above)
        (there,) = torch.autograd.grad(F.conv2d(x, weight, padding=1), weight, above)
        assert torch.equal(found, there)


def test_many_spikes_and_other_values_are_multiplied(convolved):
    weight = last(torch.randn(COLUMNS, 40, 3, 3))
    densest = DENSEST[torch.float32]
    for x in (spikes(3, 40, 6, 6, rate=1.2 * densest), last(torch.randn(3, 40, 6, 6).relu())):
        assert torch.equal(spike_conv2d(x, weight, None, (1, 1)), F.conv2d(x, weight, padding=1))
    assert not convolved


@pytest.mark.parametrize(
    ("changes", "skipped"),
    [
        ({}, True),
        ({"stride": 2}, False),
        ({"groups": 2}, False),
        ({"dilation": 2}, False),
        ({"padding": "same"}, False),
        ({"out_channels": COLUMNS + 8}, False),
    ],
    ids=str,
)
def test_it_is_chosen_for_plain_convolutions_where_it_is_asked_for(changes, skipped, convolved):
    op = nn.Conv2d(**({"in_channels": 64, "out_channels": COLUMNS, "kernel_size": 3} | changes))
    x, weight = spikes(8, 64, 16, 16), last(op.weight.detach())
    with skips_zeros(True):
        y = conv2d(x, op, weight, op.bias)
        conv2d(x.contiguous(), op, weight, op.bias)
    with skips_zeros(False):
        conv2d(x, op, weight, op.bias)
    assert len(convolved) == skipped
    torch.testing.assert_close(y, op._conv_forward(x, weight, op.bias))
