"""The forward pass of units behind a convolution, against torch operations, bit by bit."""

from dataclasses import replace

import pytest
import torch

from snnrun.kernels.events.active_conv import _nonzero
from snnrun.kernels.events.active_units import BLOCK, fire
from snnrun.kernels.events.lists import Unit, from_mask, to_dense

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
    by_sample = torch.stack(potentials[:-1]).flatten(2).transpose(0, 1)
    distances = (by_sample - UNIT.threshold).abs()
    spikes, counts, active, slopes = fire(current, UNIT)
    assert torch.equal(spikes, torch.stack(expected))
    assert torch.equal(counts, spikes.sum(0))
    wanted = from_mask(distances < UNIT.window)
    assert all(torch.equal(a, b) for a, b in zip(active, wanted, strict=True))
    near = distances[distances < UNIT.window]
    assert torch.equal(slopes, 1 / (UNIT.steepness * near + 1).square())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_not_zero_is_listed_sample_by_sample_with_the_channels_innermost(dtype, threads):
    x = torch.randn(3, 5, 4, 7, 6, dtype=dtype).relu().transpose(0, 1)
    frames = x.permute(1, 0, 3, 4, 2).flatten(2)
    places, values = _nonzero(x)
    assert torch.equal(places.start, from_mask(frames != 0).start)
    assert torch.equal(to_dense(places, values, frames.shape, values), frames)


def test_few_active_events_of_busy_samples_fit_the_lists_of_the_quiet_ones():
    """Lists that grow keep what they have: one sample with every unit active among silent ones."""
    current = torch.zeros(6, 40, 2, 5, 5)
    current[:, 30] = UNIT.threshold
    active = fire(current, replace(UNIT, leak=0.0, drop=0.0))[2]
    assert torch.equal(active.index, torch.arange(50).repeat(5).int())
    assert active.start.diff().nonzero().flatten().tolist() == [30 * 6 + t for t in range(1, 6)]
