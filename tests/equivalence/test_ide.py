"""Implicit differentiation at the equilibrium: the properties of its equations, in fp64."""

import logging
import math

import pytest
import torch
from equilibrium_nets import (
    BATCH,
    CLASSES,
    MODELS,
    SHAPE,
    at_equilibrium,
    case,
    conv,
    gradients,
    mlp,
    settled,
    solved,
)

from snnrun.equilibrium.loop import Loop
from snnrun.equilibrium.norms import Bound
from snnrun.equilibrium.simulation import average, simulate, steady, total_weight
from snnrun.equilibrium.solvers import broyden, fixed_point
from snnrun.errors import ConfigError
from snnrun.hardware import Energy
from snnrun.kits.between import SequenceDropout
from snnrun.kits.norm import TimeBatchNorm
from snnrun.kits.plain import Kit
from snnrun.measure.memory import saved_for_backward
from snnrun.methods.base import Optim
from snnrun.methods.equilibrium import classify
from snnrun.methods.ide import IDE

pytestmark = pytest.mark.usefixtures("fp64")

GAIN = 0.5


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


@pytest.fixture
def neuron(lif):
    """IF or LIF, subtracting 2 with rest 0 as in the paper unless told otherwise."""
    return lambda leak=1.0, threshold=2.0, rest=0.0: lif(leak=leak, threshold=threshold, rest=rest)


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
            "name": "ide",
            "timesteps": 5,
            "optim": optim,
            "init": "unit_rows",
            "feedback_norm": "spectral",
            "feedback_bound": 0.5,
            "energy": Energy(e_ac_pj=0.9, e_mac_pj=4.6),
            "solver": "fixed_point",
            "solver_rounds": 60,
            "solver_tolerance": 1e-12,
        }
        return IDE(**(keys | changes))

    return make


@pytest.mark.parametrize("leak", [1.0, 0.95])
@pytest.mark.parametrize("rest", [0.0, -2.0])
def test_rates_obey_the_identity_of_finite_time(neuron, model, leak, rest):
    made = case(model, neuron(leak, rest=rest))
    net, c = made.net, made.subtracted
    before, stage = made.simulated(29, leak), made.simulated(30, leak)
    z = stage.weight
    assert z == pytest.approx(sum(leak**k for k in range(30)), rel=1e-14)
    maps = Loop(net, c, made.x, stage.rates[-1])
    # The spikes of the last step have not come back yet
    late = maps.map(0, before.rates[-1] * (before.weight / z))
    expected = [late + net.stem(made.x) - stage.potentials[0] / z]
    for i in range(1, len(net.layers)):
        expected.append(maps.map(i, stage.rates[i - 1]) - stage.potentials[i] / z)
    for rate, current in zip(stage.rates, expected, strict=True):
        assert rate.any()
        torch.testing.assert_close(c * rate, current, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [30, 100, 300])
def test_rates_without_leak_come_within_one_spike_of_the_equilibrium(neuron, model, steps):
    made = case(model, neuron(threshold=1.0, rest=-1.0))
    rates = made.simulated(steps).rates[-1]
    with torch.no_grad():
        assert (rates - settled(made)).abs().mean() <= 1 / steps


def test_implicit_gradient_is_that_of_the_unrolled_iteration(neuron, model):
    made = case(model, neuron())
    made.simulated(1)
    g = torch.randn_like(made.simulated(1).rates[-1])
    (g * settled(made)).sum().backward()
    expected = gradients(made.net)
    made.net.zero_grad()
    loop = at_equilibrium(made)
    assert 0.2 < torch.cat([m.flatten() for m in loop.masks]).double().mean() < 1
    loop.backward(loop.chain(solved(loop, g)))
    found = gradients(made.net)
    assert found.keys() == expected.keys() > {"feedback.synapse.op.weight"}
    for name, grad in expected.items():
        assert (found[name] - grad).norm() <= 1e-10 * grad.norm(), name


