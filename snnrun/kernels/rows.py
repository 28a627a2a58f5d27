"""Rows of compiled kernels in and out of bfloat16, which neither numpy nor numba has."""

import numpy as np
import torch
from torch import Tensor

from snnrun.kernels.slopes import compiled

BFLOAT16_ONE = 0x3F80  # the bits of 1


def memory(x: Tensor) -> np.ndarray:
    """The tensor's own memory; bfloat16, which numpy does not have, as its 16 bits."""
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()


@compiled
def load(row: np.ndarray, x: np.ndarray) -> None:
    """Read a row into x [n], widening bfloat16."""
    if row.itemsize == 2:
        for j in range(x.size):
            x[j] = np.uint32(np.uint32(row[j]) << np.uint32(16)).view(np.float32)
    else:
        for j in range(x.size):
            x[j] = row[j]


@compiled
def store(x: np.ndarray, row: np.ndarray) -> None:
    """Write x [n] to a row, rounding to the nearest bfloat16, to even of two."""
    if row.itemsize == 2:
        for j in range(x.size):
            bits = np.float32(x[j]).view(np.uint32)
            odd = (bits >> np.uint32(16)) & np.uint32(1)
            row[j] = np.uint32(bits + odd + np.uint32(0x7FFF)) >> np.uint32(16)
    else:
        for j in range(x.size):
            row[j] = x[j]
