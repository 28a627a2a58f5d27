"""A weighted op at one step as one node of the graph, as methods that learn at each step need it.

Bias and weight may learn from something else than what they acted with: the sums over past steps
that leaky units make of it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

from snnrun.kits.synapse import Op, apply, rows


class StepOp(Function):
    """``op`` on [1, B, ...]; the weight's gradient is taken on the trace of the input, if any."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        trace: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        op: Op,
        spans: tuple[float, float],
    ) -> Tensor:
        """Current [1, B, ...] of ``x`` [1, B, ...].

        Args:
            ctx: of this node.
            x: what arrives.
            trace: what the weight learns from, of the shape of ``x`` and without a graph; None for
                ``x`` itself.
            weight: weight in effect.
            bias: bias, if any.
            op: the linear map.
            spans: factors on the bias and on its gradient.
        """
        ctx.save_for_backward(x if trace is None else None, weight)
        ctx.trace = trace  # kept by its synapse anyway
        ctx.op, ctx.span = op, spans[1]
        y = apply(op, rows(op, x), weight, None if bias is None else _times(bias, *spans))
        return y.unflatten(0, x.shape[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Input gradient by the transposed op, weight gradient with the trace."""
        x, weight = ctx.saved_tensors
        x = ctx.trace if x is None else x
        wanted = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
        above = grad.flatten(0, 1)
        to_x, to_weight, to_bias = _backward(ctx.op, above, rows(ctx.op, x), weight, wanted)
        if to_x is not None:
            to_x = to_x.view(x.shape)
        if to_bias is not None and ctx.span != 1:
            to_bias = to_bias * ctx.span
        return to_x, None, to_weight, to_bias, None, None


def _times(bias: Tensor, span: float, of_gradient: float) -> Tensor:
    """The bias ``span`` times, added up as autograd would for such a gradient."""
    if span == 1:
        return bias
    return bias * span if of_gradient == span else bias + (span - 1) * bias


def _backward(
    op: Op, grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias of ``op`` at the input ``x``, where wanted."""
    if isinstance(op, nn.Linear):
        return (
            grad @ weight if wanted[0] else None,
            grad.t() @ x if wanted[1] else None,
            grad.sum(0) if wanted[2] else None,
        )
    return torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        [op.out_channels] if wanted[2] else None,
        op.stride,
        op.padding,
        op.dilation,
        isinstance(op, nn.ConvTranspose2d),
        op.output_padding,
        op.groups,
        wanted,
    )
