"""Chains on which the properties of IDE and SPIDE are checked, with everything they are made of."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from snnrun.equilibrium.loop import Loop
from snnrun.equilibrium.simulation import Simulation, simulate
from snnrun.kits.plain import Kit
from snnrun.methods.equilibrium import initialise
from snnrun.models.convnet import ConvNet
from snnrun.models.feedback_net import FeedbackNet
from snnrun.models.mlp import MLP
from snnrun.models.network import Chain

SHAPE, CLASSES, BATCH = (2, 8, 8), 5, 4


def mlp(hidden, feedback=True, dropout=0.0):
    return MLP(name="mlp", norm="auto", hidden=hidden, dropout=dropout, feedback=feedback)


def conv(structure, feedback="3u", dropout=0.0):
    return FeedbackNet(
        name="conv", norm="auto", structure=structure, feedback=feedback, dropout=dropout
    )


def pooled(dropout=0.0):
    return ConvNet(
        name="convnet",
        norm="auto",
        channels=[4, 6],
        hidden=[],
        pool="average",
        dropout=dropout,
        feedback=True,
    )


MODELS = {
    "40 (F)": mlp([40]),
    "40-30-20 (F)": mlp([40, 30, 20]),
    "conv with stride (F)": conv("6C3s", "3"),
    "3 conv with stride (F transposed)": conv("4C3s-6C3-5C3s", "3u"),
    "conv and pool (F upsampled)": pooled(),
    "40-30-20 with dropout (F)": mlp([40, 30, 20], dropout=0.3),
    "conv and pool with dropout (F)": pooled(dropout=0.3),
}


@dataclass
class Case:
    """A chain whose feedback contracts, a batch, and c."""

    net: Chain
    x: Tensor
    subtracted: float

    def simulated(self, steps: int, leak: float = 1.0) -> Simulation:
        """Rates after ``steps`` steps of the static batch, masks of dropout as they were drawn."""
        return simulate(self.net, self.x.expand(steps, *self.x.shape[1:]), leak)

    def loop(self, simulation: Simulation, **measured) -> Loop:
        """The equilibrium at simulated rates."""
        return Loop(self.net, self.subtracted, self.x, simulation.rates[-1], **measured)


def case(model, neuron, gain=0.5):
    """A net of ``model`` whose loop has the norm ``gain``, in training mode."""
    net = model.build(Kit(neuron, "none"), SHAPE, CLASSES)
    for layer in net.layers:
        initialise(layer.synapse, "unit_rows")
        layer.synapse.op.bias.data.uniform_(-0.2, 0.6)
    made = Case(net, torch.randn(1, BATCH, *SHAPE), neuron.threshold - neuron.rest)
    net.feedback.synapse.op.weight.data.normal_()
    net.feedback.synapse.op.weight.data.mul_(gain / made.loop(made.simulated(1)).norm())
    return made


def settled(case: Case, rounds: int = 400) -> Tensor:
    """The last layer's rate after iterating the equilibrium equation, in a graph."""
    layers, c = list(case.net.layers), case.subtracted
    drive = case.net.stem(case.x)
    last = torch.zeros_like(_last_rate(case))
    for _ in range(rounds):
        emitted = layers[-1].post(last)
        fed = case.net.feedback.post(case.net.feedback.synapse(emitted))
        rate = ((drive + fed) / c).clamp(0, 1)
        for before, layer in pairwise(layers):
            rate = (layer.synapse(before.post(rate)) / c).clamp(0, 1)
        last = rate
    return last


def _last_rate(case: Case) -> Tensor:
    return case.simulated(1).rates[-1]


def dense_transposed(loop: Loop) -> Tensor:
    """J^T of a loop as a matrix over the whole batch [B d, B d]."""
    like = loop.rates[-1]
    columns = [
        loop.transposed(unit.view_as(like)).flatten()
        for unit in torch.eye(like.numel(), dtype=like.dtype)
    ]
    return torch.stack(columns, dim=1)


def solved(loop: Loop, g: Tensor) -> Tensor:
    """Beta of the last layer by elimination."""
    matrix = torch.eye(g.numel(), dtype=g.dtype) - dense_transposed(loop)
    return torch.linalg.solve(matrix, g.flatten()).view_as(g)


def at_equilibrium(case: Case) -> Loop:
    """The loop at the fixed point itself, up to rounding."""
    with torch.no_grad():
        last = settled(case)
    return Loop(case.net, case.subtracted, case.x, last)


def gradients(net: Chain) -> dict[str, Tensor]:
    """All gradients by name."""
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
