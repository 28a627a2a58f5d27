"""The event-driven kernels in plain torch: the readable reference, and the form for dense activity.

Keeps the same index lists as the compiled kernel, but computes on dense tensors that live for one
call: two matrix products and one scan per layer, which is what wins when many units are active.
"""

import torch
from torch import Tensor

from snnrun.kernels.events.lists import (
    Events,
    Incoming,
    Readout,
    Record,
    Unit,
    from_mask,
    rows,
    to_dense,
)


def gather(x: Tensor) -> Events | None:
    """Ones of a chunk ``x`` [T, B, ...]; None if it has values other than 0 and 1."""
    ones = x == 1
    if not torch.equal(ones, x != 0):
        return None
    return from_mask(ones.flatten(2).transpose(0, 1))


def forward(spikes: Events, weight: Tensor, unit: Unit, batch: int) -> Record:
    """Run a layer over all its steps.

    Args:
        spikes: what arrives.
        weight: [n_in, n_out].
        unit: constants of the layer.
        batch: number of samples.
    """
    current = _dense(spikes, weight, batch) @ weight  # [B, T, n_out]
    return compact(potentials(current, unit), unit)


def compact(v: Tensor, unit: Unit) -> Record:
    """What a layer keeps of its potentials V [B, T, units]."""
    x = v - unit.threshold
    active = x.abs() < unit.window
    slope = 1 / (unit.steepness * x[active].abs() + 1).square()
    return Record(from_mask(v > unit.threshold), from_mask(active), slope)


def potentials(current: Tensor, unit: Unit) -> Tensor:
    """V [B, T, n_out] of units driven by ``current`` = W S [B, T, n_out]."""
    zero = torch.zeros_like(current[:, 0])
    v, held, steps = zero, zero, [zero]
    for arriving in current.unbind(1)[:-1]:
        drive = arriving if unit.synapse is None else held
        v = v * unit.leak - unit.drop * (v > unit.threshold) + drive
        if unit.synapse is not None:
            held = held * unit.synapse + arriving
        steps.append(v)
    return torch.stack(steps, 1)


def read(spikes: Events, weight: Tensor, readout: Readout, batch: int) -> tuple[Tensor, Tensor]:
    """Logits [B, C] and the step int32 [B, C] of the maximum (0 where they are a sum)."""
    currents = _dense(spikes, weight, batch) @ weight
    o = torch.zeros_like(currents[:, 0])
    steps = [o]
    for current in currents.unbind(1)[:-1]:
        o = o * readout.leak + current * (1 - readout.leak)
        steps.append(o)
    outputs = torch.stack(steps, 1)
    if readout.reduce == "sum":
        return outputs.sum(1), torch.zeros_like(o, dtype=torch.int32)
    logits, at = outputs.max(1)
    return logits, at.int()


def backward(
    spikes: Events,
    active: Events | None,
    incoming: Incoming,
    weight: Tensor,
    leaks: tuple[float, float | None],
    batch: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of one weighted connection, exact for a surrogate of finite window.

    delta[t] = dL/d(current[t]): eps[t+1] + leak delta[t+1], or through the synaptic current.

    Args:
        spikes: what came in.
        active: where the layer below carries gradient; None for the first layer.
        incoming: eps = dL/dV of the units driven.
        weight: [n_in, n_out].
        leaks: of the membrane and of the synaptic current (None: no such current).
        batch: number of samples.

    Returns:
        dL/dW [n_in, n_out], and dL/dS [n] at the active events of the layer below.
    """
    delta = _deltas(incoming, leaks, batch, weight)
    grad_weight = _dense(spikes, weight, batch).flatten(0, 1).T @ delta
    if active is None:
        return grad_weight, weight.new_zeros(0)
    return grad_weight, (delta @ weight.T)[rows(active), active.index.long()]


def _deltas(
    incoming: Incoming, leaks: tuple[float, float | None], batch: int, weight: Tensor
) -> Tensor:
    leak, synapse = leaks
    steps = (len(incoming.at.start) - 1) // batch
    eps = to_dense(incoming.at, incoming.value, (batch, steps, weight.shape[1]), weight)
    if len(incoming.drive):
        eps += incoming.drive[:, None]
    delta = torch.zeros_like(eps)
    membrane = torch.zeros_like(eps[:, 0])
    current = torch.zeros_like(membrane)
    for t in range(steps - 2, -1, -1):
        if synapse is not None:
            current = synapse * current + membrane
        membrane = leak * membrane + eps[:, t + 1]
        delta[:, t] = membrane if synapse is None else current
    return delta.flatten(0, 1)


def _dense(spikes: Events, weight: Tensor, batch: int) -> Tensor:
    steps = (len(spikes.start) - 1) // batch
    return to_dense(spikes, 1.0, (batch, steps, weight.shape[0]), weight)
