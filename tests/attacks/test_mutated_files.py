"""Files with any bytes changed or cut off: a clear error or a value, never another exception."""

import struct

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from snnrun import checkpoint
from snnrun.data.idx import read_idx
from snnrun.errors import DataError, UserError

BOUNDED = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
IDX = struct.pack(">4I", 0x803, 3, 4, 4) + bytes(range(48))
CHANGES = st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=4)


def mutated(whole: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    raw = bytearray(whole)
    for place, value in changes:
        raw[place % len(raw)] = value
    return bytes(raw[: len(raw) - cut % (len(raw) + 1)])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Bytes of a checkpoint."""
    path = tmp_path_factory.mktemp("saved") / "last.pt"
    checkpoint.save(path, {"net": {"w": torch.arange(64.0)}, "epoch": 2, "pending": [(1, {})]})
    return path.read_bytes()


@BOUNDED
@given(changes=CHANGES, cut=st.just(0) | st.integers(0, 2**20))
@example(changes=[], cut=0)
def test_idx_file(tmp_path, changes, cut):
    path = tmp_path / "images"
    path.write_bytes(mutated(IDX, changes, cut))
    try:
        values, _ = read_idx(path, dims=3, where="mnist/train")
    except DataError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert values.numel() == 48 - cut % (len(IDX) + 1)


@BOUNDED
@given(changes=CHANGES, cut=st.just(0) | st.integers(0, 2**20))
@example(changes=[], cut=0)
def test_checkpoint(tmp_path, saved, changes, cut):
    path = tmp_path / "last.pt"
    path.write_bytes(mutated(saved, changes, cut))
    try:
        state = checkpoint.load(path)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert torch.equal(state.pop("net")["w"], torch.arange(64.0))
        assert state == {"epoch": 2, "pending": [(1, {})]}
