"""Checks of SAF and OTTT as plain functions of (net, x, y): how far apart are two things?

Nets are in double precision. A *trainer* is a method with a net in its own coordinates.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnrun.kits.accumulations import AccumulationNeuron
from snnrun.kits.plain import Kit
from snnrun.kits.stepwise import StepNeuron
from snnrun.kits.synapse import Synapse
from snnrun.methods.base import Optim, Update
from snnrun.models.network import Network
from snnrun.verify.gradients import (
    Frozen,
    Grads,
    Seen,
    Trainer,
    apart,
    distance,
    gradients,
    plain_layers,
    watching,
)

# What the tests take from here, beside the functions below.
__all__ = ["Frozen", "Trainer", "apart", "distance", "gradients", "plain_layers"]


def bptt_gradients(plain: Network, x: Tensor, y: Tensor) -> Grads:
    """Gradients of the mean cross entropy of all steps through the plain form (detached reset)."""
    torch.manual_seed(1)
    plain.train().zero_grad()
    outputs = plain(x)
    F.cross_entropy(outputs.flatten(0, 1), y.repeat(len(x))).backward()
    return {n: p.grad.clone() for n, p in plain.named_parameters() if p.grad is not None}


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of the angle between two tensors."""
    return F.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def trajectory(trainer: Trainer, batches: list[tuple[Tensor, Tensor]], optim: Optim) -> Grads:
    """Total change of each parameter after training on the batches."""
    before = {n: p.detach().clone() for n, p in trainer.net.named_parameters()}
    update = Update(trainer.net, optim)
    torch.manual_seed(1)
    trainer.net.train()
    for x, y in batches:
        trainer.method.step(trainer.net, update, x, y)
    return {n: p.detach() - before[n] for n, p in trainer.net.named_parameters()}


def trained_layers(trainer: Trainer, x: Tensor, y: Tensor) -> dict[str, Seen]:
    """What the neurons of a trainer's net got and sent during one step of the method."""
    with watching(trainer.net, StepNeuron) as seen:
        gradients(trainer, x, y)
    return seen


def spikes_of(accumulations: Tensor, leak: float) -> Tensor:
    """s[t] = A[t] - leak A[t-1]."""
    return accumulations - leak * shifted(accumulations)


def shifted(x: Tensor) -> Tensor:
    """The value of the step before, 0 at the first."""
    return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def mismatches(saf: Trainer, plain: Network, x: Tensor, y: Tensor, leak: float) -> int:
    """Spikes of the net of accumulations that the plain form does not have, or the reverse."""
    ours, theirs = trained_layers(saf, x, y), plain_layers(plain, x)
    assert ours.keys() == theirs.keys()
    assert sum(layer.outputs.sum().item() for layer in theirs.values()) > 0
    return sum(
        int((spikes_of(seen.outputs, leak).round() != theirs[name].outputs).sum())
        for name, seen in ours.items()
    )


def identities(
    saf: Trainer, plain: Network, x: Tensor, y: Tensor, *, leak: float, threshold: float
) -> dict[str, float]:
    """Largest residual of F4, F5 and F6 of the SAF specification over all layers and steps."""
    worst = dict.fromkeys(("membrane", "after_reset", "rate"), 0.0)
    theirs = plain_layers(plain, x)
    for name, seen in trained_layers(saf, x, y).items():
        p, a = seen.inputs, seen.outputs
        u, v = membranes(theirs[name], leak, threshold)
        spans = torch.tensor([sum(leak**k for k in range(t + 1)) for t in range(len(p))])
        spans = spans.view(-1, *[1] * (p.dim() - 1))
        residuals = {
            "membrane": p - leak * threshold * shifted(a) - u,
            "after_reset": p - threshold * a - v,
            "rate": a / spans - (p / spans / threshold - v / (threshold * spans)),
        }
        for key, value in residuals.items():
            worst[key] = max(worst[key], value.abs().max().item())
    return worst


def membranes(seen: Seen, leak: float, threshold: float) -> tuple[Tensor, Tensor]:
    """Membranes before and after the reset, [T, B, ...], of a plain layer."""
    v, before, after = torch.zeros_like(seen.inputs[0]), [], []
    for current, spikes in zip(seen.inputs, seen.outputs, strict=True):
        u = leak * v + current
        v = u - threshold * spikes
        before.append(u)
        after.append(v)
    return torch.stack(before), torch.stack(after)


