import pytest
import torch

from snnrun.errors import ConfigError
from snnrun.neurons.clif import CLIF
from snnrun.neurons.surrogate import Surrogate

pytestmark = pytest.mark.usefixtures("fp64")

RECTANGULAR = Surrogate(name="rectangular", width=1.0)


def clif(**changes):
    keys = {"leak": 0.5, "threshold": 1.0, "surrogate": RECTANGULAR, "fires_at_threshold": True}
    return CLIF(name="clif", **keys | changes).build()


def test_trace_of_a_constant_current():
    neuron, spikes, memory = clif(), [], []
    for _ in range(6):
        spikes.append(neuron(torch.full((1, 1), 1.2)).item())
        memory.append(neuron.complement.item())
    assert spikes == [1, 0, 1, 1, 0, 1]
    assert memory == pytest.approx([1, 0.6147, 1.4285, 1.9109, 1.1508, 1.7958], abs=5e-5)


def test_one_step_equals_lif(lif):
    x = torch.randn(1, 20, 500) + 1
    assert torch.equal(clif()(x), lif().build()(x))


def test_fires_no_more_often_than_lif(lif):
    x = torch.rand(8, 20, 500) * 2
    assert (clif()(x).sum(0) <= lif().build()(x).sum(0)).all()


def test_gradient_of_two_steps_by_hand():
    """Both steps inside the window, the first fires: dv1/du1 through s, the reset's depth and m."""
    x = torch.tensor([[1.2], [1.4]], requires_grad=True)
    neuron = clif()
    neuron(x)[1].sum().backward()
    m = torch.tensor(1.0)
    depth = torch.sigmoid(m)
    # v1 = u1 - s1 (1 + σ(m1)), ds1/du1 = 1, m1 = s1
    through_reset = 1 - (1 + depth) - depth * (1 - depth)
    torch.testing.assert_close(x.grad.flatten(), torch.stack([0.5 * through_reset, m]))


def test_gradient_crosses_time_where_that_of_lif_is_cut(lif):
    """With a soft attached reset dv/du = 0 inside the rectangle; m still carries something."""
    grads = []
    for neuron in (lif(surrogate=RECTANGULAR, detach_reset=False).build(), clif()):
        x = torch.tensor([[1.2], [1.4]], requires_grad=True)
        neuron(x)[1].sum().backward()
        grads.append(x.grad[0].item())
    assert grads[0] == 0
    assert grads[1] != 0


def test_a_sequence_equals_its_chunks_and_reset_forgets():
    neuron, x = clif(), torch.randn(6, 3, 8) + 1
    whole = neuron(x)
    neuron.reset()
    assert torch.equal(torch.cat([neuron(part) for part in x.split(2)]), whole)
    neuron.reset()
    assert torch.equal(neuron(x), whole)


def test_detach_cuts_the_graph_between_chunks():
    neuron, x = clif(), torch.full((2, 3), 1.2, requires_grad=True)
    neuron(x[:1])
    neuron.detach()
    neuron(x[1:]).sum().backward()
    assert not x.grad[0].any()


def test_states_are_no_weights():
    neuron = clif()
    neuron(torch.ones(2, 3))
    assert not neuron.state_dict()


@pytest.mark.parametrize(("key", "value"), [("leak", 1.0), ("leak", -0.1), ("threshold", 0.0)])
def test_values_outside_their_range_are_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=f"{key}: {value}"):
        clif(**{key: value})
