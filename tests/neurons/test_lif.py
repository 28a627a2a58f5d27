from pathlib import Path

import pytest
import torch
import yaml

from snnrun.errors import ConfigError
from snnrun.neurons.if_ import IF
from snnrun.neurons.lif import LIF
from snnrun.neurons.surrogate import SURROGATES, Surrogate

CONF = Path(__file__).parents[2] / "conf" / "neuron"
SPECS = {"lif": LIF, "if": IF}

TET = {  # the unit of Deng et al. (2022), in the terms of conf/neuron/lif.yaml
    "leak": 0.5,
    "threshold": 1.0,
    "reset": "hard",
    "rest": 0.0,
    "surrogate": Surrogate(name="triangle", width=1.0),
    "detach_reset": False,
    "fires_at_threshold": False,
    "decay_input": False,
    "leak_reset": True,
    "delay": 0,
}


def spec(**changes):
    return LIF(name="lif", **TET | changes)


def shipped(option, **changes):
    keys = yaml.safe_load((CONF / f"{option}.yaml").read_text())
    keys.pop("_target_")
    keys["surrogate"] = Surrogate(**keys["surrogate"])
    return SPECS[option](**keys | changes)


def column(*values):
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1).requires_grad_()


def random_currents(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) + 0.4


@pytest.mark.parametrize(
    ("detach", "gradient"),
    [
        (False, [0.91203, 0.97509, 0.79040, 0.32, 1, 1]),
        (True, [1.2875, 1.375, 0.95, 0.8, 1.5, 1.0]),
    ],
)
def test_trace_of_the_tet_paper_s_unit(detach, gradient):
    x = column(0.6, 0.6, 0.6, 1.2, 1.0, 0.5)
    spikes = spec(detach_reset=detach).build()(x)
    spikes.sum().backward()
    assert spikes.flatten().tolist() == [0, 0, 1, 1, 0, 0]
    torch.testing.assert_close(x.grad.flatten(), column(*gradient).flatten(), rtol=0, atol=1e-5)


def test_membrane_trace_by_hand():
    neuron = spec().build()
    membranes = []
    for x in column(0.6, 0.6, 0.6, 1.2, 1.0, 0.5).detach():
        neuron(x.unsqueeze(0))
        membranes.append(neuron.membrane.item())
    assert membranes == pytest.approx([0.6, 0.9, 0.0, 0.0, 1.0, 1.0])


def test_soft_reset_keeps_what_exceeds_the_threshold():
    neuron = shipped("if").build()
    assert neuron(column(1.75, 0.25, 0.5, 0.5)).flatten().tolist() == [1, 1, 0, 1]
    assert neuron.membrane.item() == 0.0


def test_tie_rule():
    x = column(1.0)
    assert spec(fires_at_threshold=False).build()(x).item() == 0
    assert spec(fires_at_threshold=True).build()(x).item() == 1


def test_rest_is_where_a_hard_reset_ends_and_what_a_soft_one_subtracts_towards():
    hard, soft = spec(rest=-0.5).build(), spec(rest=-0.5, reset="soft").build()
    for neuron in (hard, soft):
        neuron(column(1.25))
    assert hard.membrane.item() == -0.5
    assert soft.membrane.item() == 1.25 - 1.5


def test_delayed_unleaked_reset_by_hand():
    """SSGD's unit: V[t+1] = leak V[t] + I[t] - Θ(V[t] - 1), strict, nothing acts at once."""
    neuron = spec(reset="soft", leak_reset=False, delay=1, leak=0.5).build()
    assert neuron(column(2.0, 0.5, 0.5, 9.0)).flatten().tolist() == [0, 1, 0, 0]
    assert neuron.membrane.item() == 0.5 * 0.75  # V: 0, 2, .5, .75
    assert neuron.held.item() == 9.0


def test_decay_input_scales_the_current():
    x = random_currents(6, 3, 5)
    scaled = spec(leak=0.75, threshold=0.2).build()(x * 0.25)
    assert torch.equal(spec(leak=0.75, threshold=0.2, decay_input=True).build()(x), scaled)


def test_detaching_the_reset_changes_gradients_but_no_spike():
    outputs = []
    for detach in (False, True):
        x = random_currents(6, 4, 10).requires_grad_()
        spikes = spec(detach_reset=detach).build()(x)
        spikes.sum().backward()
        outputs.append((spikes, x.grad))
    assert torch.equal(outputs[0][0], outputs[1][0])
    assert not torch.allclose(outputs[0][1], outputs[1][1])


