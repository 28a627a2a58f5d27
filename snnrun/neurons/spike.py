"""The spike step for neurons that are written as plain torch, one step at a time."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snnrun.neurons.surrogate import Surrogate


class _Spike(torch.autograd.Function):
    """Θ(x) forward, the surrogate's slope backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: Surrogate, fires_at_zero: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return (x >= 0 if fires_at_zero else x > 0).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return grad * ctx.surrogate(x), None, None


def spike(x: Tensor, surrogate: Surrogate, *, fires_at_zero: bool) -> Tensor:
    """Spikes, 0 or 1, for the distances ``x`` = u - θ from the threshold, of any shape."""
    return _Spike.apply(x, surrogate, fires_at_zero)
