"""Spikes that autograd keeps in a bit each come back as they were; others are kept as they are."""

from contextlib import nullcontext

import pytest
import torch

from snnrun.kernels.bits import BLOCK, PER_BYTE, pack, unpack
from snnrun.kernels.compiled.compiling import COMPILED_FROM
from snnrun.kernels.saved import saved_in_full, saves_less, spikes_as_bits

SHAPES = {
    "whole blocks": (2, 4, BLOCK * PER_BYTE),
    "an end within a block": (3, 5, 1000 * PER_BYTE + 8),
}


@pytest.fixture(params=[torch.float32, torch.float64, torch.bfloat16], ids=str)
def dtype(request):
    return request.param


def spikes(*shape, dtype=torch.float32, amplitude=1.0, rate=0.3):
    torch.manual_seed(0)
    return (torch.rand(shape) < rate).to(dtype) * amplitude


@pytest.mark.parametrize("amplitude", [1.0, 2.74])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_spikes_come_back_exactly_and_take_a_bit_each(shape, amplitude, dtype, threads):
    x = spikes(*shape, dtype=dtype, amplitude=amplitude)
    packed = pack(x)
    assert packed.bits.nbytes == x.numel() / 8
    back = unpack(packed)
    assert torch.equal(back, x)
    assert back.dtype == x.dtype


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_all_or_none_may_fire(rate):
    x = spikes(4, 8192, rate=rate)
    assert torch.equal(unpack(pack(x)), x)


def test_maps_keep_their_layout():
    x = spikes(4, 16, 20, 20).contiguous(memory_format=torch.channels_last)
    back = unpack(pack(x))
    assert torch.equal(back, x)
    assert back.stride() == x.stride()


@pytest.mark.parametrize("place", [0, 1, 5000, -1])
@pytest.mark.parametrize("value", [0.5, -1.0, float("nan"), 1 + 1e-7])
def test_one_other_value_is_enough_to_be_kept_as_it_is(value, place, threads):
    x = spikes(4, 8192)
    x[0, :8] = 1  # whatever comes first is the amplitude
    x.view(-1)[place] = value
    assert pack(x) is None


def test_spikes_that_end_within_a_byte_are_not_taken():
    assert pack(spikes(4, 8191)) is None


INPUT = torch.ones(1)
TAKEN = {"spikes": spikes(512, 64)}
LEFT = {
    "few": spikes(COMPILED_FROM // 2, 1),
    "not dense": spikes(512, 128)[:, ::2],
    "currents": torch.rand(512, 64),
}


@pytest.mark.parametrize("x", (TAKEN | LEFT).values(), ids=TAKEN | LEFT)
def test_gradients_are_those_of_the_spikes_themselves(x):
    weight = torch.randn(32, x.shape[1], requires_grad=True)
    grads = []
    for around in (spikes_as_bits(INPUT), nullcontext()):
        with around:
            loss = torch.nn.functional.linear(x, weight).square().sum()
        grads += torch.autograd.grad(loss, weight)
    assert torch.equal(*grads)


def kept_itself(x):
    """Whether a product's graph holds the memory of x."""
    product = torch.mm(x, torch.randn(x.shape[1], 32, requires_grad=True))
    return product.grad_fn._saved_self.data_ptr() == x.data_ptr()


@pytest.mark.parametrize("x", (TAKEN | LEFT).values(), ids=TAKEN | LEFT)
def test_graphs_keep_spikes_as_bits_but_in_full_where_they_are_counted(x):
    with spikes_as_bits(INPUT):
        assert kept_itself(x) is (x is not TAKEN["spikes"])
    with saved_in_full(), spikes_as_bits(INPUT):
        assert kept_itself(x)


def test_the_input_is_there_anyway():
    x = TAKEN["spikes"]
    with spikes_as_bits(x):
        assert kept_itself(x[:])


def test_nothing_is_packed_without_a_graph():
    with torch.no_grad():
        assert not saves_less(TAKEN["spikes"])