@pytest.fixture
def system(neuron, model):
    """A loop, a right side and the solution by elimination."""
    made = case(model, neuron())
    loop = made.loop(made.simulated(30))
    g = torch.randn_like(loop.rates[-1])
    return loop, g, solved(loop, g)


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def test_fixed_point_reaches_the_solution_at_the_rate_of_the_contraction(system):
    loop, g, expected = system
    rounds = math.ceil(math.log(1e-7) / math.log(GAIN))
    solution = fixed_point(loop.transposed, g, rounds=rounds, tolerance=0.0)
    assert solution.rounds <= rounds
    assert relative(solution.value, expected) < 1e-6


@pytest.mark.parametrize("solver", ["damped", "broyden"])
def test_other_solvers_reach_it_too(system, solver):
    loop, g, expected = system
    if solver == "damped":
        found = fixed_point(loop.transposed, g, rounds=80, tolerance=0.0, damping=0.5)
    else:
        found = broyden(loop.transposed, g, rounds=30, tolerance=1e-9)
    assert relative(found.value, expected) < 1e-6
    error = loop.transposed(found.value) + g - found.value
    assert error.norm() / g.norm() < 1e-6


def test_averaging_with_the_residual_instead_solves_another_system(system):
    loop, g, expected = system
    v = g
    for _ in range(60):
        v = (loop.transposed(v) + g) / 2
    assert relative(v, expected) > 0.3


def test_solver_stops_at_its_tolerance_and_reports_the_residual(system):
    loop, g, _ = system
    solution = fixed_point(loop.transposed, g, rounds=60, tolerance=1e-4)
    error = loop.transposed(solution.value) + g - solution.value
    assert solution.residual <= 1e-4
    assert solution.rounds < 20
    assert solution.residual == pytest.approx((error.norm() / g.norm()).item())


def bytes_kept(method, made, steps):
    net, x = made.net, made.x.expand(steps, *made.x.shape[1:])
    update = method.setup(net)
    with saved_for_backward(net, x) as saved:
        out = method.step(net, update, x, torch.arange(BATCH) % CLASSES)
    return saved.peak_bytes + out.kept_bytes


def test_memory_does_not_depend_on_the_number_of_steps(neuron, model, method):
    made = case(model, neuron())
    few, many = (bytes_kept(method(), made, steps) for steps in (5, 500))
    assert few == many > 0


def test_without_feedback_it_is_back_propagation_through_the_clamp_net(neuron, model):
    made = case(model, neuron())
    made.net.feedback.synapse.op.weight.data.zero_()
    loop = made.loop(made.simulated(30))
    g = torch.randn_like(loop.rates[-1])
    solution = fixed_point(loop.transposed, g, rounds=5, tolerance=0.0)
    assert torch.equal(solution.value, g)
    rate = (made.net.stem(made.x) / made.subtracted).clamp(0, 1)
    rates = [rate]
    for before, layer in zip(made.net.layers[:-1], made.net.layers[1:], strict=True):
        rate = (layer.synapse(before.post(rate)) / made.subtracted).clamp(0, 1)
        rates.append(rate)
    expected = torch.autograd.grad((g * rate).sum(), rates)
    for found, beta in zip(loop.chain(g), expected, strict=True):
        torch.testing.assert_close(found, beta, rtol=0, atol=1e-12)


@pytest.mark.parametrize("model", [MODELS[name] for name in MODELS if "dropout" not in name])
@pytest.mark.parametrize("norm", ["spectral", "frobenius", "operator"])
def test_feedback_is_kept_within_its_bound(neuron, model, norm):
    made = case(model, neuron(), gain=20.0)
    feedback, limit = made.net.feedback, 0.7
    emitted = made.loop(made.simulated(1)).emitted()
    bound = Bound(feedback, norm, limit)
    bound.apply(emitted)
    for _ in range(200):
        bound.apply(emitted)
    zero = torch.zeros_like(emitted[:, :1])
    weight = feedback.synapse.op.weight.detach().flatten(1)
    if norm == "frobenius":
        largest = weight.norm()
    elif norm == "spectral":
        largest = torch.linalg.matrix_norm(weight, 2)
    else:
        jacobian = torch.autograd.functional.jacobian(bound._map, zero)
        largest = torch.linalg.matrix_norm(jacobian.reshape(-1, zero.numel()), 2)
    assert largest == pytest.approx(limit, rel=1e-6)


