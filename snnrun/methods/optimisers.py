"""torch's optimisers without their guards against ``torch.compile``.

The guards import the compiler at the first call, which takes a second. snnrun compiles nothing by
torch, so a run need not wait for it before its first step.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.optim import Optimizer

GUARDED = ("add_param_group", "zero_grad", "step", "state_dict", "load_state_dict")

Kind = TypeVar("Kind", bound=Optimizer)


def unguarded(kind: type[Kind]) -> type[Kind]:
    """The same optimiser whose methods are those that torch decorates, under ``no_grad``."""
    methods = {name: _plain(getattr(kind, name)) for name in GUARDED}
    return type(kind.__name__, (kind,), methods)


def _plain(method: Callable[..., Any]) -> Callable[..., Any]:
    return torch.no_grad()(inspect.unwrap(method))


SGD = unguarded(torch.optim.SGD)
Adam = unguarded(torch.optim.Adam)
