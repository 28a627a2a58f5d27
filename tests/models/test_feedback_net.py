"""The feedback nets of the equilibrium papers: sizes, counts, and what their notation accepts."""

import pytest
import torch

from snnrun.errors import ConfigError
from snnrun.models.convnet import ConvNet
from snnrun.models.feedback_net import FeedbackNet
from snnrun.neurons.base import SpikingNeuron

MILLION = 1e6


def feedback_net(structure, feedback="3u", dropout=0.0):
    return FeedbackNet(
        name="net", norm="auto", structure=structure, feedback=feedback, dropout=dropout
    )


@pytest.fixture
def published(specified, kit):
    """A net of conf/model for a shape, under IDE's norm."""

    def make(name, shape, classes=10, **changes):
        overrides = [f"model.{key}={value}" for key, value in changes.items()]
        spec = specified("method=ide", f"model={name}", *overrides).model
        with torch.device("meta"):
            return spec.build(kit("bn"), shape, classes)

    return make


def parameters(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "millions"),
    [
        ("alexnet_f", 10, 3.7),
        ("alexnet_f", 100, 5.2),
        ("cifarnet_f", 10, 11.8),
        ("cifarnet_f", 100, 14.8),
    ],
)
def test_cifar_nets_have_the_published_number_of_parameters(published, name, classes, millions):
    net = published(name, (3, 32, 32), classes)
    assert round(parameters(net) / MILLION, 1) == millions


def test_mnist_net_has_the_published_number_of_parameters(published):
    net = published("conv_f", (1, 28, 28))
    assert net.readout.op.in_features == 12544
    assert (parameters(net) - 2 * 64) // 1000 == 229  # published without those of the norm


def test_nmnist_net_has_the_published_number_of_parameters(published):
    net = published("conv_f", (2, 34, 34))
    assert round((parameters(net) - 2 * 64) / 1000) == 291


def neurons_of(net, shape):
    sizes = []
    for part in net.modules():
        if isinstance(part, SpikingNeuron):
            part.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[2:])))
    net.eval()(torch.rand(1, 1, *shape))
    return sizes


@pytest.mark.parametrize(
    ("structure", "feedback", "shape", "maps"),
    [
        ("6C3s-8C3-9C3s", "3u", (3, 32, 32), [(6, 16, 16), (8, 16, 16), (9, 8, 8)]),
        ("4C5s-4C5s-4C5", "3u", (1, 28, 28), [(4, 14, 14), (4, 7, 7), (4, 7, 7)]),
        ("4C9s", "5", (2, 48, 48), [(4, 24, 24)]),
        ("4C5sp1", "5", (2, 34, 34), [(4, 16, 16)]),
        ("4C3-2C3", None, (1, 6, 5), [(4, 6, 5), (2, 6, 5)]),
    ],
)
def test_maps_shrink_as_the_notation_says(kit, structure, feedback, shape, maps):
    net = feedback_net(structure, feedback).build(kit("none"), shape, 10)
    assert neurons_of(net, shape) == maps


@pytest.mark.parametrize(("structure", "feedback"), [("4C3s-4C3s", "3u"), ("4C3s", "3")])
def test_the_last_layer_reaches_the_first_one_step_later(kit, structure, feedback):
    net = feedback_net(structure, feedback).build(kit("none"), (1, 8, 8), 3).eval()
    currents = []
    net.layers[0].neuron.register_forward_hook(lambda _, args, __: currents.append(args[0]))
    with torch.no_grad():
        for weight in net.parameters():
            weight.fill_(1.0)
        net(9 * torch.rand(1, 2, 1, 8, 8).expand(4, 2, 1, 8, 8))
    assert any(not torch.equal(step, currents[0]) for step in currents[1:])


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"structure": "64X3"}, "structure"),
        ({"structure": "64C3-"}, "structure"),
        ({"feedback": "u3"}, "feedback"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_notation_that_says_nothing_is_refused(changes, key):
    with pytest.raises(ConfigError, match=f"^{key}: "):
        feedback_net(**({"structure": "4C3"} | changes))


@pytest.mark.parametrize(
    ("structure", "feedback"), [("4C3s-4C3s", "3"), ("4C3", "3u"), ("4C3", "4")]
)
def test_feedback_that_does_not_fit_the_first_map_is_refused(kit, structure, feedback):
    with pytest.raises(ConfigError, match=r"^model\.feedback: "):
        feedback_net(structure, feedback).build(kit("none"), (1, 8, 8), 3)


def convnet(channels, hidden=()):
    return ConvNet(
        name="convnet",
        norm="auto",
        channels=channels,
        hidden=list(hidden),
        pool="average",
        dropout=0.0,
        feedback=True,
    )


def test_convnet_repeats_its_last_map_to_the_size_of_the_first(kit):
    model = convnet([4, 6])
    net = model.build(kit("none"), (1, 8, 8), 3)
    assert model.features >= {"feedback", "chain"}
    assert net(torch.rand(3, 2, 1, 8, 8)).shape == (3, 2, 3)


def test_convnet_refuses_feedback_from_what_is_no_map(kit):
    with pytest.raises(ConfigError, match=r"^feedback: "):
        convnet([4], hidden=[8])
    with pytest.raises(ConfigError, match="multiple of 4x4"):
        convnet([4, 6]).build(kit("none"), (1, 10, 10), 3)