def test_one_power_iteration_per_update_follows_the_weights(neuron):
    made = case(mlp([40]), neuron(), gain=20.0)
    bound = Bound(made.net.feedback, "spectral", 1.0)
    weight = made.net.feedback.synapse.op.weight.data
    for _ in range(50):
        weight.add_(0.002 * torch.randn_like(weight))
        bound.apply()
        assert torch.linalg.matrix_norm(weight, 2) <= 1 + 1e-2


def test_weights_within_the_bound_are_left_alone(neuron):
    made = case(mlp([40]), neuron())
    weight = made.net.feedback.synapse.op.weight
    before = weight.clone()
    Bound(made.net.feedback, "spectral", 100.0).apply()
    assert torch.equal(weight, before)


@pytest.mark.parametrize("name", [name for name in MODELS if "dropout" in name])
def test_one_dropout_mask_serves_all_steps_and_the_solver(neuron, method, name):
    made = case(MODELS[name], neuron())
    seen = {part: [] for part in made.net.modules() if isinstance(part, SequenceDropout)}
    for part, masks in seen.items():
        part.register_forward_hook(lambda part, *_, to=masks: to.append(part.mask))
    ide = method()
    update = ide.setup(made.net)
    out = ide.step(made.net, update, made.x.expand(5, *made.x.shape[1:]), torch.arange(BATCH))
    assert out.loss.isfinite()
    for masks in seen.values():
        assert len(masks) > 5
        assert all(mask is masks[0] for mask in masks)
        assert 0 < (masks[0] == 0).double().mean() < 1


def test_units_outside_their_range_get_no_gradient(neuron):
    made = case(mlp([40, 30]), neuron())
    for layer in made.net.layers:
        layer.synapse.op.bias.data[:5] = -1e3
        layer.synapse.op.bias.data[5:10] = 1e3
    loop = made.loop(made.simulated(30))
    loop.backward(loop.chain(solved(loop, torch.randn_like(loop.rates[-1]))))
    for layer in made.net.layers:
        for parameter in (layer.synapse.op.weight, layer.synapse.op.bias):
            assert parameter.grad[:10].count_nonzero() == 0
            assert parameter.grad[10:].count_nonzero() > 0
    assert made.net.feedback.synapse.op.weight.grad[:10].count_nonzero() == 0


@pytest.mark.parametrize("leak", [1.0, 0.9])
@pytest.mark.parametrize("frames", [False, True], ids=["image", "frames"])
def test_the_plain_form_decodes_to_the_logits_of_training(neuron, model, method, leak, frames):
    ide, spec = method(), neuron(leak)
    ide.neuron(spec)
    made = case(model, spec)
    net = made.net.eval()
    x = torch.randn(7, *made.x.shape[1:]) if frames else made.x.expand(7, *made.x.shape[1:])
    with torch.no_grad():
        decoded = ide.decode(net(x))
    net.reset()
    _, logits, _ = classify(net, simulate(net, x, leak).rates[-1], torch.arange(BATCH))
    torch.testing.assert_close(decoded, logits, rtol=1e-12, atol=1e-12)


def test_average_weighs_late_steps_as_the_membrane_does():
    x = torch.tensor([[8.0], [4.0], [2.0]])
    assert average(x, 0.5).item() == pytest.approx((2 + 2 + 2) / 1.75)
    assert average(x, 1.0).item() == pytest.approx(14 / 3)
    assert torch.equal(x, torch.tensor([[8.0], [4.0], [2.0]]))
    assert total_weight(0.5, 3) == 1.75
    static = x[:1].expand(9, 1)
    assert average(static, 0.5).data_ptr() == x.data_ptr()


def normed(model, neuron):
    """A net with batch norm in front of every neuron, and a batch whose mean is not zero."""
    net = model.build(Kit(neuron, "bn"), SHAPE, CLASSES)
    return net, torch.randn(1, 16, *SHAPE) + 1


