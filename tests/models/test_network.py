"""A net is one function of the input sequence, however it is cut into chunks."""

import pytest
import torch

from snnrun.errors import ConfigError
from snnrun.kits.norm import NORMS, TimeBatchNorm
from snnrun.kits.synapse import Synapse
from snnrun.models.convnet import ConvNet
from snnrun.models.mlp import MLP
from snnrun.neurons.base import SpikingNeuron

pytestmark = pytest.mark.usefixtures("fp64")

SHAPE, CLASSES, STEPS, BATCH = (2, 8, 8), 5, 6, 3

MODELS = {
    "mlp": MLP(name="mlp", norm="auto", hidden=[20, 20], dropout=0.0, feedback=False),
    "mlp with feedback": MLP(name="mlp", norm="auto", hidden=[20, 20], dropout=0.0, feedback=True),
    "mlp with dropout": MLP(name="mlp", norm="auto", hidden=[20, 20], dropout=0.4, feedback=False),
    "convnet": ConvNet(
        name="convnet", norm="auto", channels=[6, 8], hidden=[10], pool="average", dropout=0.0
    ),
    "convnet with dropout": ConvNet(
        name="convnet", norm="auto", channels=[6, 8], hidden=[10], pool="max", dropout=0.4
    ),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


@pytest.fixture
def build(kit):
    """A net in evaluation mode, with running statistics of a batch so that its neurons fire."""

    def make(model, norm="bn", **neuron):
        net = model.build(kit(norm, **neuron), SHAPE, CLASSES)
        for part in net.modules():
            if isinstance(part, TimeBatchNorm):
                part.momentum = 1.0
        net(torch.randn(STEPS, 16, *SHAPE))
        return net.eval()

    return make


def spikes_of(net, run):
    """Outputs of ``run`` and the spikes of every layer, over all its chunks."""
    seen = {name: [] for name, part in net.named_modules() if isinstance(part, SpikingNeuron)}
    hooks = [
        net.get_submodule(name).register_forward_hook(lambda _, __, out, to=to: to.append(out))
        for name, to in seen.items()
    ]
    outputs = run()
    for hook in hooks:
        hook.remove()
    return outputs, {name: torch.cat(chunks) for name, chunks in seen.items()}


@pytest.mark.parametrize("sizes", [[1] * STEPS, [2, 1, 3]], ids=["step by step", "uneven chunks"])
def test_chunks_give_the_spikes_and_outputs_of_the_whole_sequence(build, model, sizes):
    net = build(model)
    x = torch.randn(STEPS, BATCH, *SHAPE)

    def chunked():
        net.reset()
        return torch.cat([net.advance(chunk) for chunk in x.split(sizes)])

    whole, spikes = spikes_of(net, lambda: net(x))
    parts, spikes_in_parts = spikes_of(net, chunked)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    for name, expected in spikes.items():
        assert expected.any(), name
        assert torch.equal(spikes_in_parts[name], expected), name


@pytest.mark.parametrize("name", ["mlp", "mlp with feedback", "mlp with dropout"])
def test_chunks_agree_in_training_too_when_no_batch_is_normalised(build, name):
    net = build(MODELS[name], "sws").train()
    x = torch.randn(STEPS, BATCH, *SHAPE)
    torch.manual_seed(1)
    whole = net(x)
    torch.manual_seed(1)
    net.reset()
    parts = torch.cat([net.advance(step) for step in x.split(1)])
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


# 1024 values per sample in the first current: 12 steps of 256 samples are too many at once
WIDE = {
    "mlp": MLP(name="mlp", norm="auto", hidden=[1024, 20], dropout=0.0, feedback=False),
    "mlp with feedback": MLP(name="mlp", norm="auto", hidden=[1024, 20], dropout=0, feedback=True),
    "convnet with dropout": ConvNet(
        name="convnet", norm="auto", channels=[16, 8], hidden=[10], pool="average", dropout=0.4
    ),
}


@pytest.mark.parametrize("static", [True, False], ids=["static", "varying"])
@pytest.mark.parametrize("name", WIDE)
def test_a_net_cuts_long_sequences_by_itself_and_the_gradient_is_the_same(build, name, static):
    net = build(WIDE[name], "sws").train()
    x = torch.randn(1 if static else 12, 256, *SHAPE).expand(12, -1, -1, -1, -1)
    lengths: list[int] = []
    net.stem.register_forward_hook(lambda _, args, __: lengths.append(len(args[0])))
    found = []
    for net.in_chunks in (False, True):
        torch.manual_seed(1)
        outputs = net(x)
        outputs[-1].square().sum().backward()
        found.append([outputs, *(p.grad for p in net.parameters())])
        net.zero_grad()
    assert lengths == [12, *([1] if static else [6, 6])]
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-13)


