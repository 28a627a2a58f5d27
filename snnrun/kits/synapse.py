"""Weighted connections: a linear op with its normalisation, applied to every step of a chunk."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from snnrun.kernels.products.weighted import conv2d, linear
from snnrun.kits.norm import TimeBatchNorm

Op = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


def channels_out(op: Op) -> int:
    """Number of output channels (features) of a weighted op."""
    return op.out_features if isinstance(op, nn.Linear) else op.out_channels


def fan_in(op: Op) -> int:
    """Number of weights that reach one output unit of a weighted op."""
    per_output = op.weight[:, 0] if isinstance(op, nn.ConvTranspose2d) else op.weight[0]
    return per_output.numel()


def apply(op: Op, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The linear map of ``op`` with the given weights on ``x`` [N, ...]."""
    if isinstance(op, nn.Linear):
        return linear(x, weight, bias)
    if isinstance(op, nn.ConvTranspose2d):
        padding = cast(tuple[int, ...], op.padding)  # a transposed op takes no "same"
        return F.conv_transpose2d(
            x, weight, bias, op.stride, padding, op.output_padding, op.groups, op.dilation
        )
    return conv2d(x, op, weight, bias)


def rows(op: Op, x: Tensor) -> Tensor:
    """Time folded into the batch, and features flattened for a linear op: [T' * B, ...]."""
    return x.flatten(2).flatten(0, 1) if isinstance(op, nn.Linear) else x.flatten(0, 1)


def is_static(x: Tensor) -> bool:
    """Whether a chunk [T', ...] is one frame seen T' times (an expanded view)."""
    return x.shape[0] > 1 and x.stride(0) == 0


def repeat(x: Tensor, steps: int) -> Tensor:
    """One frame [1, ...] seen ``steps`` times, as an expanded view."""
    return cast(Tensor, _Repeat.apply(x, steps))


class _Repeat(Function):
    """A gradient that is an expanded view, too, is not read T' times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: int) -> Tensor:
        return x.expand(steps, *x.shape[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if is_static(grad):
            return grad[:1] * len(grad), None
        return grad.sum(0, keepdim=True), None


class Synapse(nn.Module):
    """A weighted op and its normalisation: ``[T', B, ...] -> current [T', B, ...]``.

    A linear op flattens whatever follows the batch dimension. A static chunk passes through once
    and comes back as an expanded view: equal to the unhoisted result, batch statistics included.
    """

    def __init__(
        self, op: Op, *, weight_norm: nn.Module | None = None, norm: TimeBatchNorm | None = None
    ):
        super().__init__()
        self.op = op
        self.weight_norm = weight_norm
        self.norm = norm

    def weights(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in effect, weight-space normalisation applied."""
        weight, bias = self.op.weight, self.op.bias
        if self.weight_norm is None:
            return weight, bias
        if isinstance(self.op, nn.ConvTranspose2d):  # its outputs lie on the second axis
            return self.weight_norm(weight.transpose(0, 1)).transpose(0, 1), bias
        return self.weight_norm(weight), bias

    def forward(self, x: Tensor) -> Tensor:
        """Current [T', B, ...] caused by what arrives, ``x`` [T', B, ...]."""
        steps = x.shape[0]
        repeats = steps if is_static(x) else 1
        x = x[:1] if repeats > 1 else x
        weight, bias = self.weights()
        y = apply(self.op, rows(self.op, x), weight, bias)
        if self.norm is not None:
            y = self.norm(y, repeats)
        y = y.unflatten(0, x.shape[:2])
        return y if repeats == 1 else repeat(y, steps)

    def units(self, x: Tensor) -> int:
        """Number of values of one step's current for inputs ``x`` [T', B, ...], by its shape."""
        if isinstance(self.op, nn.Linear):
            return x.shape[1] * self.op.out_features
        frame = torch.empty(1, *x.shape[2:], device="meta")
        weight = torch.empty_like(self.op.weight, device="meta")
        return x.shape[1] * apply(self.op, frame, weight, None).numel()

    def folded(
        self, statistics: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of one plain op equal to this synapse in evaluation mode.

        Args:
            statistics: mean and variance of a batch norm, its running ones if not given.
        """
        weight, bias = self.weights()
        if self.norm is None:
            return weight, bias
        mean_var = statistics or (self.norm.running_mean, self.norm.running_var)
        factor, offset = self.norm.affine(*mean_var)
        shape = [1] * weight.dim()
        shape[1 if isinstance(self.op, nn.ConvTranspose2d) else 0] = -1
        return weight * factor.view(shape), offset if bias is None else offset + factor * bias
