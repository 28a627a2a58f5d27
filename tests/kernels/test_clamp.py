"""The clamp's compiled sweeps against plain torch, bit by bit."""

import pytest
import torch

from snnrun.equilibrium import clamp as dispatch
from snnrun.kernels import clamp
from snnrun.kernels.compiled.threads import CUT

C, SCALE = 0.7, 3.0
RAGGED = [(1, 1, 1), (3, 5, 7), (1, 1, CUT), (2, 3, 1461)]


def last(x):
    """The same values with the channels innermost in memory."""
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["fp32", "fp64"])
def dtype(request):
    return request.param


def drawn(shape, dtype):
    """Values on both sides of 0 and C, and at them; a mask; a gradient."""
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype)
    x = torch.where(torch.rand(shape) < 0.2, torch.where(x > 0, C, 0.0).to(dtype), x)
    return x, torch.rand(shape) < 0.5, torch.randn(shape, dtype=dtype)


def plain(x, mask, grad):
    return (x / C).clamp(0, 1), (x >= 0) & (x <= C), (mask * grad).div(C).div(SCALE)


def compiled(x, mask, grad):
    return clamp.settled(x, C), clamp.within(x, 0, C), clamp.masked(grad, mask, C, SCALE)


def chosen(x, mask, grad):
    return dispatch.settled(x, C), dispatch.slopes(x, C), dispatch.masked(grad, mask, C, SCALE)


@pytest.mark.parametrize("shape", RAGGED)
def test_sweeps_are_torchs(shape, dtype, threads):
    values = drawn(shape, dtype)
    for one, other in zip(compiled(*values), plain(*values), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_memory_may_be_laid_out_in_any_way(dtype):
    x, mask, grad = drawn((1, 2, 3, 5, 4), dtype)
    for likes in ((last, last, last), (last, torch.clone, last), (torch.clone, last, last)):
        turned = [like(t) for like, t in zip(likes, (x, mask, grad), strict=True)]
        own = compiled(*turned)
        for one, other in zip(own, plain(x, mask, grad), strict=True):
            assert torch.equal(one, other)
        assert own[0].stride() == own[1].stride() == turned[0].stride()


def test_what_is_not_a_number_stays_so(dtype):
    x = torch.full((3,), torch.nan, dtype=dtype)
    assert clamp.settled(x, C).isnan().all()
    assert not clamp.within(x, 0, C).any()
    assert clamp.masked(x, torch.ones(3, dtype=torch.bool), C, SCALE).isnan().all()


@pytest.mark.parametrize("shape", [(1, 2, 3, 4, 5), (1, 8, 16, 16, 16)], ids=["small", "large"])
@pytest.mark.parametrize("like", [lambda x: x, last], ids=["contiguous", "channels last"])
def test_maps_of_any_size_and_layout_are_taken(shape, like, dtype):
    x, mask, grad = drawn(shape, dtype)
    own = chosen(like(x), mask, like(grad))
    for one, other in zip(own, plain(x, mask, grad), strict=True):
        assert torch.equal(one, other)
    by_tensor = dispatch.masked(like(grad), mask, C, torch.tensor(SCALE, dtype=dtype))
    assert torch.equal(by_tensor, own[2])
