"""Gradients of methods as plain functions of (net, x, y), and how far apart two of them are.

A *trainer* is a method with a net in its own coordinates.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnrun.methods.base import Method, Update
from snnrun.models.network import Chain, Network
from snnrun.neurons.base import SpikingNeuron
from snnrun.neurons.surrogate import Surrogate

Grads = dict[str, Tensor]


@dataclass
class Trainer:
    """A method and a net made of its kit."""

    method: Method
    net: Network


class Frozen(Update):
    """Leaves the weights as they are, so that gradients can be looked at."""

    def step(self) -> None:
        """Count, nothing else."""
        self.steps += 1


def gradients(trainer: Trainer, x: Tensor, y: Tensor) -> Grads:
    """Gradients of one step of the method on ``x`` [T, B, ...]; masks come from a fixed seed."""
    torch.manual_seed(1)
    trainer.net.train()
    trainer.method.step(trainer.net, Frozen(trainer.net, trainer.method.optim), x, y)
    return {n: p.grad.clone() for n, p in trainer.net.named_parameters() if p.grad is not None}


def apart(a: Grads, b: Grads, only: Callable[[str], bool] = lambda name: True) -> float:
    """Largest relative difference over the parameters; both must have the same ones."""
    assert a.keys() == b.keys()
    return max(distance(a[n], b[n]) for n in a if only(n))


def distance(a: Tensor, b: Tensor) -> float:
    """Relative difference of two tensors."""
    return ((a - b).norm() / b.norm().clamp(min=1e-30)).item()


@dataclass
class Seen:
    """What came into and went out of one layer of neurons, [T, B, ...]."""

    inputs: Tensor
    outputs: Tensor


@contextmanager
def watching(net: nn.Module, kind: type[nn.Module]) -> Iterator[dict[str, Seen]]:
    """Inputs and outputs of all parts of one kind; filled when the block ends."""
    inputs, outputs = defaultdict(list), defaultdict(list)

    def watch(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs[name].append(args[0].detach().clone())
            outputs[name].append(output.detach().clone())

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


def trace_formula(
    plain: Chain, x: Tensor, y: Tensor, *, leak: float, surrogate: Surrogate, trace_leak: float
) -> Grads:
    """Same-step backpropagation times presynaptic trace, written out for a chain of linear layers.

    Xiao et al., NeurIPS 2022, arXiv 2210.04195, section 4. Loss: mean cross entropy of all steps;
    threshold 1. The first layer and the biases learn without trace, the readout with one, as in
    the published code.
    """
    layers = plain_layers(plain, x)
    weights = [layer.synapse.weights()[0] for layer in plain.layers]  # type: ignore[operator,union-attr]
    spikes = [layers[f"layers.{i}.neuron"].outputs for i in range(len(weights))]
    names = [f"layers.{i}.synapse.op" for i in range(len(weights))] + ["readout.op"]
    grads: dict[str, Any] = {f"{n}.{kind}": 0.0 for n in names for kind in ("weight", "bias")}
    traces = [torch.zeros_like(s[0]) for s in spikes]
    membranes = [torch.zeros_like(s[0]) for s in spikes]
    readout = plain.readout.op
    for t in range(len(x)):
        slopes = []
        for i, s in enumerate(spikes):
            u = leak * membranes[i] + layers[f"layers.{i}.neuron"].inputs[t]
            membranes[i] = u - s[t]
            slopes.append(surrogate(u - 1.0))
            traces[i] = trace_leak * traces[i] + s[t]
        output = F.linear(spikes[-1][t], readout.weight, readout.bias)
        error = (output.softmax(-1) - F.one_hot(y, output.shape[1])) / (len(y) * len(x))
        above = readout.weight
        for i in reversed(range(len(names))):
            arriving = x[t].flatten(1) if i == 0 else traces[i - 1]
            grads[f"{names[i]}.weight"] += error.t() @ arriving
            grads[f"{names[i]}.bias"] += error.sum(0)
            if i > 0:
                error = (error @ above) * slopes[i - 1]
                above = weights[i - 1]
    return {name: grad.detach() for name, grad in grads.items()}