def test_a_short_sequence_stays_whole(build):
    net = build(WIDE["mlp"], "sws")
    net.in_chunks = True
    lengths: list[int] = []
    net.stem.register_forward_hook(lambda _, args, __: lengths.append(len(args[0])))
    net(torch.randn(7, 512, *SHAPE))
    net(torch.randn(64, 1, *SHAPE))
    assert lengths == [7, 64]


def test_static_input_gives_the_outputs_of_its_copies(build, model):
    net = build(model)
    x = torch.randn(1, BATCH, *SHAPE).expand(STEPS, BATCH, *SHAPE)
    torch.testing.assert_close(net(x), net(x.contiguous()), rtol=1e-12, atol=1e-12)


def test_calls_do_not_remember_each_other(build, model):
    net = build(model)
    x = torch.randn(STEPS, BATCH, *SHAPE)
    first = net(x)
    net(torch.randn(STEPS, BATCH + 1, *SHAPE))
    assert torch.equal(net(x), first)


def test_continuing_a_sequence_is_not_starting_one(build, model):
    net = build(model)
    x = torch.randn(STEPS, BATCH, *SHAPE)
    assert not torch.equal(net(x), net.advance(x))


@pytest.mark.parametrize("t", [1, 4])
def test_the_future_does_not_change_the_past(build, model, t):
    net = build(model)
    x = torch.randn(STEPS, BATCH, *SHAPE)
    other = torch.cat([x[:t], torch.randn(STEPS - t, BATCH, *SHAPE)])
    torch.testing.assert_close(net(other)[:t], net(x)[:t], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(net(x[:t]), net(x)[:t], rtol=1e-12, atol=1e-12)


def test_samples_do_not_see_each_other(build, model):
    net = build(model)
    x = torch.randn(STEPS, BATCH, *SHAPE)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(net(x[:, order]), net(x)[:, order], rtol=1e-12, atol=1e-12)


def test_order_of_steps_matters(build, model):
    net = build(model)
    x = torch.randn(STEPS, BATCH, *SHAPE)
    assert not torch.allclose(net(x.flip(0)).flip(0), net(x))


@pytest.mark.parametrize("norm", ["bn", "tdbn"])
def test_folded_net_has_the_spikes_of_the_normalised_one(build, kit, model, norm):
    net = build(model, norm, threshold=0.7)
    folded = model.build(kit("none", threshold=0.7), SHAPE, CLASSES).eval()
    for name, part in net.named_modules():
        if isinstance(part, Synapse):
            op = folded.get_submodule(name).op
            weight, bias = part.folded()
            op.weight.data, op.bias = weight, None if bias is None else torch.nn.Parameter(bias)
    x = torch.randn(STEPS, BATCH, *SHAPE)
    outputs, spikes = spikes_of(net, lambda: net(x))
    folded_outputs, folded_spikes = spikes_of(folded, lambda: folded(x))
    torch.testing.assert_close(folded_outputs, outputs, rtol=1e-10, atol=1e-10)
    assert all(torch.equal(folded_spikes[name], spikes[name]) for name in spikes)


def test_without_leak_memory_there_is_no_coupling_between_steps(build):
    net = build(MODELS["mlp"], leak=0.0)
    x = torch.randn(STEPS, BATCH, *SHAPE)
    torch.testing.assert_close(net(x), torch.cat([net(step) for step in x.split(1)]))


def test_feedback_is_absent_at_the_first_step_and_acts_afterwards(build):
    net = build(MODELS["mlp with feedback"])
    x = torch.randn(STEPS, BATCH, *SHAPE)
    outputs = net(x)
    net.feedback = None
    torch.testing.assert_close(net(x)[:1], outputs[:1], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(net(x)[1:], outputs[1:])


@pytest.mark.parametrize("norm", NORMS)
def test_every_parameter_is_reached_by_the_gradient(kit, model, norm):
    net = model.build(kit(norm), SHAPE, CLASSES)
    net(torch.randn(STEPS, BATCH, *SHAPE)).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_input_too_small_for_the_pools_is_refused_with_what_to_do(kit):
    with pytest.raises(ConfigError, match=r"2 pools need inputs of at least 4x4, .* has 3x8"):
        MODELS["convnet"].build(kit("none"), (1, 3, 8), CLASSES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": []}, r"hidden: \[\] must list"),
        ({"hidden": [8, 0]}, r"hidden: \[8, 0\] must list"),
        ({"dropout": 1.0}, r"dropout: 1.0 is not in \[0, 1\)"),
    ],
)
def test_wrong_sizes_of_the_mlp_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        MLP(
            **({"name": "mlp", "norm": "auto", "hidden": [8], "dropout": 0.0} | changes),
            feedback=False,
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": []}, r"channels: \[\] must list"),
        ({"hidden": [0]}, "must list at least one positive width"),
        ({"pool": "median"}, "pool: 'median' is not one of average, max"),
        ({"dropout": -0.1}, r"dropout: -0.1 is not in \[0, 1\)"),
    ],
)
def test_wrong_sizes_of_the_convnet_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        ConvNet(**(vars(MODELS["convnet"]) | changes))
