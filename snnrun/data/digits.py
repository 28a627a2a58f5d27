"""Handwritten digits, 8 x 8 pixels, bundled in scikit-learn (UCI optical recognition test set)."""

import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from snnrun.data.base import Dataset
from snnrun.errors import DataError, choice

TRAINING_SAMPLES = 1347
TEST_SAMPLES = 450
SHA256 = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"  # decompressed
REMEDY = "fix: install scikit-learn again"


@dataclass(kw_only=True)
class Digits(Dataset):
    """1797 grey images with values 0..16.

    `split` is `stratified` (class-balanced, the same for every seed) or `sequential` (the last 450
    samples are the test: other writers, so harder).
    """

    split: str

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("split", self.split, ("stratified", "sequential"))

    @property
    def classes(self) -> int:
        """Digits 0 to 9."""
        return 10

    @property
    def shape(self) -> tuple[int, int, int]:
        """One grey channel."""
        return 1, 8, 8

    @property
    def peak(self) -> int:
        """Pixels count the set dots of a 4 x 4 block."""
        return 16

    def read(self, split: str, timesteps: int) -> tuple[Tensor, Tensor]:
        """Images [N,1,8,8] and labels [N] of one split."""
        table = _bundled()
        train, test = self._indices(table[:, -1])
        chosen = table[train if split == "train" else test]
        images = torch.from_numpy(chosen[:, :-1].astype(np.uint8))
        return images.view(-1, *self.shape), torch.from_numpy(chosen[:, -1].astype(np.int64))

    def _indices(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.split == "stratified":
            return stratified(labels)
        every = np.arange(len(labels))
        return every[:TRAINING_SAMPLES], every[TRAINING_SAMPLES:]


def _bundled() -> np.ndarray:
    """Rows of 64 pixels and a label; importing scikit-learn for them takes a second.

    Raises:
        DataError: scikit-learn is not there, or its file is not the known one.
    """
    found = find_spec("sklearn")
    places = (found and found.submodule_search_locations) or []
    if not places:
        raise DataError("digits: scikit-learn, which bundles them, is not installed")
    path = Path(places[0]) / "datasets" / "data" / "digits.csv.gz"
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"digits: cannot read {path} ({error}); {REMEDY}") from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise DataError(f"digits: {path} is not the published file; {REMEDY}")
    return np.loadtxt(io.BytesIO(content), delimiter=",", dtype=np.int64)


def stratified(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Training and test indices as scikit-learn's ``train_test_split`` draws them, in its order.

    Of ``test_size=450, random_state=0, stratify=labels``.
    """
    draws = np.random.RandomState(0)
    counts = np.bincount(labels)
    train_counts = _shares(counts, TRAINING_SAMPLES, draws)
    test_counts = _shares(counts - train_counts, TEST_SAMPLES, draws)
    members = np.split(labels.argsort(kind="stable"), counts.cumsum()[:-1])
    train, test = [], []
    for own, first, then in zip(members, train_counts, test_counts, strict=True):
        shuffled = own[draws.permutation(len(own))]
        train.append(shuffled[:first])
        test.append(shuffled[first : first + then])
    return draws.permutation(np.concatenate(train)), draws.permutation(np.concatenate(test))


def _shares(counts: np.ndarray, total: int, draws: np.random.RandomState) -> np.ndarray:
    """Split `total` in proportion to `counts`: rounded down, then up by remainder, ties by lot."""
    exact = counts / counts.sum() * total
    shares = np.floor(exact)
    remainder = exact - shares
    for value in np.unique(remainder)[::-1]:
        missing = int(total - shares.sum())
        if missing <= 0:
            break
        tied = np.flatnonzero(remainder == value)
        shares[draws.choice(tied, size=min(len(tied), missing), replace=False)] += 1
    return shares.astype(int)
