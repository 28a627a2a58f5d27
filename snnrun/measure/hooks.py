"""What the meters share: watching every module of one kind in a net while it runs."""

from abc import ABC, abstractmethod
from functools import partial
from typing import Self

from torch import Tensor, nn


class Meter(ABC):
    """Context manager with a forward hook on every module of ``kind``; counts while it is open.

    Counts stay on the device and accumulate over all batches, whatever their size; nothing waits
    for the device before the caller asks for the result.

    Args:
        net: the plain spiking form.
        kind: class of the modules to watch.
    """

    def __init__(self, net: nn.Module, kind: type[nn.Module]):
        self.parts = {name: m for name, m in net.named_modules() if isinstance(m, kind)}

    @abstractmethod
    def see(self, name: str, part: nn.Module, x: Tensor, output: Tensor) -> None:
        """Count one call of ``part``: chunk ``x`` [T', B, ...] in, ``output`` [T', B, ...] out."""

    def __enter__(self) -> Self:
        self.handles = [
            part.register_forward_hook(partial(self._hook, name))
            for name, part in self.parts.items()
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _hook(self, name: str, part: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self.see(name, part, args[0].detach(), output.detach())