class Slope(torch.autograd.Function):
    """A given value with a given derivative."""

    @staticmethod
    def forward(ctx, z: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.clone()

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad * ctx.saved_tensors[0], None, None


class ClampNeuron(AccumulationNeuron):
    """SAF units with the local derivative of the clamped rate, 1/V where 0 < P / (Λ V) < 1."""

    span = 0.0

    def reset(self) -> None:
        super().reset()
        self.span = 0.0

    def forward(self, potential: Tensor) -> Tensor:
        after = super().forward(potential).detach()
        self.span = self.leak * self.span + 1
        rate = potential.detach() / (self.span * self.threshold)
        slope = ((rate > 0) & (rate < 1)).to(rate.dtype) / self.threshold
        return Slope.apply(potential, after, slope)


def with_clamp(trainer: Trainer, unit) -> Trainer:
    """Replace the neurons of a chain by ClampNeurons."""
    for layer in trainer.net.layers:
        layer.neuron = ClampNeuron(unit)
    return trainer


class RateNeuron(nn.Module):
    """A unit of the spike representation: a = clamp(z / V, 0, 1), its value taken from the SNN."""

    def __init__(self, threshold: float):
        super().__init__()
        self.threshold = threshold
        self.rate: Tensor | None = None
        self.slope: Tensor | None = None

    def forward(self, z: Tensor) -> Tensor:
        if self.slope is not None:
            return Slope.apply(z, self.rate, self.slope)
        clamped = (z / self.threshold).clamp(0, 1)
        return clamped + (self.rate - clamped).detach()


class RateKit(Kit):
    """Weighted firing rates travel; one pass instead of T steps."""

    def neuron(self) -> nn.Module:
        return RateNeuron(self.spec.threshold)


def representation_gradients(
    rates: Network, saf: Trainer, x: Tensor, y: Tensor, *, leak: float, surrogate=None
) -> tuple[Grads, Grads]:
    """Gradients of the spike representation at the SNN's rates a[T], and those of SAF-F.

    Args:
        rates: net of a RateKit with the weights of the other.
        saf: SAF-F with theory conventions.
        x: input.
        y: labels.
        leak: of the neurons.
        surrogate: derivative at u[T] - V in the place of that of the clamp.
    """
    with watching(saf.net, StepNeuron) as seen:
        ours = gradients(saf, x, y)
    ages = torch.arange(len(x) - 1, -1, -1)
    span = (leak**ages).sum()
    for name, part in rates.named_modules():
        if isinstance(part, RateNeuron):
            p, a = seen[name].inputs, seen[name].outputs
            part.rate = a[-1:] / span
            u = (p - leak * part.threshold * shifted(a))[-1:]
            part.slope = None if surrogate is None else surrogate(u - part.threshold)
    weights = (leak**ages).view(-1, *[1] * (x.dim() - 1)) / span
    torch.manual_seed(1)
    logits = rates.train()((weights * x).sum(0, keepdim=True))[0]
    loss = (1 - saf.method.alpha) * F.cross_entropy(logits, y)
    onehot = F.one_hot(y, logits.shape[1]).to(logits)
    (loss + saf.method.alpha * F.mse_loss(logits, onehot)).backward()
    return {n: p.grad for n, p in rates.named_parameters()}, ours


@contextmanager
def counting_ops(net: nn.Module, monkeypatch) -> Iterator[dict[str, int]]:
    """Evaluations of the weighted ops: of the first one, and of all."""
    counts = {"first": 0, "all": 0}
    stem = net.stem.op
    modules = ("synapse", "step_op")
    import importlib

    with monkeypatch.context() as patch:
        for module in (importlib.import_module(f"snnrun.kits.{m}") for m in modules):
            original = module.apply

            def counted(op, *args, original=original):
                counts["all"] += 1
                counts["first"] += op is stem
                return original(op, *args)

            patch.setattr(module, "apply", counted)
        yield counts


def weighted_ops(net: nn.Module) -> int:
    """How many synapses a net has."""
    return sum(isinstance(m, Synapse) for m in net.modules())
