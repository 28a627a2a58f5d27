"""What stands between a neuron and the next synapse: parameter-free ops on chunks [T', B, ...]."""

import torch
from torch import Tensor, nn

from snnrun import ranks
from snnrun.kernels.compiled.compiling import compiles


class Between(nn.Module):
    """An op without parameters (pool, upsample, scale), applied to every step of a chunk."""

    def __init__(self, op: nn.Module):
        super().__init__()
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        """Apply the op to each step of ``x`` [T', B, ...]."""
        if isinstance(self.op, nn.AvgPool2d) and _halves(self.op, x):
            from snnrun.kernels.pool import halve  # imports the compiler

            return halve(x)
        return self.op(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _halves(op: nn.AvgPool2d, x: Tensor) -> bool:
    """Whether windows of 2 x 2 without overlap or margin tile large maps on the CPU."""
    return (
        (op.kernel_size, op.stride, op.padding, op.divisor_override) == (2, 2, 0, None)
        and x.shape[-1] % 2 == x.shape[-2] % 2 == 0
        and compiles(
            x if x.is_contiguous() else x.flatten(0, 1),
            *(torch.float32, torch.float64, torch.bfloat16),
        )
    )


class Scale(nn.Module):
    """Multiply by a constant, e.g. the 2.74 that restores unit variance after spiking under sWS."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Scale a tensor of any shape."""
        return x * self.factor

    def extra_repr(self) -> str:
        """Show the factor when the net is printed."""
        return str(self.factor)


class SequenceDropout(nn.Module):
    """Dropout whose mask is drawn once per sequence and shared by all its steps and stages."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p
        self.mask: Tensor | None = None

    def reset(self) -> None:
        """Forget the mask: the next chunk begins a new sequence."""
        self.mask = None

    def forward(self, x: Tensor) -> Tensor:
        """Mask a chunk [T', B, ...]; identity in evaluation mode."""
        if not self.training or self.p == 0:
            return x
        if self.mask is None:
            keep = ranks.rand(x[0]) >= self.p
            self.mask = keep.to(x.dtype) / (1 - self.p)
        return x * self.mask
