"""The forward pass of units behind a convolution, against torch operations, bit by bit."""

import pytest
import torch

from snnrun.kernels.active_conv import BLOCK, _fire, _nonzero
from snnrun.kernels.events import Unit

UNIT = Unit(leak=0.9, synapse=None, threshold=0.7, drop=0.6, window=0.2, steepness=100.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5, 2, 3, 7, 11), (4, 1, 1, 8, BLOCK), (2, 1, 1, 1, 1)])
def test_units_fire_and_active_events_are_listed(shape, dtype, threads):
    torch.manual_seed(0)
    current = torch.randn(shape, dtype=dtype).movedim(2, -1).contiguous().movedim(-1, 2)
    potentials, expected = [torch.zeros(shape[1:], dtype=dtype)], []
    for x in current:
        expected.append((potentials[-1] > UNIT.threshold).to(dtype))
        potentials.append(potentials[-1] * UNIT.leak - UNIT.drop * expected[-1] + x)
    distances = (torch.stack(potentials[:-1]).flatten() - UNIT.threshold).abs()
    places = (distances < UNIT.window).nonzero().flatten()
    spikes, active, slopes = _fire(current, UNIT)
    assert torch.equal(spikes, torch.stack(expected))
    assert torch.equal(active, places.int())
    assert torch.equal(slopes, 1 / (UNIT.steepness * distances[places] + 1).square())


def test_what_is_not_zero_is_listed(threads):
    x = torch.randn(3, 5, 7).relu().transpose(0, 1)
    places, values = _nonzero(x)
    assert torch.equal(places, x.flatten().nonzero().flatten().int())
    assert torch.equal(values, x.flatten()[places])
