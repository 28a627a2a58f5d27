import pytest
import torch
from torch import nn
from units import UNITS

from snnrun.kernels.compiled.compiling import COMPILED_FROM
from snnrun.kernels.lif.multistep import lif
from snnrun.kernels.lif.parameters import TrainedParameters
from snnrun.kits.between import Between
from snnrun.kits.synapse import Synapse

SHAPE = (4, 8, 16, 8, 8)


def maps(dtype=torch.float64):
    assert torch.Size(SHAPE).numel() >= COMPILED_FROM
    return torch.randn(SHAPE, dtype=dtype, generator=torch.Generator().manual_seed(0))


def last(x):
    """The same values with the channels innermost."""
    return x.movedim(2, -1).contiguous().movedim(-1, 2)


def run(x, chunks=1):
    """Spikes, and the gradients of a weighted sum of them to the currents and the leak."""
    x = x.detach().requires_grad_()
    leak = torch.tensor(UNITS.leak, dtype=torch.float64, requires_grad=True)
    units = TrainedParameters(**vars(UNITS) | {"leak": leak})
    state, spikes = None, []
    for chunk in x.chunk(chunks):
        out, state = lif(chunk, state, units)
        spikes.append(out)
    out = torch.cat(spikes)
    weights = torch.arange(out.numel(), dtype=out.dtype).view(out.shape) / out.numel()
    (out * weights).sum().backward()
    return out.detach(), x.grad, leak.grad


@pytest.mark.parametrize("chunks", [1, 4])
def test_channels_last_maps_give_the_same_spikes_and_gradients(chunks):
    plain, fast = run(maps(), chunks), run(last(maps()), chunks)
    assert torch.equal(plain[0], fast[0]) and torch.equal(plain[1], fast[1])
    torch.testing.assert_close(plain[2], fast[2], rtol=1e-12, atol=0)  # a sum in another order


def test_channels_last_currents_give_channels_last_spikes():
    spikes, _ = lif(last(maps()), None, UNITS)
    assert spikes[0].is_contiguous(memory_format=torch.channels_last)


def test_bfloat16_currents_are_integrated_in_single_precision():
    current = maps(torch.bfloat16)
    spikes, grad, to_leak = run(current)
    expected, expected_grad, expected_to_leak = run(current.float())
    assert spikes.dtype == grad.dtype == torch.bfloat16
    assert torch.equal(spikes.float(), expected)
    torch.testing.assert_close(grad.float(), expected_grad, rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(to_leak, expected_to_leak, rtol=1e-2, atol=0)


def test_a_static_current_gets_the_sum_of_its_steps_gradients():
    x = torch.rand(1, 8, 32, dtype=torch.float64)
    op = nn.Linear(32, 512).double()
    grads = []
    for steps in (x.expand(5, *x.shape[1:]), x.repeat(5, 1, 1)):
        op.zero_grad()
        spikes, _ = lif(Synapse(op)(steps) * 4, None, UNITS)
        (spikes * torch.arange(1.0, 6).view(5, 1, 1)).sum().backward()
        grads.append(op.weight.grad.clone())
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [lambda x: x, last], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("size", [(8, 8), (6, 20), (2, 90)])
def test_average_pool_of_large_maps_is_torchs(dtype, layout, size):
    x = torch.randn(8, 16, 8, *size, generator=torch.Generator().manual_seed(0), dtype=dtype)
    assert x.numel() >= COMPILED_FROM
    found = []
    for run in (
        Between(nn.AvgPool2d(2)),
        lambda x: nn.AvgPool2d(2)(x.flatten(0, 1)).unflatten(0, x.shape[:2]),
    ):
        leaf = layout(x).detach().requires_grad_()
        y = run(leaf)
        (y * y.detach()).sum().backward()
        found.append((y.detach(), leaf.grad))
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain)
    assert found[0][0][0].stride() == found[1][0][0].stride()


def test_average_pool_takes_a_map_seen_several_times():
    x = torch.randn(1, 2, 8, 32, 32).expand(4, -1, -1, -1, -1)
    torch.testing.assert_close(Between(nn.AvgPool2d(2))(x)[3], nn.AvgPool2d(2)(x[0]))


def test_average_pool_gives_every_member_of_a_window_a_quarter_of_the_gradient():
    x = torch.zeros(1, 1, 16, 32, 32, requires_grad=True)
    y = Between(nn.AvgPool2d(2))(x)
    grad = torch.arange(y.numel(), dtype=y.dtype).view(y.shape)
    y.backward(grad)
    assert torch.equal(x.grad, grad.repeat_interleave(2, 3).repeat_interleave(2, 4) / 4)
