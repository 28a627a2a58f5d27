"""The dense form of a busy layer on the CPU: matrix products, and compiled walks through time.

Takes and gives the same index lists as `cpu`, whose kernels it runs with one event per step: the
row of currents forwards, the row of deltas backwards. Nothing dense outlives a call.
"""

import numpy as np
import torch
from torch import Tensor

from snnrun.kernels.compiled.machine_code import compiled
from snnrun.kernels.compiled.threads import spread
from snnrun.kernels.events import cpu
from snnrun.kernels.events.lists import Events, Incoming, Record, Unit
from snnrun.kernels.products.weighted import linear, weight_gradient


def forward(spikes: Events, weight: Tensor, unit: Unit, batch: int) -> Record:
    """Run a layer over all its steps; as `eager.forward`."""
    currents = linear(_dense(spikes, weight), weight.t(), None)
    return cpu.forward(_every_row(len(currents)), currents, unit, batch)


def backward(
    spikes: Events,
    active: Events | None,
    incoming: Incoming,
    weight: Tensor,
    leaks: tuple[float, float | None],
    batch: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of one weighted connection; as `eager.backward`."""
    steps = len(spikes.start) - 1
    delta = weight.new_zeros(steps, weight.shape[1])
    walk = cpu.steps_back(_every_row(steps), None, incoming, delta, leaks, batch)
    spread(batch, lambda lo, hi: walk(lo, hi, delta, weight.new_zeros(0)))
    grad_weight = weight_gradient(_dense(spikes, weight), delta).t()
    if active is None:
        return grad_weight, weight.new_zeros(0)
    grad_in = weight.new_empty(len(active.index))
    everywhere = (delta @ weight.T).numpy()
    lists = [x.numpy() for x in active]
    spread(steps, lambda lo, hi: _pick(*lists, everywhere, grad_in.numpy(), lo, hi))
    return grad_weight, grad_in


def _every_row(rows: int) -> Events:
    """One event at every step of every sample, of a unit of its own."""
    row = torch.arange(rows + 1, dtype=torch.int32)
    return Events(row[:-1], row)


def _dense(spikes: Events, weight: Tensor) -> Tensor:
    """Spikes as zeros and ones [B * T, n_in]."""
    rows = len(spikes.start) - 1
    dense = weight.new_empty(rows, weight.shape[0])
    lists = [x.numpy() for x in spikes]
    spread(rows, lambda lo, hi: _place(*lists, dense.numpy(), lo, hi))
    return dense


@compiled
def _place(index: np.ndarray, start: np.ndarray, dense: np.ndarray, lo: int, hi: int) -> None:
    dense[lo:hi] = 0
    for row in range(lo, hi):
        for e in range(start[row], start[row + 1]):
            dense[row, index[e]] = 1


@compiled
def _pick(
    index: np.ndarray, start: np.ndarray, dense: np.ndarray, out: np.ndarray, lo: int, hi: int
) -> None:
    for row in range(lo, hi):
        for e in range(start[row], start[row + 1]):
            out[e] = dense[row, index[e]]
