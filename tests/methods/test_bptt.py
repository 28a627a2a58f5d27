"""The gradient of BPTT, and how any method reads the outputs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnrun.kits.plain import Kit
from snnrun.methods.base import Optim, Update
from snnrun.methods.bptt import BPTT
from snnrun.models.mlp import MLP

pytestmark = pytest.mark.usefixtures("fp64")

STEPS, BATCH, CLASSES, RATE = 4, 3, 5, 0.1


@pytest.fixture
def method():
    """BPTT whose update is the gradient itself times a constant rate."""
    optim = Optim(
        name="sgd",
        lr=RATE,
        momentum=0.0,
        weight_decay=0.0,
        schedule="constant",
        warmup_steps=0,
        clip_norm=None,
    )
    return BPTT(name="bptt", timesteps=STEPS, segments=1, optim=optim)


class Outputs(nn.Module):
    """A net whose outputs are its parameters."""

    def __init__(self):
        super().__init__()
        self.outputs = nn.Parameter(torch.randn(STEPS, BATCH, CLASSES))

    def forward(self, x):
        return self.outputs


def test_output_gradient_is_that_of_the_mean_at_every_step(method):
    net, y = Outputs(), torch.tensor([0, 4, 2])
    before = net.outputs.detach().clone()
    method.step(net, Update(net, method.optim), torch.empty(0), y)
    expected = (before.mean(0).softmax(-1) - F.one_hot(y, CLASSES)) / (STEPS * BATCH)
    torch.testing.assert_close(net.outputs.grad, expected.expand(STEPS, -1, -1), rtol=0, atol=1e-15)
    torch.testing.assert_close(net.outputs.detach(), before - RATE * net.outputs.grad)


def test_without_leak_the_gradient_is_that_of_independent_frames(method, lif):
    model = MLP(name="mlp", norm="none", hidden=[20], dropout=0.0, feedback=False)
    net = model.build(Kit(lif(leak=0.0), "none"), (1, 4, 4), CLASSES)
    frames = 2 * torch.randn(STEPS, BATCH, 1, 4, 4)
    parameters = list(net.parameters())
    weights = torch.randn(STEPS, BATCH, CLASSES)
    together = torch.autograd.grad((net(frames) * weights).sum(), parameters)
    alone = [
        torch.autograd.grad((net(frame) * w).sum(), parameters)
        for frame, w in zip(frames.split(1), weights.split(1), strict=True)
    ]
    for got, *parts in zip(together, *alone, strict=True):
        torch.testing.assert_close(got, sum(parts), rtol=1e-12, atol=1e-12)


def test_decision_is_the_first_step_after_which_the_class_stays(method):
    # Means over time favour, step by step: 0 0 0 | 1 0 0 | 0 1 1: settled at steps 1, 2, 2
    outputs = torch.tensor(
        [
            [[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]],
            [[0.0, 1.0], [3.0, 0.0], [0.0, 3.0]],
            [[0.0, 0.5], [0.0, 1.0], [0.5, 0.0]],
        ]
    )
    assert method.decode(outputs).argmax(-1).tolist() == [0, 0, 1]
    assert method.decision_steps(outputs).tolist() == [1, 2, 2]


def test_answer_that_changes_at_the_last_step_takes_all_steps(method):
    outputs = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 5.0]]])
    assert method.decision_steps(outputs).tolist() == [3]


def test_logits_are_the_mean_of_the_outputs(method):
    outputs = torch.tensor([[[1.0, 0.0]], [[3.0, 1.0]]])
    assert method.decode(outputs).tolist() == [[2.0, 0.5]]
