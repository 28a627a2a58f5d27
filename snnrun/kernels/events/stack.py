"""A whole fully connected spiking net as one graph node that keeps and exchanges only events.

Sparse spiking gradient descent (Perez-Nieves and Goodman, NeurIPS 2021, arXiv 2105.08810): with a
surrogate that is exactly zero outside a window, dL/dS is needed only where the unit below is in its
window, since the layer below multiplies it by 0 elsewhere. The weight gradients are those of
backpropagation through time.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snnrun.errors import require
from snnrun.kernels.events import eager
from snnrun.kernels.events.lists import (
    Events,
    Incoming,
    Readout,
    Record,
    Unit,
    counts,
    pointers,
    rows,
)

log = logging.getLogger(__name__)

KERNELS = ("auto", "numba", "torch", "triton")
# Share of the entries of a matrix product from which it is faster than adding up rows of events:
# forwards, and backwards on average over the two products there. First for weights that stay in a
# core's cache, then for larger ones. Measured on one core with AVX-512, 200 to 1000 units.
FORWARD_FROM = (0.2, 0.06)
BACKWARD_FROM = (0.25, 0.2)
CACHE_BYTES = 2**20
# Share of ones in the input from which all lists of a net cost more than its dense form.
INPUT_FROM = 0.05


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything about a stack but its weights: units per hidden layer, readout, backend."""

    units: tuple[Unit, ...]
    readout: Readout
    kernel: str = "auto"


def backend(kernel: str, device: torch.device) -> ModuleType:
    """The module behind a kernel's name; ``auto`` is numba on the CPU and torch elsewhere.

    Raises:
        ConfigError: for numba on another device.
    """
    if kernel == "auto":
        kernel = "numba" if device.type == "cpu" else "torch"
    if kernel == "numba":
        require(
            device.type == "cpu", f"method.kernel: numba runs on the CPU, not on {device}; use auto"
        )
        from snnrun.kernels.events import cpu

        return cpu
    if kernel == "triton":  # optional, and named so that no type checker needs it
        return import_module("snnrun.kernels.events.cuda")
    return eager


def suits(x: Tensor) -> bool:
    """Whether spikes [T, B, ...] are few enough for lists to pay, by those of every eighth step."""
    return float(x[::8].mean()) < INPUT_FROM


def gather(x: Tensor, kernel: str) -> Events | None:
    """Events of an input [T, B, ...]; None if it has values other than 0 and 1."""
    return backend(kernel, x.device).gather(x)