@pytest.mark.parametrize("model", [mlp([20, 15]), conv("4C3s-4C3", "3")])
def test_norms_are_steady_in_the_simulation_and_updated_once(neuron, method, model):
    net, x = normed(model, neuron())
    norms = [part for part in net.modules() if isinstance(part, TimeBatchNorm)]
    updates = []
    for norm in norms:
        norm.register_forward_hook(lambda part, *_: updates.append(part) if part.training else None)
    before = [norm.running_mean.clone() for norm in norms]
    ide = method()
    ide.step(net, ide.setup(net), x.expand(5, *x.shape[1:]), torch.arange(16) % CLASSES)
    assert updates == norms
    for norm, mean in zip(norms, before, strict=True):
        assert norm.training
        assert not torch.equal(norm.running_mean, mean)


def test_norm_of_the_input_uses_the_batch_in_the_simulation(neuron):
    net, x = normed(conv("4C3s", "3"), neuron())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    current = steady(net, x).stem(x)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    torch.testing.assert_close(current.mean((0, 1, 3, 4)), torch.zeros(4), rtol=0, atol=1e-12)
    torch.testing.assert_close(current, net.stem(x), rtol=1e-12, atol=1e-12)


def test_folded_norms_change_neither_currents_nor_what_passes_back(neuron, model):
    net, x = normed(model, neuron())
    norms = [part for part in net.modules() if isinstance(part, TimeBatchNorm)]
    for norm in norms:
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
    fixed = steady(net, x)
    last = simulate(fixed, x.expand(5, *x.shape[1:]), 1.0).rates[-1]
    norms[0].momentum = 1.0  # its running mean and variance become those of the batch
    n = net.stem(x)[:, :, 0].numel()
    norms[0].running_var.mul_((n - 1) / n)
    for norm in norms:
        norm.eval()
    folded, whole = (Loop(form, 2.0, x, last) for form in (fixed, net))
    assert len(norms) == len(whole.currents)
    for one, other in zip(folded.currents, whole.currents, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    g = torch.randn_like(last)
    assert whole.transposed(g).any()
    torch.testing.assert_close(folded.transposed(g), whole.transposed(g), rtol=1e-12, atol=1e-12)


def test_a_net_without_batch_norm_is_steady_as_it_is(neuron):
    made = case(mlp([20]), neuron())
    assert steady(made.net, made.x) is made.net


def test_feedback_that_does_not_contract_is_told_once_with_its_numbers(neuron, method, caplog):
    made = case(mlp([40]), neuron())
    ide = method(feedback_bound=8.0, solver_rounds=30)
    update = ide.setup(made.net)
    made.net.feedback.synapse.op.weight.data.normal_().mul_(0.9)
    x, y = made.x.expand(5, *made.x.shape[1:]), torch.arange(BATCH)
    with caplog.at_level(logging.WARNING, logger="snnrun"):
        ide.step(made.net, update, x, y)
        ide.step(made.net, update, x, y)
    (record,) = caplog.records
    _, residual, limit, norm = record.args
    assert residual > limit
    assert norm > 1
    assert "feedback_bound" in record.getMessage()


def test_a_contraction_is_not_complained_of(neuron, model, method, caplog):
    made = case(model, neuron())
    ide = method(feedback_bound=0.1)
    update = ide.setup(made.net)
    with caplog.at_level(logging.WARNING, logger="snnrun"):
        ide.step(made.net, update, made.x.expand(5, *made.x.shape[1:]), torch.arange(BATCH))
    assert not caplog.records


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"reset": "hard"}, "reset"),
        ({"delay": 1}, "delay"),
        ({"fires_at_threshold": False}, "fires_at_threshold"),
        ({"decay_input": True}, "decay_input"),
        ({"leak_reset": False}, "leak_reset"),
        ({"leak": 0.0}, "leak"),
    ],
)
def test_neurons_whose_rate_is_no_mean_current_are_refused(lif, method, changes, key):
    with pytest.raises(ConfigError, match=rf"^neuron \(for method=ide\)\.{key}: "):
        method().neuron(lif(**changes))
