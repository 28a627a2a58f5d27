"""Lists of the ones among some values."""

import numpy as np
import pytest

from snnrun.kernels.products.listing import AT_ONCE, LONGEST, list_ones

ONE = {np.uint16: 0x3F80, np.uint32: 0x3F800000}


def spikes(n, dtype, rate=0.3):
    return (np.random.default_rng(0).random(n) < rate).astype(dtype) * dtype(ONE[dtype])


@pytest.mark.parametrize("dtype", ONE)
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("n", [0, 1, AT_ONCE - 1, AT_ONCE, 5 * AT_ONCE + 3, LONGEST])
def test_places_of_ones_are_listed_and_nothing_behind_them_is_touched(n, rate, dtype):
    bits = spikes(3 + n + AT_ONCE, dtype, rate)
    found = np.full(2 + n + 1, 99, np.uint8)
    end, binary = list_ones(bits, dtype(ONE[dtype]), 3, n, found, 2)
    assert binary
    assert found[2:end].tolist() == np.flatnonzero(bits[3 : 3 + n]).tolist()
    assert found[[0, 1, -1]].tolist() == [99, 99, 99]


@pytest.mark.parametrize("dtype", ONE)
@pytest.mark.parametrize("place", range(2 * AT_ONCE + 1))
def test_another_value_is_seen_wherever_it_is(place, dtype):
    bits = spikes(2 * AT_ONCE + 1, dtype)
    bits[place] = ONE[dtype] + 1
    found = np.empty(len(bits), np.uint8)
    assert not list_ones(bits, dtype(ONE[dtype]), 0, len(bits), found, 0)[1]
