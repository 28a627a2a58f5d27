"""Leaky integration over time without spikes: readouts and synaptic currents."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def leaky(x: Tensor, start: Tensor, leak: float) -> Tensor:
    """o[t] = leak o[t-1] + x[t] for x [T', ...], with o before the first step ``start`` [...]."""
    return _Leaky.apply(x, start, leak)


class _Leaky(torch.autograd.Function):
    """One graph node for all steps; keeps nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, start: Tensor, leak: float) -> Tensor:
        ctx.leak = leak
        out, before = torch.empty_like(x, memory_format=torch.contiguous_format), start
        for x_t, o_t in zip(x.unbind(), out.unbind(), strict=True):
            before = torch.add(x_t, before, alpha=leak, out=o_t)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad = grad.clone(memory_format=torch.contiguous_format)
        steps = grad.unbind()
        for later, earlier in zip(steps[:0:-1], steps[-2::-1], strict=True):
            earlier.add_(later, alpha=ctx.leak)
        return grad, grad[0] * ctx.leak, None
