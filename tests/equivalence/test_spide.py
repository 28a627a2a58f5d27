"""Gradients computed by spikes: the properties of SPIDE's backward stage, in fp64."""

import logging

import pytest
import torch
from equilibrium_nets import BATCH, CLASSES, MODELS, at_equilibrium, case, conv, mlp, solved

from snnrun.equilibrium.spikes import backward_stage
from snnrun.errors import ConfigError
from snnrun.hardware import Energy
from snnrun.measure.memory import saved_for_backward
from snnrun.methods.base import Optim
from snnrun.methods.spide import SPIDE

pytestmark = pytest.mark.usefixtures("fp64")

ONE_LAYER = {"128 (F)": mlp([128]), "conv with stride (F)": conv("8C3s", "3")}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


@pytest.fixture(params=ONE_LAYER)
def one_layer(request):
    return ONE_LAYER[request.param]


@pytest.fixture
def neuron(lif):
    """Subtracts 2, resets to minus the threshold."""
    return lambda leak=1.0: lif(leak=leak, threshold=1.0, rest=-1.0)


@pytest.fixture
def method():
    def make(**changes):
        optim = Optim(
            name="sgd",
            lr=0.1,
            momentum=0.0,
            weight_decay=0.0,
            schedule="constant",
            warmup_steps=0,
            clip_norm=None,
        )
        keys = {
            "name": "spide",
            "timesteps": 5,
            "optim": optim,
            "init": "unit_rows",
            "feedback_norm": "frobenius",
            "feedback_bound": 1.0,
            "energy": Energy(e_ac_pj=0.9, e_mac_pj=4.6),
            "backward_steps": 25,
            "backward_threshold": 0.5,
            "backward_leak": 1.0,
            "loss_scale": None,
            "drive": 0.8,
            "mask": "local",
            "symmetric_reset": True,
        }
        return SPIDE(**(keys | changes))

    return make


def stage(loop, drive, steps, threshold=0.5, leak=1.0):
    return backward_stage(loop, drive, steps=steps, threshold=threshold, leak=leak)


@pytest.mark.parametrize("leak", [1.0, 0.95])
def test_backward_rates_obey_the_identity_of_finite_time(neuron, model, leak):
    steps = 40
    made = case(model, neuron())
    loop = made.loop(made.simulated(30))
    drive = torch.randn_like(loop.rates[-1])
    before, after = (stage(loop, drive, t, leak=leak) for t in (steps - 1, steps))
    z = sum(leak**k for k in range(steps))
    # s[T] is what the weighted sum beta Z gains in the last step; leak Z[T - 1] = Z[T] - 1
    last_spikes = after.betas[0] * z - before.betas[0] * (z - 1)
    late = loop.adjoint(0, after.betas[0] - last_spikes / z) / leak
    expected = drive + late - after.potentials[-1] / z
    torch.testing.assert_close(after.betas[-1], expected, rtol=0, atol=1e-12)
    for i in range(len(after.betas) - 1):
        expected = loop.adjoint(i + 1, after.betas[i + 1]) - after.potentials[i] / z
        torch.testing.assert_close(after.betas[i], expected, rtol=0, atol=1e-12)


@pytest.fixture
def system(neuron):
    """A loop at its equilibrium, a right side of the given size and the exact solution."""

    def make(model, *, largest_g=None, largest_beta=None):
        loop = at_equilibrium(case(model, neuron()))
        g = torch.randn_like(loop.rates[-1])
        exact = solved(loop, g)
        factor = largest_g / g.abs().max() if largest_g else largest_beta / exact.abs().max()
        return loop, g * factor, exact * factor

    return make


@pytest.mark.parametrize("steps", [50, 200, 800])
def test_error_is_that_of_rounding_to_spikes(system, one_layer, steps):
    loop, g, exact = system(one_layer, largest_beta=0.5)
    error = stage(loop, g, steps).betas[-1] - exact
    assert 0.2 <= error.square().mean().sqrt() * steps <= 0.4


@pytest.mark.parametrize(("steps", "cosine"), [(100, 0.99), (500, 0.999)])
def test_direction_of_small_gradients_is_kept(system, one_layer, steps, cosine):
    loop, g, exact = system(one_layer, largest_g=0.1)
    found = stage(loop, g, steps).betas[-1]
    assert torch.cosine_similarity(found.flatten(), exact.flatten(), dim=0) >= cosine


@pytest.mark.parametrize("steps", [50, 100, 200])
def test_twice_the_steps_halve_the_error(system, one_layer, steps):
    loop, g, exact = system(one_layer, largest_beta=0.5)
    once, twice = ((stage(loop, g, t).betas[-1] - exact).norm() for t in (steps, 2 * steps))
    assert 0.35 <= twice / once <= 0.7


