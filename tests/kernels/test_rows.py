"""Memory of compiled kernels."""

import pytest
import torch

from snnrun.kernels.compiled.rows import LINE, empty


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(3, 5, 7), (1,), (0, 4), ()])
def test_new_memory_is_of_the_shape_asked_for_and_aligned(shape, dtype):
    x = empty(shape, dtype)
    assert (x.shape, x.dtype, x.is_contiguous()) == (shape, dtype, True)
    assert x.data_ptr() % LINE == 0
    x.fill_(2)
    assert x.sum() == 2 * x.numel()
