"""How a run computes on this machine: five choices, all of the CPU.

How float32 products are computed, whether weighted ops skip the zeros of spikes, how maps lie in
memory, whether the allocator hands freed memory back to the system at every step, and whether
sequences pass a net in chunks that stay in the cache.
"""

import ctypes
import os
from dataclasses import asdict, dataclass

import torch

from snnrun.errors import UserError
from snnrun.kernels.products.weighted import skip_zeros

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


def keep_freed_memory() -> None:
    """Make glibc serve large tensors from a heap it keeps, not from pages mapped afresh.

    A fresh page costs a fault and is zeroed, at every step; nothing happens with other libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
