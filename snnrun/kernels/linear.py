"""Fully connected ops: a product of all values, or rows of weights added up where a unit fired."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from snnrun.kernels.compiling import compiles

LEAST_ROWS = 512  # of inputs: laying out the weights takes as long as some hundred of them
LEAST_PRODUCTS = 2**26  # of which a product of all values is done in a quarter of a millisecond
_skips = False


def skip_zeros(skip: bool) -> None:
    """Whether `linear` looks for spikes, in this process, from now on."""
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

    If asked to by `skip_zeros`, spikes (values of 0 and 1 in fp32, on a CPU) are not multiplied
    where few of them are 1. The result is the same up to the order in which sums are taken.
    """
    if not (_skips and _suits(x, weight)):
        return F.linear(x, weight, bias)
    from snnrun.kernels.spike_product import spike_linear  # imports the compiler

    return spike_linear(x, weight, bias)


def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """``grad.T @ x`` [N, K], the gradient of `linear` to its weights, for ``grad`` [R, N]."""
    if not (_skips and _suits(x, grad.t())):
        return grad.t() @ x
    from snnrun.kernels.spike_product import spike_weight_gradient

    return spike_weight_gradient(x, grad)


def _suits(x: Tensor, weight: Tensor) -> bool:
    return (
        compiles(x, torch.float32)
        and weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and len(x) >= LEAST_ROWS
        and x.numel() * len(weight) >= LEAST_PRODUCTS
    )
