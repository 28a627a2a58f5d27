"""Compiled kernel for the CPU: both passes fused over time, one read and one write per element.

Nothing is written for the backward pass: it keeps the current itself (one step's worth, whatever T,
for a current expanded over time) and integrates it again, which is cheaper than a round trip of the
potentials through memory. The spikes are those of the eager kernel bit by bit.
"""

import numpy as np
import torch
from torch import Tensor

from snnrun.kernels.compiled.rows import empty, memory
from snnrun.kernels.compiled.threads import CUT, split
from snnrun.kernels.lif.cpu_steps import block_of, run, run_back
from snnrun.kernels.lif.parameters import LIFParameters
from snnrun.kernels.lif.recursion import constants_of
from snnrun.kernels.lif.slopes import kind_of


def forward(
    current: Tensor,
    membrane: Tensor,
    p: LIFParameters,
    *,
    keep: bool,
    held: Tensor | None = None,
    counts: Tensor | None = None,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Run T' steps; arguments and result as in `eager.forward`, on the CPU.

    Of fp32 or fp64, or with currents and spikes of bf16, membrane and counts of fp32.

    What is kept is the current, the membrane before the first step, and the held current if any.
    """
    spikes = empty(current.shape, current.dtype)
    after = empty(current.shape[1:], membrane.dtype)
    values, hop = _steps(current)
    before, out, left = _state(membrane), memory(spikes).reshape(-1), after.numpy().reshape(-1)
    late = None if held is None else _state(held)
    tally = None if counts is None else counts.numpy().reshape(-1)
    constants, block = constants_of(p, left.dtype), block_of(len(current))

    def work(lo: int, hi: int) -> None:
        run(values, hop, late, before, left, out, tally, constants, block, lo, hi)

    split(left.size, work)
    state = (membrane,) if held is None else (membrane, held)
    return spikes, after, (current, *state) if keep else ()


def backward(
    kept: tuple[Tensor, ...],
    grad_spikes: Tensor,
    grad_membrane: Tensor,
    p: LIFParameters,
    grad_counts: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradient as in `eager.backward`, from what `forward` kept.

    All steps of an expanded current are one place in memory, of which only the sum of their
    gradients is meant: it comes back as T' equal shares, expanded too. Sums for the constants are
    taken block by block, so that the number of threads does not change them.
    """
    current, membrane, *held = kept
    values, hop = _steps(current)
    late = _state(held[0]) if held else None
    # The sum over the steps of an expanded current is taken in full precision.
    dtype = current.dtype if hop else membrane.dtype
    # With a delay the first row is that of the held current, and the last one acts at no step.
    rows = p.delay + (len(current) if hop else 1)
    grad_acting = empty((rows, *current.shape[1:]), dtype)
    if p.delay:
        grad_acting[-1] = 0
    grad_before = empty(current.shape[1:], membrane.dtype)
    before, grad_after = _state(membrane), _state(grad_membrane)
    above, above_hop = _steps(grad_spikes)
    out, carried = memory(grad_acting).reshape(-1), grad_before.numpy().reshape(-1)
    steady = None if grad_counts is None else grad_counts.contiguous().numpy().reshape(-1)
    constants, kind = constants_of(p, before.dtype), kind_of(p.surrogate)
    block = block_of(len(current))
    sums = np.zeros((-(-carried.size // block), len(p.recursion))) if p.trained else None
    split(
        carried.size,
        lambda lo, hi: run_back(
            len(current),
            values,
            hop,
            late,
            before,
            above,
            above_hop,
            steady,
            grad_after,
            carried,
            out,
            sums,
            constants,
            kind,
            block,
            lo,
            hi,
        ),
        block if p.trained else CUT,
    )
    grad_held = grad_acting[0].to(current.dtype) if p.delay else None
    grad_current = grad_acting[p.delay :]
    if not hop:
        share = grad_current.div_(len(current)).to(current.dtype)
        grad_current = share.expand(current.shape)
    grad_constants = None if sums is None else torch.from_numpy(sums.sum(0))
    return grad_current, grad_before, grad_held, grad_constants


def _steps(x: Tensor) -> tuple[np.ndarray, int]:
    """The values step after step, and how many steps of them to go on per step (0: expanded)."""
    x = x.detach()
    expanded = x.stride(0) == 0 and len(x) > 1
    return memory((x[:1] if expanded else x).contiguous()).reshape(-1), 0 if expanded else 1


def _state(x: Tensor) -> np.ndarray:
    """Values of the units; only one where all are the same in memory."""
    x = x.detach()
    x = x if any(x.stride()) else x.as_strided((1,), (1,))
    return memory(x.contiguous()).reshape(-1)
