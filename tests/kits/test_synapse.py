"""A static input is processed once; nobody can tell from outputs, gradients or statistics."""

import pytest
import torch
from torch import nn

from snnrun.kits.norm import NORMS
from snnrun.kits.synapse import Synapse, fan_in, is_static

pytestmark = pytest.mark.usefixtures("fp64")

STEPS = 3
OPS = {
    "linear": (lambda: nn.Linear(18, 5), (2, 3, 3)),
    "linear without bias": (lambda: nn.Linear(18, 5, bias=False), (2, 3, 3)),
    "conv": (lambda: nn.Conv2d(2, 5, 3, padding=1, stride=2), (2, 6, 6)),
    "grouped conv": (lambda: nn.Conv2d(2, 4, 3, groups=2, bias=False), (2, 6, 6)),
    "transposed conv": (lambda: nn.ConvTranspose2d(2, 5, 2, stride=2), (2, 3, 3)),
}


def run(synapse: Synapse, frame: torch.Tensor, x: torch.Tensor, weights: torch.Tensor):
    """Currents for ``x``, all gradients for a loss that differs between steps, the buffers."""
    currents = synapse(x)
    loss = (currents * weights).sin().sum()
    grads = torch.autograd.grad(loss, [frame, *synapse.parameters()])
    return [currents, *grads, *(b.clone() for b in synapse.buffers())]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", OPS)
def test_hoisting_a_static_input_changes_nothing(kit, name, norm, training):
    op, shape = OPS[name]
    synapse = kit(norm, threshold=0.7).connect(op()).train(training)
    for buffer in synapse.buffers():
        buffer.uniform_(0.5, 1.5)
    before = {key: value.clone() for key, value in synapse.state_dict().items()}
    frame = torch.randn(4, *shape, requires_grad=True)
    static = frame.expand(STEPS, *frame.shape)
    weights = torch.randn(synapse(static).shape)
    synapse.load_state_dict(before)
    hoisted = run(synapse, frame, static, weights)
    synapse.load_state_dict(before)
    plain = run(synapse, frame, torch.stack([frame] * STEPS), weights)
    assert len(hoisted) == len(plain)
    for a, b in zip(hoisted, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_a_static_input_passes_through_the_op_once(kit):
    op = nn.Linear(4, 3)
    seen = []
    synapse = kit("bn").connect(op)
    synapse.norm.register_forward_hook(lambda _, args, __: seen.append(args[0].shape))
    currents = synapse(torch.randn(2, 4).expand(STEPS, 2, 4))
    assert seen == [(2, 3)]
    assert currents.shape == (STEPS, 2, 3)
    assert currents.stride(0) == 0


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (torch.zeros(2, 3).expand(4, 2, 3), True),
        (torch.zeros(4, 2, 3), False),
        (torch.zeros(2, 3).expand(1, 2, 3), False),
    ],
    ids=["expanded", "sequence", "one step"],
)
def test_static_means_one_frame_seen_several_times(x, expected):
    assert is_static(x) is expected


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", OPS)
def test_folded_weights_give_the_currents_of_evaluation_mode(kit, name, norm):
    op, shape = OPS[name]
    synapse = kit(norm, threshold=0.7).connect(op())
    for part in (*synapse.parameters(), *synapse.buffers()):
        part.data.uniform_(0.5, 1.5)
    weight, bias = synapse.eval().folded()
    folded = Synapse(op())
    folded.op.bias = None if bias is None else nn.Parameter(bias)
    folded.op.weight.data = weight
    x = torch.randn(STEPS, 4, *shape)
    torch.testing.assert_close(folded(x), synapse(x), rtol=1e-12, atol=1e-12)


def test_batch_norm_can_be_folded_by_other_statistics(kit):
    synapse = kit("bn").connect(nn.Conv2d(2, 3, 3))
    mean, var = torch.rand(2, 3)
    expected = synapse.folded((mean, var))
    synapse.norm.running_mean, synapse.norm.running_var = mean, var
    for one, other in zip(expected, synapse.folded(), strict=True):
        assert torch.equal(one, other)


def test_fan_in_counts_the_weights_of_one_output():
    assert fan_in(nn.Linear(18, 5)) == 18
    assert fan_in(nn.Conv2d(2, 5, 3)) == 18
    assert fan_in(nn.Conv2d(4, 4, 3, groups=2)) == 18
    assert fan_in(nn.ConvTranspose2d(2, 5, 3)) == 18


def test_readout_is_never_normalised(kit):
    readout = kit("tdbn").readout(nn.Linear(3, 2))
    assert [name for name, _ in readout.named_parameters()] == ["op.weight", "op.bias"]


def test_tdbn_scale_shrinks_with_the_branches_that_are_added(kit):
    make = kit("tdbn", threshold=0.5)
    assert make.connect(nn.Linear(3, 2)).norm.scale == 0.5
    assert make.connect(nn.Linear(3, 2), branches=2).norm.scale == pytest.approx(0.5 / 2**0.5)
