"""A folded net is the same function; only evaluation mode has one."""

import pytest
import torch

from snnrun.kits.folding import folded
from snnrun.kits.norm import StandardisedWeight, TimeBatchNorm
from snnrun.neurons.base import SpikingNeuron

NETS = {
    "bn": ("model=convnet", "model.channels=[4,6]", "model.hidden=[8]", "model.norm=bn"),
    "tdbn": ("model=convnet", "model.channels=[4,6]", "model.norm=tdbn", "neuron.threshold=0.7"),
    "sws": ("model=convnet", "model.channels=[4,6]", "model.norm=sws"),
    "none": ("model=mlp", "model.hidden=[8]", "model.norm=none"),
    "feedback": ("model=convnet", "model.channels=[4,6]", "model.feedback=true"),
    "residual": ("model=resnet19", "model.stem_channels=4", "model.channels=[4,8]",
                 "model.blocks=[1,1]", "model.hidden=[6]"),
    "dsr": ("model=convnet", "model.channels=[4,6]", "method=dsr"),
    "ttfs": ("model=convnet", "model.channels=[4,6]", "method=ttfs"),
}  # fmt: skip


@pytest.fixture(params=NETS)
def net(request, specified, fp64):
    spec = specified("dataset=digits", *NETS[request.param])
    kit = spec.method.plain_kit(spec.neuron, spec.norm)
    net = spec.model.build(kit, (2, 8, 8), 3)
    for part in net.modules():
        if isinstance(part, TimeBatchNorm):
            for tensor in (part.weight, part.bias, part.running_mean, part.running_var):
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
        if isinstance(part, StandardisedWeight):
            torch.nn.init.uniform_(part.gain, 0.5, 1.5)
    return net.eval()


@torch.no_grad()
def run(net, x):
    """Outputs, and the spikes of every layer in order."""
    spikes = []
    hooks = [
        part.register_forward_hook(lambda _, __, s: spikes.append(s))
        for part in net.modules()
        if isinstance(part, SpikingNeuron)
    ]
    outputs = net(x)
    for hook in hooks:
        hook.remove()
    return outputs, spikes


def test_folding_changes_no_spike(net):
    x = 2 * torch.randn(5, 3, 2, 8, 8)
    outputs, spikes = run(net, x)
    after, same = run(folded(net), x)
    torch.testing.assert_close(after, outputs, rtol=1e-9, atol=1e-9)
    assert len(spikes) == len(same) > 0
    assert sum(s.count_nonzero() for s in spikes) > 0
    for a, b in zip(spikes, same, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_only_weights_biases_and_neurons_are_left(net):
    deployed = folded(net)
    left = {name.rpartition(".")[2] for name in deployed.state_dict()}
    assert left <= {"weight", "bias", "threshold"}
    assert not any(isinstance(p, TimeBatchNorm | StandardisedWeight) for p in deployed.modules())


def test_the_net_itself_is_left_alone(net):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    deployed = folded(net.train())
    assert not deployed.training
    assert net.training
    for parameter in deployed.parameters():
        torch.nn.init.zeros_(parameter)
    assert list(net.state_dict()) == list(before)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
