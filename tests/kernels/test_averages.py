"""The compiled steps of units whose average output is kept, against plain torch, bit by bit."""

from dataclasses import replace

import pytest
import torch
import units

from snnrun.kernels.averages import coupling, firing
from snnrun.kernels.compiled.threads import CUT
from snnrun.kernels.lif import eager

IF = replace(units.UNITS, leak=1.0)
UNITS = {
    "if": IF,
    "if, symmetric reset": replace(IF, rest=-1.0),
    "lif": replace(IF, leak=0.9, threshold=0.7),
    "lif, firing above the threshold": replace(IF, leak=0.9, fires_at_threshold=False),
    "lif, reset not leaked": replace(IF, leak=0.9, leak_reset=False),
    "lif, hard reset, decayed input": replace(IF, leak=0.9, hard=True, decay_input=True, rest=0.1),
}
STEPS = 6
# Rows that end within a vector, within a block, with a block
RAGGED = [(1, 1, 1), (3, 5, 7), (1, 1, CUT), (2, 3, 1461)]


@pytest.fixture(params=[torch.float32, torch.float64], ids=["fp32", "fp64"])
def dtype(request):
    return request.param


def currents(shape, dtype):
    """Of both signs, half of them multiples of 1/4 so that thresholds are met exactly."""
    torch.manual_seed(0)
    x = 2 * torch.randn(STEPS, *shape, dtype=dtype)
    return torch.where(torch.rand(STEPS, *shape) < 0.5, x, (4 * x).round() / 4)


def fired(current, p, leak, like=None):
    """Membranes, sums and spikes after the steps."""
    like = current[0] if like is None else like
    membrane, total, spikes = (torch.zeros_like(like) for _ in range(3))
    fire = firing(membrane, total, spikes, p, leak=leak)
    for x in current:
        fire(x)
    return membrane, total, spikes


@pytest.mark.parametrize("shape", RAGGED)
@pytest.mark.parametrize("p", UNITS.values(), ids=UNITS)
def test_units_fire_as_the_eager_kernel_and_add_up_what_they_sent(p, shape, dtype, threads):
    current = currents(shape, dtype)
    membrane, total = torch.zeros(2, *shape, dtype=dtype)
    for x in current:
        _, spikes, membrane = eager.step(x, membrane, p)
        total = 0.9 * total + spikes
    found = fired(current, p, 0.9)
    for one, other in zip(found, (membrane, total, spikes.to(dtype)), strict=True):
        assert torch.equal(one, other)


def coupled(current, mask, like=None, **constants):
    """Potentials, sums, counts and what was sent last after the steps."""
    like = current[0] if like is None else like
    state = tuple(torch.zeros_like(like) for _ in range(4))
    potential, total, count, sent = state
    couple = coupling(potential, total, count, mask, sent, **constants)
    for x in current:
        couple(x)
    return state


@pytest.mark.parametrize("shape", RAGGED)
@pytest.mark.parametrize("leak", [1.0, 0.9])
@pytest.mark.parametrize(("threshold", "subtracted"), [(0.5, 2.0), (0.3, 0.7)])
def test_couples_send_spikes_of_both_signs(leak, threshold, subtracted, shape, dtype, threads):
    current, mask = currents(shape, dtype), torch.rand(shape) < 0.7
    potential, total, count = torch.zeros(3, *shape, dtype=dtype)
    for x in current:
        u = leak * potential + x
        output = 2 * threshold * ((u >= threshold).to(dtype) - (u <= -threshold).to(dtype))
        potential, total = u - output, leak * total + output
        count = count + (output != 0)
    found = coupled(current, mask, leak=leak, threshold=threshold, subtracted=subtracted)
    expected = potential, total, count, mask * output / subtracted
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def last(x):
    """The same values with the second dimension innermost in memory."""
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)


@pytest.mark.parametrize("like", [lambda x: x, last], ids=["contiguous", "channels last"])
def test_memory_of_what_arrives_may_be_laid_out_in_any_way(like):
    current = currents((2, 3, 5, 4), torch.float64)
    mask = torch.rand(current[0].shape) < 0.7
    constants = {"leak": 1.0, "threshold": 0.5, "subtracted": 2.0}
    one = fired(current, IF, 1.0) + coupled(current, mask, **constants)
    state = like(current[0])
    for x, m in ((current, mask), (last(current), last(mask))):
        other = fired(x, IF, 1.0, state) + coupled(x, m, state, **constants)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
