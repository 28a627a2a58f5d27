"""Average pooling of channels-last maps on the CPU.

torch's backward pass keeps the input, fills the gradient with zeros and adds to it; the gradient
is written once here and nothing is kept.
"""

from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

from snnrun.kernels.rows import memory
from snnrun.kernels.slopes import compiled
from snnrun.kernels.threads import spread


def average(x: Tensor, op: nn.AvgPool2d) -> Tensor:
    """Means of the windows that tile the maps ``x`` [N, C, H, W]: [N, C, H / k, W / k]."""
    return cast(Tensor, _Average.apply(x, op.kernel_size))


class _Average(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: int) -> Tensor:
        ctx.window = window
        return F.avg_pool2d(x, window)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        n, channels, height, width = grad.shape
        window = ctx.window
        out = torch.empty(n, height * window, width * window, channels, dtype=grad.dtype)
        shares = (grad / window**2).permute(0, 2, 3, 1).contiguous()
        means, rows = memory(shares).reshape(n * height, -1), memory(out)
        rows = rows.reshape(n * height, window, -1)
        spread(len(rows), lambda lo, hi: _share(means[lo:hi], rows[lo:hi], channels))
        return out.permute(0, 3, 1, 2), None


@compiled
def _share(means: np.ndarray, rows: np.ndarray, channels: int) -> None:
    """Give each value of means [n, w * C] to its window in rows [n, k, w * k * C]."""
    window = rows.shape[1]
    for i in range(means.shape[0]):
        for y in range(window):
            for place in range(means.shape[1] // channels):
                for x in range(window):
                    to = (place * window + x) * channels
                    for c in range(channels):
                        rows[i, y, to + c] = means[i, place * channels + c]
