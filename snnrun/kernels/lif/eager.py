"""Reference kernel in plain torch: readable, any device, any floating type.

The products are rounded one by one (no fused multiply-add), so that a compiled kernel that does
the same gives the same spikes bit by bit.
"""

import torch
from torch import Tensor

from snnrun.kernels.lif.parameters import LIFParameters


def forward(
    current: Tensor,
    membrane: Tensor,
    p: LIFParameters,
    *,
    keep: bool,
    held: Tensor | None = None,
    counts: Tensor | None = None,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Run T' steps.

    Args:
        current: [T', B, ...].
        membrane: [B, ...] before the first step.
        p: constants of the unit.
        keep: return what `backward` needs.
        held: [B, ...] the current before the first, where currents act a step late; else None.
        counts: [B, ...] to which every unit's spikes are added; None: they are not counted.

    Returns:
        Spikes [T', B, ...], the membrane [B, ...] after the last step, and what to keep: the
        potentials u [T', B, ...] at which the units decided to fire; for trained constants also
        the membrane before the first step and the currents of all steps.
    """
    start, inputs = membrane, p.trained
    p = p.fixed()
    spikes = torch.empty(current.shape, dtype=current.dtype, device=current.device)
    potentials = torch.empty_like(spikes) if keep else None
    acting = current.unbind() if held is None else (held, *current[:-1].unbind())
    for t, x in enumerate(acting):
        u, fired, membrane = step(x, membrane, p)
        spikes[t] = fired
        if potentials is not None:
            potentials[t] = u
        if counts is not None:
            counts += fired
    if potentials is None:
        return spikes, membrane, ()
    return spikes, membrane, (potentials, start, *acting) if inputs else (potentials,)


def step(x: Tensor, membrane: Tensor, p: LIFParameters) -> tuple[Tensor, Tensor, Tensor]:
    """One step of the recursion that `LIFParameters` states, on tensors of one shape [B, ...].

    Returns:
        The potential u, where the units fire (bool), and the membrane after the reset.
    """
    u = membrane * p.leak_before + x * p.gain
    fired = _fires(u, p)
    return u, fired, _reset(u, fired, p)


def backward(
    kept: tuple[Tensor, ...],
    grad_spikes: Tensor,
    grad_membrane: Tensor,
    p: LIFParameters,
    grad_counts: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Exact gradient of the surrogate graph, by the closed recursion backwards in time.

    With κ[t] = dv[t]/du[t]: δ[t] = ψ[t] dL/ds[t] + κ[t] dL/dv[t], dL/dv[t-1] = leak_before δ[t],
    dL/dI[t] = gain δ[t]. The constants of the recursion stand beside what they multiply, which
    times the gradient of the left side gives theirs, summed over units and steps.

    Args:
        kept: what `forward` kept.
        grad_spikes: dL/ds [T', B, ...].
        grad_membrane: dL/dv [B, ...] after the last step.
        p: constants of the unit.
        grad_counts: dL/d(counts) [B, ...], the same part of dL/ds at all steps; None for none.

    Returns:
        dL/dI [T', B, ...], dL/dv [B, ...] before the first step, that of the current held then
        [B, ...] (None without a delay), and of trained constants the gradients to
        `LIFParameters.recursion` [6] in double precision, else None.
    """
    potentials, *inputs = kept
    # By the step at which a current acts: with a delay the held one first, and the last at none.
    grad_acting = potentials.new_zeros(len(potentials) + p.delay, *potentials.shape[1:])
    grad_constants = potentials.new_zeros(6, dtype=torch.float64) if p.trained else None
    p = p.fixed()
    for t in reversed(range(len(potentials))):
        u = potentials[t]
        slope = p.surrogate(u - p.threshold)
        above = grad_spikes[t] if grad_counts is None else grad_spikes[t] + grad_counts
        delta = slope * above + _kept_share(u, slope, p) * grad_membrane
        if grad_constants is not None:
            start, *acting = inputs
            v = _reset(potentials[t - 1], _fires(potentials[t - 1], p), p) if t else start
            after = _to_reset(u, slope, above, grad_membrane, p)
            grad_constants += torch.stack([_dot(delta, v), _dot(delta, acting[t]), *after])
        grad_acting[t] = delta * p.gain
        grad_membrane = delta * p.leak_before
    grad_held = grad_acting[0] if p.delay else None
    return grad_acting[p.delay :], grad_membrane, grad_held, grad_constants


def _to_reset(
    u: Tensor, slope: Tensor, grad_spikes: Tensor, grad_membrane: Tensor, p: LIFParameters
) -> list[Tensor]:
    """What a step gives to leak_after, scale_fired, offset_fired and threshold."""
    fired = _fires(u, p).to(u.dtype)
    above = grad_spikes
    if not p.detach_reset:
        above = above - grad_membrane * (u * (p.leak_after - p.scale_fired) - p.offset_fired)
    unfired, reset = grad_membrane * (1 - fired), grad_membrane * fired
    return [_dot(unfired, u), _dot(reset, u), _dot(reset, fired), -_dot(slope, above)]


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x.double() * y.double()).sum()


def _fires(u: Tensor, p: LIFParameters) -> Tensor:
    return u >= p.threshold if p.fires_at_threshold else u > p.threshold


def _reset(u: Tensor, fired: Tensor, p: LIFParameters) -> Tensor:
    return torch.where(fired, u * p.scale_fired + p.offset_fired, u * p.leak_after)


def _kept_share(u: Tensor, slope: Tensor, p: LIFParameters) -> Tensor:
    """κ = dv/du: that of the branch taken, less the spike's slope times the jump between both."""
    passed = torch.full_like(u, p.leak_after).masked_fill(_fires(u, p), p.scale_fired)
    if p.detach_reset:
        return passed
    return passed - slope * (u * (p.leak_after - p.scale_fired) - p.offset_fired)
