"""Both stages of IDE and SPIDE by compiled steps, against the same in plain torch, bit by bit."""

import pytest
import torch
from equilibrium_nets import BATCH, MODELS, SHAPE, case

from snnrun.equilibrium.simulation import simulate
from snnrun.equilibrium.spikes import backward_stage


@pytest.fixture(params=["fp32", "fp64"])
def precision(request):
    if request.param == "fp64":
        request.getfixturevalue("fp64")


@pytest.fixture
def compiled(monkeypatch):
    """Choose between the compiled steps and torch's, whatever the size of a layer."""

    def choose(chosen):
        for module in ("simulation", "spikes"):
            monkeypatch.setattr(f"snnrun.equilibrium.{module}.compiles", lambda *_: chosen)

    return choose


@pytest.fixture(params=MODELS)
def made(request, lif, precision):
    def make(leak):
        torch.manual_seed(0)
        return case(MODELS[request.param], lif(leak=leak, threshold=1.0, rest=-1.0))

    return make


@pytest.mark.parametrize("static", [True, False], ids=["static", "varying"])
@pytest.mark.parametrize("leak", [1.0, 0.9])
def test_compiled_simulations_are_those_of_torch(made, leak, static, compiled):
    net, steps = made(leak).net, 12
    image = 2 * torch.randn(1, BATCH, *SHAPE)
    x = image.expand(steps, *image.shape[1:]) if static else image * torch.randn(steps, 1, 1, 1, 1)
    found = []
    for chosen in (True, False):
        compiled(chosen)
        found.append(simulate(net, x, leak))
    one, other = found
    assert one.weight == other.weight
    assert all(rate.any() for rate in one.rates)
    for a, b in zip(one.rates + one.potentials, other.rates + other.potentials, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("leak", [1.0, 0.9])
@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_compiled_backward_stages_are_those_of_torch(made, leak, threshold, compiled):
    system = made(1.0)
    simulation = system.simulated(12)
    masks = [torch.rand_like(rate) < 0.8 for rate in simulation.rates]
    loop = system.loop(simulation, inner=simulation.rates[:-1], masks=masks)
    drive, found = torch.randn_like(loop.rates[-1]), []
    for chosen in (True, False):
        compiled(chosen)
        found.append(backward_stage(loop, drive, steps=12, threshold=threshold, leak=leak))
    one, other = found
    assert all(count.any() for count in one.counts)
    for kind in ("betas", "potentials", "counts"):
        for a, b in zip(getattr(one, kind), getattr(other, kind), strict=True):
            assert torch.equal(a, b)
