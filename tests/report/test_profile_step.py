"""Where the profile of a training step puts what it sees."""

import pytest
import torch
from profile_step import STEP, by_place
from torch.profiler import ProfilerActivity, profile, record_function

from snnrun.kits.stepwise import Fire
from snnrun.neurons.surrogate import Surrogate


def test_self_time_goes_to_the_innermost_group_that_claims_it():
    x, w = torch.rand(8, 16), torch.rand(16, 4, requires_grad=True)
    surrogate = Surrogate(name="triangle", width=1.0)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(2):
            with record_function(STEP):
                Fire.apply(torch.cos((x @ w).relu()), 0.5, surrogate).sum().backward()
            torch.tanh(x)
    times = by_place(profiler.events())
    begins = sorted(e.time_range.start for e in profiler.events() if e.name == STEP)
    assert sum(times.values()) == pytest.approx(begins[1] - begins[0])
    groups = {name: group for group, name in times if name != "Python"}
    assert groups["aten::mm"] == "products"
    assert groups["Fire"] == groups["FireBackward"] == "own kernels"
    assert groups["aten::threshold_backward"] == "torch layers"
    assert groups["aten::cos"] == groups["aten::sum"] == "other"
    assert groups["aten::tanh"] == "loop"
    assert "aten::ge" not in groups  # it ran within Fire
    assert times["other", "Python"] > 0
