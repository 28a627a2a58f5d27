"""How a run computes on this machine: chosen once by a short probe, kept in the user's cache.

Five choices, all of the CPU: how float32 products are computed, whether weighted ops skip the
zeros of spikes, how maps lie in memory, whether the allocator hands freed memory back to the system
at every step, and whether sequences pass a net in chunks that stay in the cache. A choice that
changes numbers is made only if its error is bounded; fp64 runs keep torch's own products and
layout.
"""

import ctypes
import hashlib
import json
import logging
import os
import platform
import tempfile
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch

from snnrun.data.places import cache_home
from snnrun.errors import UserError, choice
from snnrun.kernels.weighted import skip_zeros

log = logging.getLogger(__name__)

VERSION = 4  # of the probe: raise it when plans kept in caches should be made anew

CHOICES = {
    "products": ("plain", "onednn"),
    "zeros": ("multiplied", "skipped"),
    "layout": ("contiguous", "channels_last"),
    "allocator": ("return", "keep"),
    "sequences": ("whole", "chunks"),
}
PLAIN = {key: accepted[0] for key, accepted in CHOICES.items()}
PRECISION = {"plain": "highest", "onednn": "medium"}  # of float32 products, in torch's words


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done; the first of `CHOICES` each is what torch does by itself.

    Attributes:
        products: float32 matrix products plain, or by oneDNN (on some CPUs in lower precision).
        zeros: of spikes, in weighted ops: multiplied like other values, or skipped.
        layout: of weights and maps of convolutions.
        allocator: keep freed memory for the next step, or return it to the system.
        sequences: pass a net at once, or in chunks (Network.in_chunks) where the method allows it.
        error: of the chosen products, over their largest value; 0 where they were not probed.
    """

    products: str = "plain"
    zeros: str = "multiplied"
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
        begun = PLAIN | begun  # which may be of a version that knew fewer choices
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
        torch.set_float32_matmul_precision(PRECISION[self.products])
        skip_zeros(self.zeros == "skipped")
        if self.allocator == "keep":
            keep_freed_memory()


@dataclass(kw_only=True)
class Planning:
    """Keys of hardware.plan: ``probe``, or what to do whatever a probe would find; ``show`` it.

    What a run of an earlier version does not name is left to the probe.

    Raises:
        ConfigError: for an unknown value, naming the key.
    """

    probe: bool
    products: str | None = None
    zeros: str | None = None
    layout: str | None = None
    allocator: str | None = None
    sequences: str | None = None
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
    from snnrun.probe import probe  # only where a machine is probed

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
