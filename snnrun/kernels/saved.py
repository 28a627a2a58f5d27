"""What autograd saves for the backward pass, on its way there and back."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


class Hooks(NamedTuple):
    """What becomes of a tensor when it is saved, and how it comes back."""

    pack: Callable[[Tensor], Any]
    unpack: Callable[[Any], Tensor]


_NONE = Hooks(lambda x: x, lambda x: x)
_ACTIVE = ContextVar("_ACTIVE", default=_NONE)


@contextmanager
def saved_through(make: Callable[[Hooks], Hooks]) -> Iterator[None]:
    """Save by the hooks ``make(outer)``, given those around them, which torch would leave out."""
    hooks = make(_ACTIVE.get())
    token = _ACTIVE.set(hooks)
    try:
        with saved_tensors_hooks(*hooks):
            yield
    finally:
        _ACTIVE.reset(token)


def spikes_as_bits(x: Tensor) -> AbstractContextManager[None]:
    """Around what is computed of ``x``: on a CPU its graph keeps spikes in a bit each, exactly."""
    if torch.is_grad_enabled() and x.device.type == "cpu":
        return saved_through(_as_bits)
    return nullcontext()


def _as_bits(outer: Hooks) -> Hooks:
    from snnrun.kernels.bits import Packed, pack, unpack  # imports the compiler

    def save(x: Tensor) -> Any:
        packed = pack(x)
        return outer.pack(x) if packed is None else packed._replace(bits=outer.pack(packed.bits))

    def restore(saved: Any) -> Tensor:
        if not isinstance(saved, Packed):
            return outer.unpack(saved)
        return unpack(saved._replace(bits=outer.unpack(saved.bits)))

    return Hooks(save, restore)
