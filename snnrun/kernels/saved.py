"""What autograd saves for the backward pass on a CPU: as little as comes back exactly."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from snnrun.kernels.compiled.compiling import compiles

_IN_FULL = ContextVar("_IN_FULL", default=False)


@contextmanager
def saved_in_full() -> Iterator[None]:
    """Graphs made here keep whole sequences as they are, on every machine: for who counts them."""
    token = _IN_FULL.set(True)
    try:
        yield
    finally:
        _IN_FULL.reset(token)


def saves_less(x: Tensor) -> bool:
    """Whether the graph of what is computed of ``x`` may be kept in another form."""
    return torch.is_grad_enabled() and x.device.type == "cpu" and not _IN_FULL.get()


def spikes_as_bits(x: Tensor) -> AbstractContextManager[None]:
    """Around what is computed of ``x``: on a CPU its graph keeps spikes in a bit each.

    Not so ``x`` itself, which is there anyway.
    """
    if not saves_less(x):
        return nullcontext()
    return saved_tensors_hooks(partial(_save, _place(x)), _restore)


def _save(there: int, x: Tensor) -> Any:
    if _place(x) == there or not compiles(x, torch.float32, torch.float64, torch.bfloat16):
        return x
    from snnrun.kernels.bits import pack  # imports the compiler

    packed = pack(x)
    return x if packed is None else packed


def _place(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _restore(saved: Any) -> Tensor:
    if isinstance(saved, Tensor):
        return saved
    from snnrun.kernels.bits import unpack

    return unpack(saved)
