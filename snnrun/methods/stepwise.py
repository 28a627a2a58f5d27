"""What the methods that learn step by step share: their neuron, their loss, their loop."""

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from snnrun.errors import require
from snnrun.kernels.lif.parameters import LIFParameters
from snnrun.kits.accumulations import AccumulationInput
from snnrun.kits.stepwise import Once, constants, state_bytes
from snnrun.kits.traces import TraceInput
from snnrun.methods.base import StepOutput, Update
from snnrun.models.network import Network
from snnrun.neurons.base import Neuron
from snnrun.neurons.if_ import IF
from snnrun.neurons.lif import LIF

NORMS = ("sws", "none")
REFUSES = {
    "max_pool": "the maximum of leaky sums is not the leaky sum of maxima; use average pooling",
    "bn": "its batch statistics are not linear in what travels; use model.norm=sws",
    "tdbn": "its batch statistics are not linear in what travels; use model.norm=sws",
}


def linear_neuron(neuron: Neuron) -> LIFParameters:
    """Constants of a neuron whose membrane is linear in past inputs and spikes.

    Raises:
        ConfigError: for any other neuron, with the key to change.
    """
    require(
        type(neuron) in (LIF, IF),
        f"neuron: {neuron.name} cannot be trained on leaky sums of spikes; use neuron=lif or if",
    )
    unit = constants(neuron)
    wanted = {
        "reset=soft": not unit.hard,
        "rest=0": unit.hard or unit.rest == 0,
        "fires_at_threshold=true": unit.fires_at_threshold,
        "decay_input=false": not unit.decay_input,
        "leak_reset=true": unit.leak_reset,
        "delay=0": unit.delay == 0,
        "detach_reset=true": unit.detach_reset,
    }
    wrong = " ".join(f"neuron.{key}" for key, met in wanted.items() if not met)
    require(
        not wrong,
        "neuron: leaky sums of spikes stand for the membrane only if "
        f"u[t] = leak (u[t-1] - threshold s[t-1]) + I[t], s = 1 for u >= threshold; set {wrong}",
    )
    return unit


def mixed_loss(output: Tensor, y: Tensor, alpha: float) -> Tensor:
    """``(1 - alpha) CE + alpha MSE`` to the one-hot label, for outputs [B, C] of one step."""
    loss = (1 - alpha) * F.cross_entropy(output, y)
    if alpha == 0:
        return loss
    return loss + alpha * F.mse_loss(output, one_hot(y, output))


def one_hot(y: Tensor, output: Tensor) -> Tensor:
    """The labels as outputs [B, C] should be."""
    return torch.zeros_like(output).scatter_(-1, y.unsqueeze(-1), 1)


def mixed_gradient(output: Tensor, label: Tensor, alpha: float) -> Tensor:
    """Gradient of `mixed_loss` to the outputs z [B, C] for the one-hot label h.

    dL/dz = (1 - alpha) (softmax z - h) / B + 2 alpha (z - h) / BC; wanted at every step, where a
    graph of a dozen tiny operations takes longer.
    """
    of_ce, of_mse = (1 - alpha) / len(output), 2 * alpha / output.numel()
    grad = output.softmax(-1).mul_(of_ce).add_(output, alpha=of_mse)
    return grad.sub_(label, alpha=of_ce + of_mse)


def drive(net: Network, x: Tensor, once: Once | None) -> Iterator[Tensor]:
    """What the first layer gets at each step of ``x`` [T, B, ...]."""
    return cast(TraceInput | AccumulationInput, net.stem).drive(x, once)


def learn_each_step(
    net: Network, update: Update, x: Tensor, y: Tensor, *, alpha: float, online: bool
) -> StepOutput:
    """One loss and one backward per step; an update after each, or one with their sum.

    The loss of a step is ``mixed_loss / T`` in both cases (OTTT's code; arXiv 2210.04195, eq. 6).
    """
    net.reset()
    if online:
        total, outputs = _steps(net, update, x, y, alpha=alpha, once=None)
        return _output(net, total, outputs, [])
    update.zero()
    with Once(net) as once:
        total, outputs = _steps(net, None, x, y, alpha=alpha, once=once)
        once.backward()
    update.step()
    return _output(net, total, outputs, once.tensors())


def _steps(
    net: Network, update: Update | None, x: Tensor, y: Tensor, *, alpha: float, once: Once | None
) -> tuple[Tensor, Tensor]:
    """Mean loss and mean outputs [B, C]; updates after each step if given an ``update``."""
    outputs: list[Tensor] = []
    label = None
    for current in drive(net, x, once):
        if update is not None:
            update.zero()
        output = net.body(current)[0]
        label = one_hot(y, output) if label is None else label
        output.backward(mixed_gradient(output.detach(), label, alpha).div_(len(x)))
        if update is not None:
            update.step()
        outputs.append(output.detach())
    loss = mixed_loss(torch.cat(outputs), y.repeat(len(x)), alpha)
    return loss, torch.stack(outputs).mean(0)


def learn_last_step(
    net: Network, update: Update, x: Tensor, y: Tensor, *, alpha: float
) -> StepOutput:
    """All steps but the last without a graph; one loss, one backward, one update at the last."""
    net.reset()
    update.zero()
    with Once(net) as once:
        currents = drive(net, x, once)
        with torch.no_grad():
            for _ in range(len(x) - 1):
                net.body(next(currents))
        output = net.body(next(currents))[0]
        loss = mixed_loss(output, y, alpha)
        loss.backward()
        once.backward()
    update.step()
    return _output(net, loss.detach(), output.detach(), once.tensors())


def _output(net: Network, loss: Tensor, logits: Tensor, kept: list[Tensor]) -> StepOutput:
    return StepOutput(loss=loss, logits=logits, kept_bytes=state_bytes(net, kept))
