import pytest
import torch

from snnrun.errors import ConfigError
from snnrun.neurons.single_spike import (
    RULES,
    SingleSpike,
    exact,
    first_by_bump,
    first_straight_through,
    order,
    single_spikes,
)
from snnrun.neurons.surrogate import SURROGATES, Surrogate

pytestmark = pytest.mark.usefixtures("fp64")

ARCTAN = Surrogate(name="arctan", width=2.0)


def spec(**changes):
    keys = {"name": "single_spike", "threshold": 1.0, "surrogate": ARCTAN, "gradient": "exact"}
    return SingleSpike(**(keys | changes))


def loop(current, threshold=1.0, surrogate=ARCTAN, *, attach=False):
    """Textbook form: one step after another, the flag carried along."""
    v, alive, spikes = 0.0, torch.ones_like(current[0]), []
    for x in current:
        v = v + x
        above = (v.detach() >= threshold).to(x.dtype)
        slope = surrogate(v.detach() - threshold)
        h = above + slope * (v - v.detach())
        spikes.append(h * alive)
        alive = alive * (1 - (h if attach else h.detach()))
    return torch.stack(spikes)


def gradient(run, current, seed=1):
    weights = torch.randn(current.shape, generator=torch.Generator().manual_seed(seed))
    leaf = current.clone().requires_grad_()
    spikes = run(leaf)
    (grad,) = torch.autograd.grad((spikes * weights).sum(), leaf)
    return spikes.detach(), grad


def test_unit_fires_once_at_the_first_crossing_though_its_membrane_dips():
    current = torch.tensor([0.4, 0.4, 0.4, -1.0, 2.0]).view(5, 1, 1)  # V = .4 .8 1.2 .2 2.2
    assert spec().build()(current).flatten().tolist() == [0, 0, 1, 0, 0]


def test_a_membrane_equal_to_the_threshold_fires():
    assert spec(threshold=2.0).build()(torch.full((3, 1, 1), 1.0)).flatten().tolist() == [0, 1, 0]


@pytest.mark.parametrize("rule", RULES)
def test_spikes_are_binary_and_at_most_one_per_unit(rule):
    spikes = spec(gradient=rule).build()(torch.randn(20, 4, 500))
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    assert spikes.sum(0).max() == 1


@pytest.mark.parametrize("rule", RULES)
def test_without_a_loop_the_spikes_are_those_of_the_loop(rule):
    current = torch.randn(12, 8, 2000)
    assert torch.equal(spec(gradient=rule).build()(current), loop(current))


@pytest.mark.parametrize("run", ["kernel", "vectorised"])
def test_in_single_precision_exact_sums_give_exact_spikes(run):
    current = torch.randint(-64, 65, (16, 4, 5000)).float() / 64
    expected = loop(current.double()).float()
    if run == "kernel":
        spikes = spec().build()(current)
    else:
        spikes, _ = single_spikes(current, None, threshold=1.0, surrogate=ARCTAN, rule=exact)
    assert torch.equal(spikes, expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sizes", [[1] * 9, [2, 3, 4]], ids=["step by step", "uneven chunks"])
def test_chunks_give_the_spikes_and_gradients_of_the_whole(rule, sizes):
    def chunked(current):
        neuron = spec(gradient=rule).build()
        return torch.cat([neuron(chunk) for chunk in current.split(sizes)])

    current = torch.randn(9, 4, 300)
    spikes, grad = gradient(spec(gradient=rule).build(), current)
    spikes_in_parts, grad_in_parts = gradient(chunked, current)
    assert torch.equal(spikes_in_parts, spikes)
    torch.testing.assert_close(grad_in_parts, grad, rtol=0, atol=1e-11)


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_exact_gradient_is_that_of_the_loop_with_a_detached_flag(surrogate):
    h = Surrogate(name=surrogate, width=2.0)
    current = torch.randn(10, 8, 400)  # enough for the compiled kernel
    expected = gradient(lambda x: loop(x, surrogate=h), current)[1]
    neuron = gradient(spec(surrogate=h).build(), current)[1]
    vectorised = gradient(
        lambda x: single_spikes(x, None, threshold=1.0, surrogate=h, rule=exact)[0], current
    )[1]
    torch.testing.assert_close(neuron, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(vectorised, expected, rtol=0, atol=1e-12)


def test_attached_gradient_is_that_of_the_loop_with_an_attached_flag():
    current = torch.randn(10, 4, 100)
    expected = gradient(lambda x: loop(x, attach=True), current)[1]
    grad = gradient(spec(gradient="attached").build(), current)[1]
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("units", [10, 5000], ids=["eager", "compiled"])
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_nothing_flows_to_currents_after_the_spike(units, surrogate):
    current = torch.randn(8, 1, units)
    spikes, grad = gradient(spec(surrogate=Surrogate(name=surrogate, width=2.0)).build(), current)
    late = spikes.cumsum(0) - spikes > 0
    assert late.any()
    assert not grad[late].any()


def test_double_sum_is_the_ramp_convolution_and_one_at_the_first_crossing_only():
    h = (torch.randn(15, 1, 2000) > 0.5).double()
    z, _ = order(h, (torch.zeros(1, 2000),) * 2)
    for t in range(15):
        ramp = torch.arange(t + 1, 0, -1.0).view(-1, 1, 1)
        assert torch.equal(z[t], (h[: t + 1] * ramp).sum(0))
    first = h * (h.cumsum(0) == 1)
    assert torch.equal((z == 1).double(), first)
    assert not torch.equal((h.cumsum(0) == 1).double(), first)  # still 1 where V has dipped


def test_published_rules_give_their_derivatives():
    for rule, values, slopes in (
        (first_by_bump, [0, 1, 0, 0], [1, 0, 0, 0]),
        (first_straight_through, [0, 1, 0, 0], [1, 1, 1, 1]),
    ):
        z = torch.arange(4.0).requires_grad_()
        spikes = rule(z)
        (grad,) = torch.autograd.grad(spikes.sum(), z)
        assert spikes.tolist() == values
        assert grad.tolist() == slopes


def test_reset_begins_a_new_sequence_of_another_batch_size():
    neuron = spec().build()
    first = neuron(torch.ones(2, 3, 1))
    neuron.reset()
    assert torch.equal(neuron(torch.ones(2, 4, 1))[:, :3], first)


def test_detach_cuts_the_graph_between_chunks():
    for rule in RULES:
        neuron = spec(gradient=rule).build()
        early = torch.full((1, 1, 1), 0.4, requires_grad=True)
        neuron(early)
        neuron.detach()
        late = torch.full((2, 1, 1), 0.4, requires_grad=True)
        neuron(late).sum().backward()
        assert early.grad is None
        assert late.grad is not None


def test_evaluation_notices_a_second_spike():
    neuron = spec().build().eval()
    neuron(torch.ones(2, 1, 1))
    neuron.membrane = None  # the flag is lost, the count is not
    with pytest.raises(AssertionError, match="twice"):
        neuron(torch.ones(2, 1, 1))


@pytest.mark.parametrize(
    ("key", "value"), [("threshold", 0.0), ("threshold", float("inf")), ("gradient", "v1")]
)
def test_bad_keys_are_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=f"^{key}: "):
        spec(**{key: value})
