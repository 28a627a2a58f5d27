"""TorchScript: a program that libtorch and torch run without Python code of the net."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from snnrun.export.program import program


def write(net: nn.Module, x: Tensor, file: Path) -> Tensor:
    """Write ``net`` for as many steps as ``x`` [T, B, ...] has and any batch; the file's outputs.

    Raises:
        ConfigError: for a part that cannot be exported.
    """
    plain = program(net, len(x))
    with warnings.catch_warnings():
        # torch calls TorchScript deprecated for torch.export, whose files libtorch cannot run.
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated")
        traced = torch.jit.trace(plain, x[:, :1], check_trace=False)
        torch.jit.save(traced, file)
        return torch.jit.load(file)(x)
