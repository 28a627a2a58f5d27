import pytest
import torch

from snnrun.errors import ConfigError
from snnrun.kernels.compiled.compiling import COMPILED_FROM
from snnrun.neurons.plif import PLIF
from snnrun.neurons.spike import spike
from snnrun.neurons.surrogate import Surrogate

pytestmark = pytest.mark.usefixtures("fp64")

VARIANTS = [
    {"reset": reset, "detach_reset": detach, "decay_input": decay}
    for reset in ("soft", "hard")
    for detach in (False, True)
    for decay in (False, True)
]


def plif(**changes):
    keys = {
        "leak": 0.75,
        "threshold": 0.8,
        "train_threshold": False,
        "reset": "soft",
        "rest": 0.0,
        "surrogate": Surrogate(name="sigmoid", width=4.0),
        "detach_reset": False,
        "fires_at_threshold": True,
        "decay_input": False,
    }
    return PLIF(name="plif", **keys | changes).build().double()


def column(*values):
    return torch.tensor(values).unsqueeze(1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_is_lif_while_nothing_was_learned(lif, variant):
    x = (torch.randn(6, 4, 10) + 0.5).requires_grad_()
    spikes, grads = [], []
    for neuron in (plif(leak=0.5, **variant), lif(threshold=0.8, **variant).build()):
        spikes.append(neuron(x))
        grads.append(torch.autograd.grad((spikes[-1] * torch.arange(10.0)).sum(), x)[0])
    assert torch.equal(*spikes)
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


def loop(neuron, current):
    """Spikes and last membrane by the published recursion, one torch operation after the other."""
    spec, leak = neuron.spec, torch.sigmoid(neuron.leak_logit)
    threshold = neuron.log_threshold.exp() if spec.train_threshold else spec.threshold
    v, spikes = torch.zeros_like(current[0]), []
    for x in current:
        u = leak * v + ((1 - leak) * x if spec.decay_input else x)
        s = spike(u - threshold, spec.surrogate, fires_at_zero=True)
        r = s.detach() if spec.detach_reset else s
        v = u * (1 - r) + spec.rest * r if spec.reset == "hard" else u - (threshold - spec.rest) * r
        spikes.append(s)
    return torch.stack(spikes), v


@pytest.mark.parametrize("units", [9, COMPILED_FROM // 12])
@pytest.mark.parametrize("train_threshold", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_trained_gets_the_gradient_of_a_plain_autograd_loop(
    variant, train_threshold, units
):
    neuron = plif(leak=0.6, threshold=0.4, rest=-0.2, train_threshold=train_threshold, **variant)
    x, weight = torch.randn(6, 2, units + 1) + 0.3, torch.randn(6, 2, units + 1)
    expected, last = loop(neuron, x)
    spikes = neuron(x)
    assert torch.equal(spikes, expected)
    results = [
        torch.autograd.grad((s * weight).sum() + v.square().sum(), list(neuron.parameters()))
        for s, v in ((expected, last), (spikes, neuron.membrane))
    ]
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_trace_by_hand():
    neuron = plif(leak=0.5, threshold=1.0)
    assert neuron(column(0.5, 0.75, 0.25, 0.9)).flatten().tolist() == [0, 1, 0, 1]
    # u: .5, 1 -> 0, .25, 1.025 -> .025
    assert neuron.membrane.item() == pytest.approx(0.025)


def test_gradient_to_the_leak_by_hand():
    """Below the threshold u2 = leak x1 + x2, so d spike2 / d w = h(u2 - 1) x1 leak (1 - leak)."""
    neuron = plif(leak=0.75, threshold=1.0)
    neuron(column(0.4, 0.5))[1].sum().backward()
    slope = neuron.spec.surrogate(torch.tensor(0.75 * 0.4 + 0.5 - 1))
    assert neuron.leak_logit.grad.item() == pytest.approx(slope.item() * 0.4 * 0.75 * 0.25)


def test_gradient_to_the_leak_with_scaled_input_by_hand():
    """One step from rest: u = (1 - leak) x."""
    neuron = plif(leak=0.75, threshold=1.0, decay_input=True)
    neuron(column(2.0)).sum().backward()
    slope = neuron.spec.surrogate(torch.tensor(0.25 * 2 - 1))
    assert neuron.leak_logit.grad.item() == pytest.approx(-slope.item() * 2 * 0.75 * 0.25)


def test_gradient_to_the_threshold_by_hand():
    """One step: d spike / d log θ = -h(u - θ) θ."""
    neuron = plif(threshold=0.8, train_threshold=True)
    neuron(column(0.9)).sum().backward()
    slope = neuron.spec.surrogate(torch.tensor(0.1))
    assert neuron.log_threshold.grad.item() == pytest.approx(-slope.item() * 0.8)


def test_trained_threshold_follows_its_parameter():
    neuron = plif(train_threshold=True)
    with torch.no_grad():
        neuron.log_threshold.fill_(0.0)
    assert neuron.threshold == 1.0
    assert neuron(column(0.9)).item() == 0


def test_a_layer_of_shapes_alone_gives_shapes():
    with torch.device("meta"):
        neuron = plif(train_threshold=True)
        spikes = neuron(torch.empty(3, 2, 4))
    assert spikes.shape == (3, 2, 4)


def test_what_is_learned_is_saved_and_the_state_is_not():
    neuron = plif(train_threshold=True)
    neuron(column(0.9))
    assert list(neuron.state_dict()) == ["leak_logit", "log_threshold"]
    assert list(plif().state_dict()) == ["leak_logit"]


def test_a_sequence_equals_its_chunks_and_reset_forgets():
    neuron, x = plif(reset="hard", rest=-0.2), torch.randn(6, 3, 8) + 0.5
    whole = neuron(x)
    neuron.reset()
    assert torch.equal(torch.cat([neuron(part) for part in x.split(2)]), whole)


def test_detach_cuts_the_graph_between_chunks():
    neuron, x = plif(), torch.full((2, 3), 0.7, requires_grad=True)
    neuron(x[:1])
    neuron.detach()
    neuron(x[1:]).sum().backward()
    assert not x.grad[0].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"leak": 1.0}, "leak: 1.0 is not strictly between"),
        ({"leak": 0.0}, "leak: 0.0 is not strictly between"),
        ({"reset": "sofft"}, "reset: 'sofft'"),
        ({"train_threshold": True, "rest": 0.5}, "rest: 0.5 is above 0"),
    ],
)
def test_values_outside_their_range_are_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        plif(**changes)
