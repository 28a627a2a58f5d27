"""Short measurements of what is faster on this machine, within bounds on the error."""

import platform
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnrun.kernels.products.ones import DENSEST
from snnrun.kernels.products.weighted import linear, skips_zeros
from snnrun.kits.between import Between
from snnrun.kits.norm import normalised
from snnrun.plan import CHOICES, PRECISION, Plan

LARGEST_ERROR = 2e-6  # of a float32 product, over its largest value; plain products have 2e-7
GAIN = 1.05  # how much faster other products than plain ones have to be
CLEAR = 1.25  # a lead in time that noise does not make


def probe(*, bf16: bool) -> Plan:
    """The plan of what was faster on small products and maps; torch is left as it was.

    Args:
        bf16: whether training steps compute their products in bfloat16.
    """
    before = torch.get_float32_matmul_precision()
    state = torch.get_rng_state()
    try:
        torch.manual_seed(0)
        products, error = _products()
        torch.set_float32_matmul_precision(PRECISION[products])
        zeros, error_skipping = _zeros(torch.bfloat16 if bf16 else torch.float32)
        layout = _layout()
    finally:
        torch.set_float32_matmul_precision(before)
        torch.set_rng_state(state)
    return Plan(
        products=products,
        zeros=zeros,
        layout=layout,
        allocator="keep" if platform.libc_ver()[0] == "glibc" else "return",
        sequences="chunks",
        error=max(error, error_skipping),
    )


def _products() -> tuple[str, float]:
    """Faster float32 matrix products, and their error."""
    spikes, weight = (torch.rand(512, 768) < 0.2).float(), torch.randn(768, 512) / 16
    found = {}
    for name in CHOICES["products"]:
        torch.set_float32_matmul_precision(PRECISION[name])
        error = _error(spikes @ weight, spikes, weight)
        found[name] = (_seconds(lambda: spikes @ weight), error)
    plain, onednn = found["plain"], found["onednn"]
    better = onednn[0] * GAIN < plain[0] and onednn[1] <= LARGEST_ERROR
    return ("onednn", onednn[1]) if better else ("plain", plain[1])


def _zeros(dtype: torch.dtype) -> tuple[str, float]:
    """Whether to skip zeros in products of this type, timed with as few as there may be.

    Also the error of doing so in fp32: where sums are rounded to bfloat16, so are other products.
    """
    spikes = (torch.rand(1024, 640) < 0.95 * DENSEST[dtype]).float()
    weight = (torch.randn(512, 640) / 16).requires_grad_()
    above = torch.randn(1024, 512, dtype=dtype)
    rounded = torch.autocast("cpu", dtype, enabled=dtype != torch.float32, cache_enabled=False)
    step = rounded(lambda x: linear(x, weight, None).backward(above))
    seconds = {}
    for name in CHOICES["zeros"]:
        with skips_zeros(name == "skipped"):
            error = _error(linear(spikes, weight.detach(), None), spikes, weight.detach().t())
            seconds[name] = _seconds(partial(step, spikes.to(dtype)))
    if seconds["skipped"] * GAIN < seconds["multiplied"] and error <= LARGEST_ERROR:
        return "skipped", error
    return "multiplied", 0.0


def _error(product: Tensor, x: Tensor, y: Tensor) -> float:
    exact = x.double() @ y.double()
    return float((product - exact).abs().max() / exact.abs().max())


def _layout() -> str:
    """Time a convolution, batch norm and pool, forward and backward, in both layouts."""
    ones, zeros, pool = torch.ones(32), torch.zeros(32), Between(nn.AvgPool2d(2))

    def block(x: Tensor, weight: Tensor) -> None:
        y, _, _ = normalised(F.conv2d(x, weight, padding=1), ones, zeros, 1e-5)
        pool(y.unsqueeze(0)).sum().backward()

    seconds = {}
    for name in CHOICES["layout"]:
        layout = Plan(layout=name).memory_format()
        x = torch.rand(32, 16, 28, 28).contiguous(memory_format=layout).requires_grad_()
        weight = torch.randn(32, 16, 3, 3).contiguous(memory_format=layout).requires_grad_()
        seconds[name] = _seconds(partial(block, x, weight))
    # Level in single precision they are not in bfloat16, which likes its channels innermost.
    faster = seconds["contiguous"] * CLEAR < seconds["channels_last"]
    return "contiguous" if faster else "channels_last"


def _seconds(work: Callable[[], object]) -> float:
    """Shortest CPU time of five, after one that does not count."""
    work()
    times = []
    for _ in range(5):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)