def test_deep_nets_converge_to_the_exact_solution_in_every_layer(system, model):
    loop, g, exact = system(model, largest_g=0.5)
    found = stage(loop, g, 1000).betas
    for beta, expected in zip(found, loop.chain(exact), strict=True):
        assert torch.cosine_similarity(beta.flatten(), expected.flatten(), dim=0) >= 0.999


def test_the_opposite_gradient_gives_exactly_the_opposite(system, model):
    loop, g, _ = system(model, largest_g=1.0)
    for plus, minus in zip(stage(loop, g, 50).betas, stage(loop, -g, 50).betas, strict=True):
        assert plus.any()
        assert torch.equal(plus, -minus)


def test_scaled_currents_and_thresholds_give_the_same_spikes(system, model):
    loop, g, _ = system(model, largest_g=1.0)
    small, large = stage(loop, g, 50), stage(loop, 8 * g, 50, threshold=4.0)
    for one, other in zip(small.betas, large.betas, strict=True):
        assert torch.equal(8 * one, other)
    for one, other in zip(small.counts, large.counts, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("largest", [0.0, 0.0049])
def test_currents_too_small_to_reach_the_threshold_give_nothing(system, model, largest):
    loop, g, _ = system(model, largest_g=1.0)
    found = stage(loop, g * largest, 100)
    assert all(beta.count_nonzero() == 0 for beta in found.betas)
    assert all(count.count_nonzero() == 0 for count in found.counts)


def test_outputs_beyond_one_spike_per_step_stay_wrong_for_ever(system, one_layer):
    loop, g, exact = system(one_layer, largest_beta=2.0)
    early, late = ((stage(loop, g, t).betas[-1] - exact).norm() for t in (500, 2000))
    assert late / early > 0.9


def test_masked_units_neither_learn_nor_pass_anything_on(neuron, model):
    made = case(model, neuron())
    simulation = made.simulated(30)
    masks = [torch.zeros_like(rate, dtype=torch.bool) for rate in simulation.rates]
    loop = made.loop(simulation, inner=simulation.rates[:-1], masks=masks)
    g = torch.randn_like(simulation.rates[-1]).clamp(-1, 1)
    found = stage(loop, g, 20)
    assert found.betas[-1].any()
    assert not any(beta.any() for beta in found.betas[:-1])
    assert torch.equal(stage(loop, g, 1).betas[-1], (g.abs() >= 0.5) * g.sign())
    loop.backward(found.betas)
    parameters = [p for n, p in made.net.named_parameters() if not n.startswith("readout")]
    assert all(p.grad.count_nonzero() == 0 for p in parameters)


@pytest.mark.parametrize("steps", [1, 7, 100])
def test_without_feedback_the_output_rounds_the_gradient(neuron, one_layer, steps):
    made = case(one_layer, neuron())
    made.net.feedback.synapse.op.weight.data.zero_()
    loop = made.loop(made.simulated(30))
    g = 2 * torch.rand_like(loop.rates[-1]) - 1
    error = (stage(loop, g, steps).betas[-1] - g).abs().max()
    assert error <= 0.5 / steps + 1e-12


def test_adjoints_of_all_maps(neuron, model):
    made = case(model, neuron())
    simulation = made.simulated(5)
    everywhere = [torch.ones_like(rate, dtype=torch.bool) for rate in simulation.rates]
    loop = made.loop(simulation, inner=simulation.rates[:-1], masks=everywhere)
    for i in range(len(loop.layers)):
        sent, back = torch.randn_like(loop.rates[i - 1]), torch.randn_like(loop.rates[i])
        through = loop.map(i, sent) - loop.map(i, torch.zeros_like(sent))
        forward = (through * back).sum() / made.subtracted
        assert forward.item() == pytest.approx(
            (sent * loop.adjoint(i, back)).sum().item(), abs=1e-10
        )


def test_weight_gradients_are_products_of_rates(neuron):
    made = case(mlp([12, 9]), neuron())
    simulation = made.simulated(30)
    loop = made.loop(simulation, inner=simulation.rates[:-1])
    found = stage(loop, torch.randn_like(loop.rates[-1]), 20)
    scale, (first, last) = 4.0, [loop.delta(i, beta)[0] / 4.0 for i, beta in enumerate(found.betas)]
    loop.backward(found.betas, scale)
    net, (inner, outer) = made.net, [rate[0] for rate in simulation.rates]
    expected = {
        net.layers[0].synapse.op.weight: first.T @ made.x[0].flatten(1),
        net.layers[0].synapse.op.bias: first.sum(0),
        net.layers[1].synapse.op.weight: last.T @ inner,
        net.layers[1].synapse.op.bias: last.sum(0),
        net.feedback.synapse.op.weight: first.T @ outer,
    }
    for parameter, grad in expected.items():
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-12, atol=1e-14)