def event_stack(
    arrived: Events, batch: int, weights: Sequence[Tensor], plan: Plan
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Run a net of fully connected layers without bias.

    Args:
        arrived: the input of T steps.
        batch: number of samples.
        weights: one [n_out, n_in] per hidden layer, then that of the readout; transposed storage
            saves a copy.
        plan: units and readout.

    Returns:
        Logits [B, C]; for each hidden layer the spikes of each unit over all steps [B, n]; and its
        share of active events, a scalar without gradient.
    """
    outputs = _Stack.apply(*arrived, batch, plan, *weights)
    depth = len(plan.units)
    return outputs[0], list(outputs[1 : depth + 1]), list(outputs[depth + 1].unbind())


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, index: Tensor, start: Tensor, batch: int, plan: Plan, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        *hidden, last = (w.detach().t().contiguous() for w in weights)
        spikes = Events(index, start)
        kept, spike_counts, active = [*spikes], [], []
        for weight, unit in zip(hidden, plan.units, strict=True):
            run = _suited(plan, weight, FORWARD_FROM, spikes).forward
            record = run(spikes, weight, unit, batch)
            spikes = record.spikes
            kept += [*record.spikes, *record.active, record.slope]
            spike_counts.append(counts(spikes, batch, weight.shape[1], weight))
            active.append(len(record.slope) / ((len(start) - 1) * weight.shape[1]))
        chosen = backend(plan.kernel, last.device)
        logits, at = chosen.read(spikes, last, plan.readout, batch)
        ctx.save_for_backward(*weights, *kept, at)
        ctx.plan, ctx.batch = plan, batch
        ctx.set_materialize_grads(False)
        share = last.new_tensor(active)
        ctx.mark_non_differentiable(share)
        return logits, *spike_counts, share

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logits: Tensor | None, *others: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        plan, batch, saved = ctx.plan, ctx.batch, ctx.saved_tensors
        depth = len(plan.units) + 1
        *hidden, last = (w.t().contiguous() for w in saved[:depth])
        below, records = _unpacked(saved[depth:-1])
        if grad_logits is None:
            grad_logits = torch.zeros_like(saved[-1], dtype=last.dtype)
        steps = (len(below.start) - 1) // batch
        incoming = _from_logits(grad_logits, saved[-1], plan.readout, steps)
        leaks: tuple[float, float | None] = (plan.readout.leak, None)
        grads = []
        for layer in range(depth - 1, -1, -1):
            weight = last if layer == depth - 1 else hidden[layer]
            spikes = records[layer - 1].spikes if layer else below
            active = records[layer - 1].active if layer else None
            run = _suited(plan, weight, BACKWARD_FROM, spikes, active).backward
            grad, grad_in = run(spikes, active, incoming, weight, leaks, batch)
            grads.append(grad.t())
            if layer:
                record, unit = records[layer - 1], plan.units[layer - 1]
                eps = _through_window(grad_in, record, others[layer - 1], steps)
                incoming = Incoming(record.active, eps, eps.new_zeros(0, weight.shape[0]))
                leaks = (unit.leak, unit.synapse)
        return None, None, None, None, *reversed(grads)


def _suited(
    plan: Plan, weight: Tensor, limits: tuple[float, float], *taken: Events | None
) -> ModuleType:
    """The chosen backend, or the dense form for a layer too busy for lists to pay."""
    chosen = backend(plan.kernel, weight.device)
    lists = [events for events in taken if events is not None]
    entries = len(lists) * (len(lists[0].start) - 1) * weight.shape[0]
    if sum(len(e.index) for e in lists) < limits[weight.nbytes > CACHE_BYTES] * entries:
        return chosen
    _say_dense()
    return _dense_form(weight.device)


def _dense_form(device: torch.device) -> ModuleType:
    if device.type != "cpu":
        return eager
    from snnrun.kernels.events import dense

    return dense


@cache
def _say_dense() -> None:
    log.info("layers where many units spike or are near threshold run dense, with the same result")


def _unpacked(kept: Sequence[Tensor]) -> tuple[Events, list[Record]]:
    """The input and one record per hidden layer, from the tensors saved in order."""
    records = []
    for first in range(2, len(kept), 5):
        spikes, spike_start, active, active_start, slope = kept[first : first + 5]
        records.append(Record(Events(spikes, spike_start), Events(active, active_start), slope))
    return Events(*kept[:2]), records


def _from_logits(grad: Tensor, at: Tensor, readout: Readout, steps: int) -> Incoming:
    """What arrives at the readout: at the step of each maximum, or equally at all steps."""
    batch, classes = grad.shape
    grad = grad * (1 - readout.leak)
    if readout.reduce == "sum":
        nothing = torch.zeros(batch * steps + 1, dtype=torch.int32, device=grad.device)
        return Incoming(Events(at.new_zeros(0), nothing), grad.new_zeros(0), grad.contiguous())
    step, order = at.sort(dim=1, stable=True)
    row = step + steps * torch.arange(batch, device=grad.device)[:, None]
    lengths = torch.bincount(row.flatten(), minlength=batch * steps)
    events = Events(order.flatten().int(), pointers(lengths))
    return Incoming(events, grad.gather(1, order).flatten(), grad.new_zeros(0, classes))


def _through_window(grad: Tensor, record: Record, grad_counts: Tensor | None, steps: int) -> Tensor:
    """dL/dV at the active events from dL/dS there [n] and dL/d(spike counts) [B, units]."""
    if grad_counts is not None:
        sample = rows(record.active).div_(steps, rounding_mode="floor")
        grad = grad + grad_counts[sample, record.active.index]
    return grad.mul_(record.slope)  # what the layer above has made for this alone
