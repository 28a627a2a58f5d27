"""How a run computes on this machine: chosen once by a short probe, kept in the user's cache.

Four choices, all of the CPU: how float32 matrix products are computed, how maps lie in memory,
whether the allocator hands freed memory back to the system at every step, and whether sequences
pass a net in chunks that stay in the cache. A choice that changes numbers is made only if its error
is bounded; fp64 runs keep torch's own products and layout.
"""

import ctypes
import hashlib
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnrun.data.places import cache_home
from snnrun.errors import UserError, choice

log = logging.getLogger(__name__)

VERSION = 3  # of the probe: raise it when plans kept in caches should be made anew
LARGEST_ERROR = 2e-6  # of a float32 product, over its largest value; plain products have 2e-7
GAIN = 1.05  # how much faster products by oneDNN have to be
CLEAR = 1.25  # a lead in time that noise does not make

CHOICES = {
    "products": ("plain", "onednn"),
    "layout": ("contiguous", "channels_last"),
    "allocator": ("return", "keep"),
    "sequences": ("whole", "chunks"),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done; the first of `CHOICES` each is what torch does by itself.

    Attributes:
        products: float32 matrix products plain, or by oneDNN (on some CPUs in lower precision).
        layout: of weights and maps of convolutions.
        allocator: keep freed memory for the next step, or return it to the system.
        sequences: pass a net at once, or in chunks (Network.in_chunks) where the method allows it.
        error: of the chosen products, over their largest value; 0 where they were not probed.
    """

    products: str = "plain"
    layout: str = "contiguous"
    allocator: str = "return"
    sequences: str = "whole"
    error: float = 0.0

    def __str__(self) -> str:
        text = ", ".join(f"{key} {value}" for key, value in self.choices().items())
        return f"{text}; error of products {self.error:.1e}" if self.error else text

    def tags(self) -> dict[str, str]:
        """For the tracking store."""
        return {f"plan.{key}": f"{value}" for key, value in asdict(self).items()}

    def choices(self) -> dict[str, str]:
        """What was chosen, by key of hardware.plan."""
        return {key: getattr(self, key) for key in CHOICES}

    def check_continues(self, begun: dict[str, str]) -> None:
        """Refuse to continue a run under another plan: its numbers would differ.

        Raises:
            UserError: telling how to continue.
        """
        differing = [key for key in CHOICES if begun[key] != getattr(self, key)]
        if differing:
            keys = " ".join(f"hardware.plan.{key}={begun[key]}" for key in differing)
            raise UserError(f"the run began under another plan of computing; add {keys}")

    def memory_format(self) -> torch.memory_format:
        """Of four-dimensional weights."""
        last = self.layout == "channels_last"
        return torch.channels_last if last else torch.contiguous_format

    def prepare(self) -> None:
        """Set what is global to the process."""
        precision = "medium" if self.products == "onednn" else "highest"
        torch.set_float32_matmul_precision(precision)
        if self.allocator == "keep":
            keep_freed_memory()


@dataclass(kw_only=True)
class Planning:
    """Keys of hardware.plan: ``probe``, or what to do whatever a probe would find; ``show`` it.

    Raises:
        ConfigError: for an unknown value, naming the key.
    """

    probe: bool
    products: str | None
    layout: str | None
    allocator: str | None
    sequences: str | None
    show: bool

    def __post_init__(self) -> None:
        for key, accepted in CHOICES.items():
            if getattr(self, key) is not None:
                choice(f"plan.{key}", getattr(self, key), accepted)

    def plan(self, device: torch.device, dtype: torch.dtype) -> Plan:
        """The plan for runs on this device and with weights of this type."""
        probed = Plan()
        if self.probe and device.type == "cpu":
            probed = _kept(torch.get_num_threads())
            if dtype != torch.float32:
                probed = Plan(allocator=probed.allocator, sequences=probed.sequences)
        asked = {key: getattr(self, key) for key in CHOICES}
        plan = replace(probed, **{k: v for k, v in asked.items() if v is not None})
        return plan if plan.products == probed.products else replace(plan, error=0.0)


def keep_freed_memory() -> None:
    """Make glibc serve large tensors from a heap it keeps, not from pages mapped afresh.

    A fresh page costs a fault and is zeroed, at every step; nothing happens with other libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


@cache
def _kept(threads: int) -> Plan:
    """The plan of this machine from the user's cache, else probed and kept for next time."""
    capability = torch.backends.cpu.get_cpu_capability()
    parts = (VERSION, torch.__version__, platform.node(), platform.machine(), capability, threads)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    path = cache_home() / "plans" / f"{key}.json"
    try:
        return Plan(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        pass  # not there yet, or not readable: probed again
    plan = probe()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:  # to appear whole
            whole = Path(scratch) / path.name
            whole.write_text(json.dumps(asdict(plan)))
            whole.replace(path)
    except OSError as error:
        log.info("the plan of this machine could not be kept in %s: %s", path, error)
    return plan


def probe() -> Plan:
    """Measure on small products and maps what is faster here, within the bounds on error."""
    before = torch.get_float32_matmul_precision()
    state = torch.get_rng_state()
    try:
        torch.manual_seed(0)
        products, error = _probe_products()
        layout = _probe_layout()
    finally:
        torch.set_float32_matmul_precision(before)
        torch.set_rng_state(state)
    glibc = platform.libc_ver()[0] == "glibc"
    allocator = "keep" if glibc else "return"
    return Plan(
        products=products, layout=layout, allocator=allocator, sequences="chunks", error=error
    )


def _probe_products() -> tuple[str, float]:
    spikes, weight = (torch.rand(512, 768) < 0.2).float(), torch.randn(768, 512) / 16
    exact = spikes.double() @ weight.double()
    found = {}
    for name, precision in (("plain", "highest"), ("onednn", "medium")):
        torch.set_float32_matmul_precision(precision)
        error = float((spikes @ weight - exact).abs().max() / exact.abs().max())
        found[name] = (_seconds(lambda: spikes @ weight), error)
    plain, onednn = found["plain"], found["onednn"]
    better = onednn[0] * GAIN < plain[0] and onednn[1] <= LARGEST_ERROR
    return ("onednn", onednn[1]) if better else ("plain", plain[1])


def _probe_layout() -> str:
    """Time a convolution, batch norm and pool, forward and backward, in both layouts."""
    from snnrun.kits.between import Between  # only where a machine is probed
    from snnrun.kits.norm import normalised

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
