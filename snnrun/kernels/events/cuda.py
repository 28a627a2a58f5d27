"""The event-driven kernels for CUDA devices, in Triton; imported only when asked for.

One program per sample and block of output units walks through time with the units in registers. The
forward pass writes potentials that live until they are compacted to lists. With TRITON_INTERPRET=1
set before the import it runs on the CPU, slowly, which is how it is tested. On an H200 with other
work a step of SHD's net took longer than with `eager`, so `auto` never chooses it. (Triton takes no
annotations but its own.)
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from snnrun.kernels.events.eager import compact, gather, read
from snnrun.kernels.events.lists import Events, Incoming, Record, Unit

__all__ = ["backward", "forward", "gather", "read"]


def forward(spikes: Events, weight: Tensor, unit: Unit, batch: int) -> Record:
    """Run a layer over all its steps; as `eager.forward`."""
    steps, units = (len(spikes.start) - 1) // batch, weight.shape[1]
    v = weight.new_empty(batch, steps, units)
    synapse = 0.0 if unit.synapse is None else unit.synapse
    # As a tensor: Triton would round plain numbers to single precision.
    constants = weight.new_tensor([unit.leak, synapse, unit.threshold, unit.drop])
    block = _block(units)
    _forward[batch, triton.cdiv(units, block)](
        *spikes, weight, constants, v, units, steps, unit.synapse is not None, block
    )
    return compact(v, unit)


def backward(
    spikes: Events,
    active: Events | None,
    incoming: Incoming,
    weight: Tensor,
    leaks: tuple[float, float | None],
    batch: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of one weighted connection; as `eager.backward`."""
    steps, units = (len(spikes.start) - 1) // batch, weight.shape[1]
    grad_weight = torch.zeros_like(weight)
    below = spikes if active is None else active
    grad_in = weight.new_zeros(0 if active is None else len(active.index))
    leak, synapse = leaks
    constants = weight.new_tensor([leak, 0.0 if synapse is None else synapse])
    block = _block(units)
    flags = (len(incoming.drive) > 0, active is not None, synapse is not None)
    _backward[batch, triton.cdiv(units, block)](
        *spikes, *below, *incoming.at, incoming.value, incoming.drive, weight, constants,
        grad_weight, grad_in, units, steps, *flags, block,
    )  # fmt: skip
    return grad_weight, grad_in


def _block(units: int) -> int:
    return min(128, triton.next_power_of_2(units))


@triton.jit
def _add_rows(
    index,
    first,
    last,
    weight,
    columns,
    inside,
    units,
    out,
):
    for e in range(first, last):
        row = tl.load(index + e).to(tl.int64) * units
        out += tl.load(weight + row + columns, mask=inside, other=0.0)
    return out


@triton.jit
def _forward(
    index,
    start,
    weight,
    constants,
    potentials,
    units,
    steps,
    SYNAPSE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < units
    leak, synapse = tl.load(constants), tl.load(constants + 1)
    threshold, drop = tl.load(constants + 2), tl.load(constants + 3)
    v = tl.zeros([BLOCK], weight.dtype.element_ty)
    current = tl.zeros([BLOCK], weight.dtype.element_ty)
    tl.store(potentials + sample.to(tl.int64) * steps * units + columns, v, mask=inside)
    for t in range(1, steps):
        row = sample * steps + t - 1
        first, last = tl.load(start + row), tl.load(start + row + 1)
        v = v * leak - tl.where(v > threshold, drop, 0.0)
        if SYNAPSE:
            v += current
            current = _add_rows(
                index, first, last, weight, columns, inside, units, current * synapse
            )
        else:
            v = _add_rows(index, first, last, weight, columns, inside, units, v)
        place = (row + 1).to(tl.int64) * units + columns
        tl.store(potentials + place, v, mask=inside)


@triton.jit
def _backward(
    spike_index,
    spike_start,
    active_index,
    active_start,
    at_index,
    at_start,
    value,
    drive,
    weight,
    constants,
    grad_weight,
    grad_in,
    units,
    steps,
    DRIVEN: tl.constexpr,
    BELOW: tl.constexpr,
    SYNAPSE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < units
    leak, synapse = tl.load(constants), tl.load(constants + 1)
    membrane = tl.zeros([BLOCK], weight.dtype.element_ty)
    current = tl.zeros([BLOCK], weight.dtype.element_ty)
    for back in range(steps - 1):
        row = sample * steps + steps - 2 - back
        if SYNAPSE:
            current = current * synapse + membrane
        membrane = membrane * leak
        for e in range(tl.load(at_start + row + 1), tl.load(at_start + row + 2)):
            membrane += tl.where(columns == tl.load(at_index + e), tl.load(value + e), 0.0)
        if DRIVEN:
            membrane += tl.load(drive + sample * units + columns, mask=inside, other=0.0)
        delta = current if SYNAPSE else membrane
        for e in range(tl.load(spike_start + row), tl.load(spike_start + row + 1)):
            place = tl.load(spike_index + e).to(tl.int64) * units + columns
            tl.atomic_add(grad_weight + place, delta, mask=inside)
        if BELOW:
            for e in range(tl.load(active_start + row), tl.load(active_start + row + 1)):
                place = tl.load(active_index + e).to(tl.int64) * units + columns
                part = tl.sum(tl.load(weight + place, mask=inside, other=0.0) * delta)
                tl.atomic_add(grad_in + e, part)
