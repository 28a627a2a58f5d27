"""Checks of SAF and OTTT as plain functions of (net, x, y): how far apart are two things?

Nets are in double precision. A *trainer* is a method with a net in its own coordinates.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnrun.kits.accumulations import AccumulationNeuron
from snnrun.kits.plain import Kit
from snnrun.kits.stepwise import StepNeuron
from snnrun.kits.synapse import Synapse
from snnrun.kits.traces import Pair
from snnrun.methods.base import Method, Optim, Update
from snnrun.models.network import Network
from snnrun.neurons.base import SpikingNeuron

Grads = dict[str, Tensor]


@dataclass
class Trainer:
    method: Method
    net: Network


class Frozen(Update):
    """Leaves the weights as they are, so that gradients can be looked at."""

    def step(self) -> None:
        self.steps += 1


def gradients(trainer: Trainer, x: Tensor, y: Tensor) -> Grads:
    """Gradients of one step of the method; masks come from a fixed seed."""
    torch.manual_seed(1)
    trainer.net.train()
    trainer.method.step(trainer.net, Frozen(trainer.net, trainer.method.optim), x, y)
    return {n: p.grad.clone() for n, p in trainer.net.named_parameters() if p.grad is not None}


def bptt_gradients(plain: Network, x: Tensor, y: Tensor) -> Grads:
    """Gradients of the mean cross entropy of all steps through the plain form (detached reset)."""
    torch.manual_seed(1)
    plain.train().zero_grad()
    outputs = plain(x)
    F.cross_entropy(outputs.flatten(0, 1), y.repeat(len(x))).backward()
    return {n: p.grad.clone() for n, p in plain.named_parameters() if p.grad is not None}


def apart(a: Grads, b: Grads, only: Callable[[str], bool] = lambda name: True) -> float:
    """Largest relative difference over the parameters; both must have the same ones."""
    assert a.keys() == b.keys()
    return max(distance(a[n], b[n]) for n in a if only(n))


def distance(a: Tensor, b: Tensor) -> float:
    """Relative difference of two tensors."""
    return ((a - b).norm() / b.norm().clamp(min=1e-30)).item()


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


@dataclass
class Seen:
    """What came into and went out of one layer of neurons, [T, B, ...]."""

    inputs: Tensor
    outputs: Tensor


@contextmanager
def watching(net: nn.Module, kind: type) -> Iterator[dict[str, Seen]]:
    """Inputs and outputs of all parts of one kind; filled when the block ends."""
    inputs, outputs = defaultdict(list), defaultdict(list)

    def watch(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, args: tuple, output) -> None:
            inputs[name].append(args[0].detach().clone())
            outputs[name].append(
                (output.spikes if isinstance(output, Pair) else output).detach().clone()
            )

        return hook

    handles = [
        m.register_forward_hook(watch(n)) for n, m in net.named_modules() if isinstance(m, kind)
    ]
    found: dict[str, Seen] = {}
    yield found
    for handle in handles:
        handle.remove()
    found.update({n: Seen(torch.cat(inputs[n]), torch.cat(outputs[n])) for n in inputs})


def plain_layers(plain: Network, x: Tensor) -> dict[str, Seen]:
    """Currents and spikes of the plain form, with the masks ``gradients`` draws."""
    torch.manual_seed(1)
    with watching(plain.train(), SpikingNeuron) as seen, torch.no_grad():
        plain(x)
    return seen


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
    modules = ("synapse", "traces", "accumulations")
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
