"""Batch norm of contiguous maps on the CPU, in training mode, both passes in the order of memory.

torch goes channel by channel there, through one short stretch per sample far from the one before.
Here the map is read from end to end twice, once to sum over it and once to write the result. Sums
are taken in double precision. Maps with their channels innermost are read in order by torch, too.
Everything works on stretches of memory, each of them one sample's part of one channel.
"""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from snnrun.kernels.compiled.machine_code import compiled, summed
from snnrun.kernels.compiled.rows import Place, empty, get, memory, put
from snnrun.kernels.compiled.threads import spread


def batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``weight * (x - mean) / sqrt(var + eps) + bias`` per channel of ``x`` [N, C, ...].

    The maps, of fp32, fp64 or bf16, are contiguous, with 2 or more values per channel; weight and
    bias [C] are of the precision of the maps, or fp32 for bf16.

    Returns:
        What is normalised, the mean and the unbiased variance; the last two take no gradient.
    """
    return cast(tuple[Tensor, Tensor, Tensor], _BatchNorm.apply(x, weight, bias, eps))


class _BatchNorm(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        # In one pass: distances from a channel's first value, which lies among the others.
        first = x.detach().reshape(*x.shape[:2], -1)[0, :, 0].to(weight.dtype)
        distance, squares = _means(x, first, x, first)
        biased = (squares - distance.square()).clamp(min=0)
        n = x.numel() // x.shape[1]
        mean = (first + distance).to(weight.dtype)
        var = (biased * n / (n - 1)).to(weight.dtype)
        scale = (biased + eps).rsqrt().to(weight.dtype)
        out = empty(x.shape, x.dtype)
        _run(_normalise, (x, out), (mean, weight * scale, bias))
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.mark_non_differentiable(mean, var)
        return out, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """With c = x - mean, r the scale and G the gradient above of n values per channel.

        dL/dx = weight r (G - sum(G) / n - c r² G·c / n), dL/dweight = r G·c and dL/dbias = sum(G).
        """
        x, weight, mean, scale = ctx.saved_tensors
        above, out, n = grad.contiguous(), empty(x.shape, x.dtype), x.numel() // x.shape[1]
        share, along = _means(above, torch.zeros_like(mean), x, mean)
        pull = along * scale.square()
        _run(_pass_down, (x, above, out), (mean, weight * scale, share, pull))
        return out, (along * n * scale).to(weight.dtype), (share * n).to(weight.dtype), None


def _means(y: Tensor, y0: Tensor, x: Tensor, x0: Tensor) -> Tensor:
    """Means per channel of y - y0 and of its products with x - x0: [2, C], in double precision."""
    sums = _run(_add, (y, x), (y0, x0))
    return torch.from_numpy(sum(sums)) / (x.numel() // x.shape[1])


def _run(kernel: Any, maps: tuple[Tensor, ...], channels: tuple[Tensor, ...]) -> list[np.ndarray]:
    """Call the kernel on the memory of maps [N, C, ...] and on values [C], range by range."""
    stretches = maps[0].shape[:2].numel()
    values = [memory(t.detach()).reshape(-1) for t in maps]
    of_channels = [t.detach().to(channels[0].dtype).numpy() for t in channels]
    inner = maps[0].numel() // stretches
    return spread(stretches, lambda lo, hi: kernel(*values, *of_channels, inner, lo, hi))


@compiled
def _add(
    y: np.ndarray,
    x: np.ndarray,
    y0: np.ndarray,
    x0: np.ndarray,
    inner: int,
    lo: int,
    hi: int,
) -> np.ndarray:
    sums = np.zeros((2, x0.size))
    for i in range(lo, hi):
        c = i % x0.size
        total, product = _products(y, float(y0[c]), x, float(x0[c]), i * inner, inner)
        sums[0, c] += total
        sums[1, c] += product
    return sums


@compiled
def _normalise(
    x: np.ndarray,
    out: np.ndarray,
    mean: np.ndarray,
    factor: np.ndarray,
    bias: np.ndarray,
    inner: int,
    lo: int,
    hi: int,
) -> None:
    for i in range(lo, hi):
        c = i % mean.size
        _map(x, out, i * inner, inner, mean[c], factor[c], bias[c])


@compiled
def _pass_down(
    x: np.ndarray,
    above: np.ndarray,
    out: np.ndarray,
    mean: np.ndarray,
    factor: np.ndarray,
    share: np.ndarray,
    pull: np.ndarray,
    inner: int,
    lo: int,
    hi: int,
) -> None:
    for i in range(lo, hi):
        c = i % mean.size
        _gradient(x, above, out, i * inner, inner, mean[c], factor[c], share[c], pull[c])


@summed
def _products(
    y: np.ndarray, y0: float, x: np.ndarray, x0: float, at: Place, n: Place
) -> tuple[float, float]:
    """Sums of y - y0 and of its products with x - x0, of n values from ``at`` on."""
    at, n = np.uint64(at), np.uint64(n)
    total, product = 0.0, 0.0
    for j in range(n):
        a = get(y, at + j) - y0
        total += a
        product += a * (get(x, at + j) - x0)
    return total, product


@compiled
def _map(
    x: np.ndarray, out: np.ndarray, at: Place, n: Place, mean: float, factor: float, bias: float
) -> None:
    at, n = np.uint64(at), np.uint64(n)
    for j in range(n):
        put((get(x, at + j) - mean) * factor + bias, out, at + j)


@compiled
def _gradient(
    x: np.ndarray,
    above: np.ndarray,
    out: np.ndarray,
    at: Place,
    n: Place,
    mean: float,
    factor: float,
    share: float,
    pull: float,
) -> None:
    at, n = np.uint64(at), np.uint64(n)
    for j in range(n):
        put((get(above, at + j) - share - (get(x, at + j) - mean) * pull) * factor, out, at + j)
