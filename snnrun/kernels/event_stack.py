"""A whole fully connected spiking net as one graph node that keeps and exchanges only events.

Sparse spiking gradient descent (Perez-Nieves and Goodman, NeurIPS 2021, arXiv 2105.08810): with a surrogate
that is exactly zero outside a window, dL/dS is needed only where the unit below is in its window, since the
layer below multiplies it by 0 elsewhere. The weight gradients are those of backpropagation through time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snnrun.kernels import events_torch
from snnrun.kernels.events import Events, Incoming, Readout, Record, Unit, counts

KERNELS = ("auto", "numba", "torch", "triton")
# Share of the dense work (spikes in + active below, or spikes in alone) from which the dense form is faster.
DENSE_FROM = 0.5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything about a stack but its weights: units per hidden layer, readout, backend."""

    units: tuple[Unit, ...]
    readout: Readout
    kernel: str = "auto"


def backend(kernel: str, device: torch.device) -> ModuleType:
    """The module behind a kernel's name; ``auto`` is numba on the CPU and torch elsewhere."""
    if kernel == "auto":
        kernel = "numba" if device.type == "cpu" else "torch"
    if kernel == "numba":
        from snnrun.kernels import events_cpu

        return events_cpu
    if kernel == "triton":
        from snnrun.kernels import events_triton

        return events_triton
    return events_torch


def event_stack(x: Tensor, weights: Sequence[Tensor], plan: Plan) -> tuple[Tensor, list[Tensor]]:
    """Logits and spike counts of a net of fully connected layers without bias.

    Args:
        x: [T, B, ...] input, every nonzero is one spike.
        weights: one [n_out, n_in] per hidden layer, then that of the readout. Transposed storage saves a copy.
        plan: units and readout.

    Returns:
        Logits [B, C], and for each hidden layer the spikes of each unit over all steps [B, n].
    """
    arrived = backend(plan.kernel, x.device).gather(x)
    logits, *spike_counts = _Stack.apply(*arrived, x.shape[1], plan, *weights)
    return logits, spike_counts


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, index: Tensor, start: Tensor, batch: int, plan: Plan, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        *hidden, last = (w.detach().t().contiguous() for w in weights)
        spikes = Events(index, start)
        kept, spike_counts = [*spikes], []
        for weight, unit in zip(hidden, plan.units, strict=True):
            record = _suited(plan, spikes, None, weight).forward(spikes, weight, unit, batch)
            spikes = record.spikes
            kept += [*record.spikes, *record.active, record.slope]
            spike_counts.append(counts(spikes, batch, weight.shape[1], weight))
        chosen = backend(plan.kernel, last.device)
        logits, at = chosen.read(spikes, last, plan.readout, batch)
        ctx.save_for_backward(*weights, *kept, at)
        ctx.plan, ctx.batch = plan, batch
        ctx.set_materialize_grads(False)
        return logits, *spike_counts

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logits: Tensor | None, *grad_counts: Tensor | None
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
            run = _suited(plan, spikes, active, weight).backward
            grad, grad_in = run(spikes, active, incoming, weight, leaks, batch)
            grads.append(grad.t())
            if layer:
                record, unit = records[layer - 1], plan.units[layer - 1]
                eps = _through_window(grad_in, record, grad_counts[layer - 1], steps)
                incoming = Incoming(record.active, eps, eps.new_zeros(0, weight.shape[0]))
                leaks = (unit.leak, unit.synapse)
        return None, None, None, None, *reversed(grads)
