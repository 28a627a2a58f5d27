import pytest
import torch

from snnrun.kits.between import Scale
from snnrun.models.nf_resnet import NFResNet, SkipGain

SPEC = {"stem_channels": 8, "channels": [8, 16], "blocks": [2, 3], "scale": 2.74}


@pytest.fixture
def net(kit, fp64):
    return NFResNet(name="nf", norm="sws", **SPEC).build(kit("sws"), (3, 32, 32), 4)


def test_starts_as_the_identity_with_a_readout_of_zero(net):
    x = torch.randn(2, 3, 3, 32, 32)
    assert torch.equal(net(x), net.readout.op.bias.expand(2, 3, 4))
    current = net.entry_pool(net.stem(x))
    assert torch.equal(net.blocks[0](current), current)


def test_blocks_divide_by_the_root_of_the_variance_they_expect(net):
    factors = [next(p for p in block.modules() if isinstance(p, Scale)) for block in net.blocks]
    variances = [f.factor**-2 for f in factors]
    assert variances == pytest.approx([1, 1.04, 1.08, 1.04, 1.08])


def test_a_branch_counts_a_fifth_of_its_gain():
    gain = SkipGain()
    torch.nn.init.constant_(gain.gain, 0.5)
    assert gain(torch.tensor([10.0])).item() == pytest.approx(1.0)


@pytest.mark.parametrize("method", ["method=ottt", "method=saf"])
def test_training_form_gives_the_outputs_of_the_plain_form(method, specified, fp64):
    spec = specified(
        "model=nf_resnet34", "model.stem_channels=8", "model.channels=[8,16]", "model.blocks=[2,2]",
        "dataset=cifar10", method,
    )  # fmt: skip
    net, plain = (
        spec.model.build(make(spec.neuron, spec.norm), (3, 32, 32), 4)
        for make in (spec.method.kit, spec.method.plain_kit)
    )
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.fill_(0.7) if name.endswith("gain") else p.normal_()
        plain.load_state_dict(net.state_dict())
        x = torch.randn(4, 2, 3, 32, 32)
        net.reset()
        steps = [net.body(current) for current in net.stem.drive(x, None)]
        torch.testing.assert_close(torch.cat(steps), plain(x), rtol=1e-9, atol=1e-9)


def test_the_readout_learns_from_the_currents_of_the_step(specified, fp64):
    spec = specified(
        "model=nf_resnet34", "model.stem_channels=8", "model.channels=[8]", "model.blocks=[1]",
        "dataset=cifar10", "method=ottt",
    )  # fmt: skip
    net = spec.model.build(spec.method.kit(spec.neuron, spec.norm), (3, 32, 32), 4)
    arrived = []
    net.readout.register_forward_pre_hook(lambda _, args: arrived.append(args[0].flatten(2)[0]))
    for current in net.stem.drive(torch.randn(3, 2, 3, 32, 32), None):
        net.body(current).sum().backward()
    expected = torch.stack(arrived).sum((0, 1)).expand(4, -1)
    torch.testing.assert_close(net.readout.op.weight.grad, expected.detach())