def test_leak_zero_decouples_the_steps():
    x = random_currents(5, 4, 7).requires_grad_()
    spikes = spec(leak=0.0).build()(x)
    weight = random_currents(5, 4, 7)
    (grad,) = torch.autograd.grad((spikes * weight).sum(), x)
    for t in range(5):
        step = x[t : t + 1].detach().requires_grad_()
        single = spec(leak=0.0).build()(step)
        (expected,) = torch.autograd.grad((single * weight[t]).sum(), step)
        assert torch.equal(single[0], spikes[t])
        torch.testing.assert_close(grad[t], expected[0], rtol=0, atol=1e-12)


def test_output_does_not_depend_on_later_input():
    x = random_currents(6, 3, 8)
    changed = torch.cat([x[:4], x[4:] + 5])
    first, second = spec().build()(x), spec().build()(changed)
    assert torch.equal(first[:4], second[:4]) and not torch.equal(first[4:], second[4:])


def test_batch_permutes_and_time_does_not():
    x = random_currents(6, 5, 8)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.equal(spec().build()(x[:, order]), spec().build()(x)[:, order])
    assert not torch.equal(spec().build()(x.flip(0)), spec().build()(x).flip(0))


def test_reset_forgets_and_without_it_the_state_goes_on():
    neuron, x = spec().build(), random_currents(6, 3, 8)
    first = neuron(x)
    assert not torch.equal(neuron(x), first)
    neuron.reset()
    assert torch.equal(neuron(x), first)
    neuron.reset()
    assert neuron(x[:, :2]).shape == (6, 2, 8)


def test_detach_cuts_the_graph_between_chunks():
    neuron, x = spec().build(), random_currents(2, 3, 8).requires_grad_()
    neuron(x[:1])
    neuron.detach()
    neuron(x[1:]).sum().backward()
    assert not x.grad[0].any()


def test_state_is_not_a_weight():
    neuron = spec().build()
    neuron(random_currents(2, 3, 4))
    assert not neuron.state_dict() and not list(neuron.parameters())


def test_closed_gradient_agrees_with_finite_differences_of_the_smooth_unit():
    """With Θ replaced by a logistic function, its derivative is no longer a surrogate."""
    k, leak, theta = 4.0, 0.7, 1.0

    def smooth(x):
        v, total = torch.zeros_like(x[0]), 0.0
        for t, current in enumerate(x.unbind()):
            u = leak * v + current
            s = torch.sigmoid(k * (u - theta))
            v, total = u - theta * s, total + (t + 1) * s.sum()
        return total

    x, h = random_currents(5, 2, 3), 1e-6
    slope, u_all, v = Surrogate(name="sigmoid", width=k), [], torch.zeros(2, 3, dtype=x.dtype)
    for current in x:
        u_all.append(leak * v + current)
        v = u_all[-1] - theta * torch.sigmoid(k * (u_all[-1] - theta))
    expected, carried = torch.empty_like(x), torch.zeros_like(v)
    for t in reversed(range(5)):
        psi = slope(u_all[t] - theta)
        expected[t] = psi * (t + 1) + (1 - theta * psi) * carried
        carried = leak * expected[t]
    numeric = torch.empty_like(x)
    for i in range(x.numel()):
        step = torch.zeros(x.numel(), dtype=x.dtype)
        step[i] = h
        shift = step.view_as(x)
        numeric.view(-1)[i] = (smooth(x + shift) - smooth(x - shift)) / (2 * h)
    torch.testing.assert_close(numeric, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("option", SPECS)
@pytest.mark.parametrize("name", SURROGATES)
def test_every_option_and_surrogate_trains(option, name):
    neuron = shipped(option, surrogate=Surrogate(name=name, width=1.0)).build()
    x = random_currents(4, 3, 6).requires_grad_()
    neuron(x).sum().backward()
    assert x.grad.isfinite().all() and x.grad.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"leak": -0.1}, "leak: -0.1 is not between 0 and 1"),
        ({"leak": 1.1}, "leak: 1.1 is not between 0 and 1"),
        ({"leak": 1.0, "decay_input": True}, "decay_input"),
        ({"threshold": 0.0}, "threshold: 0.0 is not positive"),
        ({"reset": "sofft"}, "reset: 'sofft' is not one of soft, hard"),
        ({"rest": 1.0}, "rest: 1.0 is not below the threshold"),
        ({"delay": 2}, "delay: 2 is not 0 or 1"),
    ],
)
def test_values_outside_their_range_are_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        spec(**changes)
