"""Who chooses the plan of computing: the user, else a short probe, kept in the user's cache.

A choice that changes numbers is made only if its error is bounded; fp64 runs keep torch's own
products and layout.
"""

import hashlib
import json
import logging
import platform
import tempfile
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch

from snnrun.data.places import cache_home
from snnrun.errors import choice
from snnrun.plan import CHOICES, Plan

log = logging.getLogger(__name__)

VERSION = 5  # of the probe: raise it when plans kept in caches should be made anew


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

    def plan(self, device: torch.device, precision: str) -> Plan:
        """The plan for runs on this device and of this precision (hardware.precision)."""
        probed = Plan()
        if self.probe and device.type == "cpu":
            probed = _kept(torch.get_num_threads(), bf16=precision == "bf16")
            if precision == "fp64":
                probed = Plan(allocator=probed.allocator, sequences=probed.sequences)
        asked = {key: getattr(self, key) for key in CHOICES}
        plan = replace(probed, **{k: v for k, v in asked.items() if v is not None})
        same = (plan.products, plan.zeros) == (probed.products, probed.zeros)
        return plan if same else replace(plan, error=0.0)


@cache
def _kept(threads: int, *, bf16: bool) -> Plan:
    """The plan of this machine from the user's cache, else probed and kept for next time."""
    machine = (platform.node(), platform.machine(), torch.backends.cpu.get_cpu_capability())
    parts = (VERSION, torch.__version__, *machine, threads, bf16)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    path = cache_home() / "plans" / f"{key}.json"
    try:
        return Plan(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        pass  # not there yet, or not readable: probed again
    from snnrun.probe import probe  # imports the compiler

    plan = probe(bf16=bf16)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:  # to appear whole
            whole = Path(scratch) / path.name
            whole.write_text(json.dumps(asdict(plan)))
            whole.replace(path)
    except OSError as error:
        log.info("the plan of this machine could not be kept in %s: %s", path, error)
    return plan