def bytes_kept(method, made, steps):
    net, x = made.net, made.x.expand(steps, *made.x.shape[1:])
    update = method.setup(net)
    with saved_for_backward(net, x) as saved:
        out = method.step(net, update, x, torch.arange(BATCH) % CLASSES)
    return saved.peak_bytes + out.kept_bytes


def test_memory_depends_on_neither_number_of_steps(neuron, model, method):
    made = case(model, neuron())
    kept = {
        bytes_kept(method(backward_steps=backward), made, forward)
        for forward, backward in [(5, 10), (5, 400), (400, 10)]
    }
    assert len(kept) == 1
    assert kept.pop() > 0


def test_automatic_scale_puts_the_largest_gradient_at_the_drive(method):
    g = torch.tensor([[[0.001, -0.02]]])
    spide = method(backward_threshold=0.25, drive=0.8)
    assert (spide.scale(g) * g).abs().max().item() == pytest.approx(0.8 * 0.5)
    assert method(loss_scale=400.0).scale(g) == 400
    zero = torch.zeros_like(g)
    assert (spide.scale(zero) * zero).count_nonzero() == 0


@pytest.mark.parametrize("loss_scale", [None, 2.0])
def test_gradients_do_not_carry_the_scale(neuron, method, loss_scale):
    made = case(mlp([40]), neuron())
    x, y = made.x.expand(100, *made.x.shape[1:]), torch.arange(BATCH)
    spide = method(backward_steps=4000, loss_scale=loss_scale, feedback_bound=0.3)
    update = spide.setup(made.net)
    made.net.feedback.synapse.op.weight.data.mul_(0.3)
    out = spide.step(made.net, update, x, y)
    assert out.extra["spide/backward_residual"] < 0.01
    assert 0 < made.net.stem.op.weight.grad.abs().max() < 1


def test_mask_is_that_of_the_rate_or_of_the_mean_current(neuron, method):
    made = case(mlp([60]), neuron())
    simulation = made.simulated(30)
    (local,), (paper,) = (method(mask=m).masks(simulation, 2.0) for m in ("local", "paper"))
    (rate,), (potential,) = simulation.rates, simulation.potentials
    mean_current = rate + potential / (2 * 30)
    assert torch.equal(paper, (rate > 0) & (rate < 1))
    assert torch.equal(local, (mean_current > 0) & (mean_current < 1))


def test_local_mask_is_nearer_to_that_of_the_equilibrium(neuron, method):
    wrong = {"local": 0, "paper": 0}
    for _ in range(8):
        made = case(mlp([40, 30, 20]), neuron())
        simulation = made.simulated(100)
        exact = torch.cat(at_equilibrium(made).masks, dim=-1)
        for name in wrong:
            mask = torch.cat(method(mask=name).masks(simulation, 2.0), dim=-1)
            wrong[name] += (mask != exact).sum().item()
    assert wrong["local"] < wrong["paper"]


def test_figures_of_a_step(neuron, method):
    made = case(mlp([40, 30]), neuron())
    spide = method(loss_scale=1e-6)
    update = spide.setup(made.net)
    x, y = made.x.expand(5, *made.x.shape[1:]), torch.arange(BATCH)
    extra = spide.step(made.net, update, x, y).extra
    assert extra["spide/backward_rate"] == 0
    assert extra["spide/silent_share"] == 1
    assert 0 < extra["spide/forward_rate"] < 1
    forward, bptt = extra["spide/training_energy_uj"], extra["spide/bptt_energy_uj"]
    macs = 5 * (40 * 30 + 30 * 40)  # per sample: both maps, every step
    assert (bptt - 2 * forward).item() == pytest.approx(macs * 4.6e-6)


def test_the_reset_goes_to_minus_the_threshold(lif, method):
    neuron = lif(threshold=1.5)
    assert method().neuron(neuron).rest == -1.5
    assert method(symmetric_reset=False).neuron(neuron).rest == 0.0


def test_feedback_that_does_not_contract_is_told_once_with_its_numbers(neuron, method, caplog):
    made = case(mlp([40]), neuron())
    spide = method(feedback_bound=100.0, backward_steps=100)
    update = spide.setup(made.net)
    made.net.feedback.synapse.op.weight.data.normal_()
    x, y = made.x.expand(30, *made.x.shape[1:]), torch.arange(BATCH)
    with caplog.at_level(logging.WARNING, logger="snnrun"):
        spide.step(made.net, update, x, y)
        spide.step(made.net, update, x, y)
    (record,) = caplog.records
    _, residual, limit, norm = record.args
    assert residual > limit
    assert norm > 1


@pytest.mark.parametrize("key", ["backward_steps", "backward_threshold", "drive", "mask"])
def test_values_out_of_range_are_refused(method, key):
    bad = {"backward_steps": 0, "backward_threshold": 0.0, "drive": 1.5, "mask": "none"}[key]
    with pytest.raises(ConfigError, match=f"^{key}: "):
        method(**{key: bad})
