"""The same spikes as SpikingJelly: LIF, tdBN, a residual block."""

import pytest
import torch
from torch import nn

from snnrun.kits.norm import TimeBatchNorm
from snnrun.models.resnet import SpikingBlock

pytestmark = pytest.mark.usefixtures("fp64")

STEPS, BATCH = 6, 4


@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_lif_fires_alike(jelly, lif, reset, decay_input):
    neurons, _, functional = jelly
    rest = 0.0 if reset == "hard" else None
    theirs = neurons.LIFNode(tau=2.0, decay_input=decay_input, v_reset=rest, step_mode="m")
    ours = lif(reset=reset, decay_input=decay_input).build()
    x = torch.randn(STEPS, BATCH, 500) * 2 + 1
    spikes = theirs(x)
    assert 0.05 < spikes.mean() < 0.95
    assert torch.equal(ours(x), spikes)
    functional.reset_net(theirs)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_tdbn_normalises_alike(jelly, training):
    _, layers, _ = jelly
    theirs = layers.ThresholdDependentBatchNorm2d(0.5**0.5, 0.5, 6)
    theirs.step_mode = "m"
    ours = TimeBatchNorm(6, scale=0.5**0.5 * 0.5)
    x = 3 * torch.randn(STEPS, BATCH, 6, 5, 5) + 1
    theirs(x), ours(x.flatten(0, 1))
    expected = theirs.train(training)(x)
    found = ours.train(training)(x.flatten(0, 1)).unflatten(0, (STEPS, BATCH))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_residual_block_fires_alike(jelly, kit):
    neurons, layers, _ = jelly
    block = SpikingBlock(kit("bn"), 4, 6, 2).eval()

    def conv(synapse):
        op = synapse.op
        same = layers.Conv2d(
            op.in_channels, op.out_channels, op.kernel_size, op.stride, op.padding, bias=False,
            step_mode="m",
        )  # fmt: skip
        same.load_state_dict(op.state_dict())
        bn = layers.BatchNorm2d(op.out_channels, step_mode="m")
        state = synapse.norm.state_dict() | {"num_batches_tracked": torch.tensor(0)}
        bn.load_state_dict(state)
        return nn.Sequential(same, bn).eval()

    def fire():
        return neurons.LIFNode(tau=2.0, decay_input=False, v_reset=None, step_mode="m")

    for part in block.modules():
        if isinstance(part, TimeBatchNorm):
            nn.init.uniform_(part.running_var, 0.05, 0.1)
            nn.init.uniform_(part.bias, 0.0, 0.5)
    x = (torch.rand(STEPS, BATCH, 4, 8, 8) < 0.4).double()
    with torch.no_grad():
        inner = fire()(conv(block.inner.synapse)(x))
        expected = fire()(conv(block.outer)(inner) + conv(block.shortcut)(x))
        found = block(x)
    assert 0.02 < expected.mean() < 0.98
    assert torch.equal(found, expected)
