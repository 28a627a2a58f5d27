"""Memory: what a training step keeps for its backward pass, and the peaks a process reaches."""

import ctypes
import logging
import sys
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from snnrun.kernels.saved import saved_in_full

log = logging.getLogger(__name__)

MIB = 2**20
PROC = Path("/proc/self")


class Kept:
    """A tensor in autograd's keeping; autograd drops it when the graph's node is freed."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


class SavedBytes:
    """Ledger of the storages autograd keeps; ``peak_bytes`` is the most it held at one time."""

    def __init__(self, resident: Iterable[Tensor]):
        self.resident = {_key(tensor) for tensor in resident}
        self.holders: dict[int, int] = {}  # kept storage -> graph nodes that need it
        self.bytes = 0
        self.peak_bytes = 0

    def metrics(self, kept_bytes: int = 0) -> dict[str, float]:
        """The peak in MiB, with the bytes the method keeps itself (StepOutput.kept_bytes) added."""
        return {"memory/saved_for_backward_mib": (self.peak_bytes + kept_bytes) / MIB}

    def pack(self, tensor: Tensor) -> Kept:
        """Take a tensor into the books."""
        kept = Kept(tensor)
        key, size = _key(tensor), tensor.untyped_storage().nbytes()
        if key not in self.resident:
            self.bytes += 0 if key in self.holders else size
            self.holders[key] = self.holders.get(key, 0) + 1
            self.peak_bytes = max(self.peak_bytes, self.bytes)
            weakref.finalize(kept, self._release, key, size)
        return kept

    def unpack(self, kept: Kept) -> Tensor:
        """The tensor as it was; it stays in the books until autograd drops ``kept``."""
        return kept.tensor

    def _release(self, key: int, size: int) -> None:
        self.holders[key] -= 1
        if not self.holders[key]:
            del self.holders[key]
            self.bytes -= size


@contextmanager
def saved_for_backward(net: nn.Module, x: Tensor) -> Iterator[SavedBytes]:
    """Count the bytes autograd keeps for backward at any one time.

        with saved_for_backward(net, x) as saved:
            output = method.step(net, update, x, y)
        saved.metrics(output.kept_bytes)

    Each storage counts once, in full and however many views of it are kept, until the last node
    that needs it is freed. So a method that goes backward at every step is charged for one step,
    and one that goes backward at the end for all of them. Parameters, buffers and the input batch
    are not counted: they are there whatever the method. The figure is the same on every machine:
    what steps that are not counted save in another form is saved in full here.

    Args:
        net: the net in training.
        x: the input batch; an encoded or cast copy made by the method does count.
    """
    with counted((*net.parameters(), *net.buffers(), x)) as saved:
        yield saved


@contextmanager
def counted(resident: Iterable[Tensor]) -> Iterator[SavedBytes]:
    """Count what autograd keeps beside the storages of ``resident``."""
    saved = SavedBytes(resident)
    with saved_in_full(), saved_tensors_hooks(saved.pack, saved.unpack):
        yield saved


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def parameters_mib(net: nn.Module) -> float:
    """Size of all parameters of ``net`` in MiB; a shared one counts once."""
    return sum(p.numel() * p.element_size() for p in net.parameters()) / MIB


class PeakMemory:
    """Peak memory of the process on one device, between ``reset`` and ``metrics``.

    On CUDA the peak of the allocated bytes. On the CPU of a Linux machine the high-water mark of
    the resident set (``VmHWM``, reset by writing 5 to ``clear_refs``, proc(5)) minus the resident
    set at the last ``reset``, plus the tensors named there: so neither libraries nor an earlier
    run of the process are charged. Elsewhere the metric is left out, which is logged once.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.baseline = 0
        self.available = True
        try:
            self.reset()
        except (OSError, NotImplementedError) as error:
            self.available = False
            log.warning("peak memory is not measured on this machine: %s", error)

    def reset(self, resident: Iterable[Tensor] = ()) -> None:
        """Forget the peak so far.

        Args:
            resident: what stands in memory throughout and is to be charged (weights, data).
        """
        if not self.available:
            return
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.device.type == "cpu" and sys.platform == "linux":
            _return_free_pages()
            (PROC / "clear_refs").write_text("5")
            sizes = {_key(t): t.untyped_storage().nbytes() for t in resident}
            self.baseline = _status_bytes("VmRSS") - sum(sizes.values())
        else:
            raise NotImplementedError(f"no peak counter for {self.device.type} on {sys.platform}")

    def metrics(self, phase: str) -> dict[str, float]:
        """Peak since ``reset``, ``memory/<phase>_peak_mib``; phase is train or inference."""
        if not self.available:
            return {}
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = _status_bytes("VmHWM") - self.baseline
        return {f"memory/{phase}_peak_mib": peak / MIB}


def _return_free_pages() -> None:
    """Make glibc hand freed heap back, lest pages an earlier phase used count for the next."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status_bytes(field: str) -> int:
    for line in (PROC / "status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{PROC / 'status'} has no {field}")
