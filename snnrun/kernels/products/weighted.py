"""Weighted ops: all products, or rows of weights added up where a unit fired."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnrun.kernels.compiled.compiling import compiles, computed_in

LEAST_ROWS = 512  # of inputs: laying out the weights takes as long as some hundred of them
LEAST_PRODUCTS = 2**26  # of which all are done in a quarter of a millisecond
# By the type of the product: all of it takes half as long in bfloat16, listing the ones does not.
LEAST_OUTPUTS = {torch.float32: 1, torch.bfloat16: 256}
LEAST_CHANNELS = {torch.float32: 64, torch.bfloat16: 128}  # into a convolution: or lists are short
_skips = False


def skip_zeros(skip: bool) -> None:
    """Whether the ops look for spikes, in this process, from now on."""
    global _skips
    _skips = skip


@contextmanager
def skips_zeros(skip: bool) -> Iterator[None]:
    """`skip_zeros` for a while."""
    before = _skips
    skip_zeros(skip)
    try:
        yield
    finally:
        skip_zeros(before)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias`` for inputs [R, K], weights [N, K] and biases [N].

    If asked to by `skip_zeros`, spikes (values of 0 and 1, on a CPU) are not multiplied where few
    of them are 1. The result is the same up to the order in which sums are taken. Where autocast
    asks for bfloat16 the weights are added up in fp32 nevertheless, and the sums are rounded.
    """
    if not (
        _suits(x, weight)
        and len(weight) >= LEAST_OUTPUTS[computed_in(weight)]
        and _pays(len(x), x.numel() * len(weight))
    ):
        return F.linear(x, weight, bias)
    from snnrun.kernels.products.spike_linear import spike_linear  # imports the compiler

    return spike_linear(x, weight, bias)


def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """``grad.T @ x`` [N, K], the gradient of `linear` to its weights, for ``grad`` [R, N]."""
    if not (
        _suits(x, grad)
        and computed_in(grad) == torch.float32
        and _pays(len(x), x.numel() * grad.shape[1])
    ):
        return grad.t() @ x
    from snnrun.kernels.products.spike_linear import spike_weight_gradient

    return spike_weight_gradient(x, grad)


def conv2d(x: Tensor, op: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution ``op`` with the given weights of maps [N, C, H, W]; zeros as in `linear`.

    They are skipped by a kernel that moves by one, where channels lie innermost.
    """
    if not (_suits(x, weight) and _skippable(op, x, weight)):
        return F.conv2d(x, weight, bias, op.stride, op.padding, op.dilation, op.groups)
    from snnrun.kernels.products.spike_conv import spike_conv2d

    return spike_conv2d(x, weight, bias, cast(tuple[int, int], op.padding))


def _suits(x: Tensor, other: Tensor) -> bool:
    """Whether fp32 values are multiplied by ones that may be spikes, in a type that is known."""
    computed = computed_in(other)
    return (
        _skips
        and computed in LEAST_CHANNELS
        and compiles(x, torch.float32, computed)
        and other.dtype == torch.float32
    )


def _pays(rows: int, products: int) -> bool:
    return rows >= LEAST_ROWS and products >= LEAST_PRODUCTS


def _skippable(op: nn.Conv2d, x: Tensor, weight: Tensor) -> bool:
    return (
        op.groups == 1
        and op.stride == op.dilation == (1, 1)
        and not isinstance(op.padding, str)
        and op.in_channels >= LEAST_CHANNELS[computed_in(weight)]
        and all(t.is_contiguous(memory_format=torch.channels_last) for t in (x, weight))
        and _pays(x.numel() // op.in_channels, x.numel() * weight[:, 0].numel())
    )
