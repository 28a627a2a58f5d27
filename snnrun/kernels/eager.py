"""Reference kernel in plain torch: readable, any device, any floating type.

The products are rounded one by one (no fused multiply-add), so that a compiled kernel that does
the same gives the same spikes bit by bit.
"""

import torch
from torch import Tensor

from snnrun.kernels.parameters import LIFParameters


def forward(
    current: Tensor, membrane: Tensor, p: LIFParameters, *, keep: bool
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Run T' steps.

    Args:
        current: [T', B, ...].
        membrane: [B, ...] before the first step.
        p: constants of the unit.
        keep: return what `backward` needs.

    Returns:
        Spikes [T', B, ...], the membrane [B, ...] after the last step, and what to keep: the
        potentials u [T', B, ...] at which the units decided to fire.
    """
    spikes = torch.empty(current.shape, dtype=current.dtype, device=current.device)
    potentials = torch.empty_like(spikes) if keep else None
    for t, x in enumerate(current.unbind()):
        u, fired, membrane = step(x, membrane, p)
        spikes[t] = fired
        if potentials is not None:
            potentials[t] = u
    return spikes, membrane, () if potentials is None else (potentials,)


def step(x: Tensor, membrane: Tensor, p: LIFParameters) -> tuple[Tensor, Tensor, Tensor]:
    """One step of the recursion that `LIFParameters` states, on tensors of one shape [B, ...].

    Returns:
        The potential u, where the units fire (bool), and the membrane after the reset.
    """
    u = membrane * p.leak_before + x * p.gain
    fired = _fires(u, p)
    return u, fired, torch.where(fired, u * p.scale_fired + p.offset_fired, u * p.leak_after)


def backward(
    kept: tuple[Tensor, ...], grad_spikes: Tensor, grad_membrane: Tensor, p: LIFParameters
) -> tuple[Tensor, Tensor]:
    """Exact gradient of the surrogate graph, by the closed recursion backwards in time.

    With κ[t] = dv[t]/du[t]: δ[t] = ψ[t] dL/ds[t] + κ[t] dL/dv[t], dL/dv[t-1] = leak_before δ[t],
    dL/dI[t] = gain δ[t].

    Args:
        kept: what `forward` kept.
        grad_spikes: dL/ds [T', B, ...].
        grad_membrane: dL/dv [B, ...] after the last step.
        p: constants of the unit.

    Returns:
        dL/dI [T', B, ...] and dL/dv [B, ...] before the first step.
    """
    (potentials,) = kept
    grad_current = torch.empty_like(potentials)
    for t in reversed(range(len(potentials))):
        u = potentials[t]
        slope = p.surrogate(u - p.threshold)
        delta = slope * grad_spikes[t] + _kept_share(u, slope, p) * grad_membrane
        grad_current[t] = delta * p.gain
        grad_membrane = delta * p.leak_before
    return grad_current, grad_membrane


def _fires(u: Tensor, p: LIFParameters) -> Tensor:
    return u >= p.threshold if p.fires_at_threshold else u > p.threshold


def _kept_share(u: Tensor, slope: Tensor, p: LIFParameters) -> Tensor:
    """κ = dv/du: that of the branch taken, less the spike's slope times the jump between both."""
    passed = torch.full_like(u, p.leak_after).masked_fill(_fires(u, p), p.scale_fired)
    if p.detach_reset:
        return passed
    return passed - slope * (u * (p.leak_after - p.scale_fired) - p.offset_fired)
