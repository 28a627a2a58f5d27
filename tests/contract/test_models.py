"""Every model of the tree, at its own size: builds, runs, trains, in chunks as in one go."""

import pytest
import torch

from snnrun.errors import ConfigError
from snnrun.kits.norm import TimeBatchNorm

CLASSES, STEPS, BATCH = 3, 2, 2
# From small to large: the first that the topology accepts is used.
SHAPES = ((1, 8, 8), (3, 32, 32), (2, 48, 48), (3, 64, 64), (3, 128, 128), (3, 224, 224))


@pytest.fixture(scope="module")
def net(model, fitting, every_method):
    """The plain net in double precision, with the statistics of one batch, and its input."""
    torch.manual_seed(0)
    spec = fitting([(f"model={model}",)], [(), *every_method])
    kit = spec.method.plain_kit(spec.neuron, spec.norm)
    for shape in SHAPES:
        try:
            net = spec.model.build(kit, shape, CLASSES).double()
        except ConfigError:
            continue
        for part in net.modules():
            if isinstance(part, TimeBatchNorm):
                part.momentum = 1.0
        x = torch.randn(STEPS, BATCH, *shape, dtype=torch.float64)
        return net, x
    pytest.fail(f"model={model} accepts none of {SHAPES}")


def test_trains_every_parameter(net):
    net, x = net
    outputs = net.train()(x)
    assert outputs.shape == (STEPS, BATCH, CLASSES)
    outputs.square().sum().backward()
    unreached = [name for name, p in net.named_parameters() if p.grad is None]
    net.zero_grad()
    net.reset()
    assert unreached == []


@torch.no_grad()
def test_step_by_step_equals_the_whole_sequence(net):
    net, x = net
    net.train()(x)
    whole = net.eval()(x)
    net.reset()
    parts = torch.cat([net.advance(step) for step in x.split(1)])
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_static_input_equals_its_copies(net):
    net, x = net
    static = x[:1].expand(STEPS, *x.shape[1:])
    net.eval()
    torch.testing.assert_close(net(static), net(static.contiguous()), rtol=1e-9, atol=1e-9)
