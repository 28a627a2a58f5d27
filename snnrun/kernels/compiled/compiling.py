"""Where compiled code pays: imported by those who choose, without importing the compiler."""

import torch
from torch import Tensor

COMPILED_FROM = 2**14  # elements; below, torch takes well under a millisecond


def compiles(x: Tensor, *dtypes: torch.dtype) -> bool:
    """Whether a kernel for the CPU takes ``x``: large, of such a type, dense in its own layout."""
    return (
        x.device.type == "cpu"
        and x.numel() >= COMPILED_FROM
        and x.dtype in dtypes
        and (
            x.is_contiguous()
            or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
        )
    )


def computed_in(x: Tensor) -> torch.dtype:
    """The type in which a product of ``x`` is computed on a CPU: its own, or that of autocast."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
