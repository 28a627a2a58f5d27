"""Handwritten digits, 8 x 8 pixels, bundled in scikit-learn (UCI optical recognition test set)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from snnrun.data.base import Dataset
from snnrun.errors import choice

TRAINING_SAMPLES = 1347
TEST_SAMPLES = 450


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
        from sklearn.datasets import load_digits

        bundle = load_digits()
        index = self._index(bundle.target, split)
        images = torch.from_numpy(bundle.images[index].astype(np.uint8))
        return images.unsqueeze(1), torch.from_numpy(bundle.target[index].astype(np.int64))

    def _index(self, labels: np.ndarray, split: str) -> np.ndarray:
        from sklearn.model_selection import train_test_split

        every = np.arange(len(labels))
        if self.split == "sequential":
            train, test = every[:TRAINING_SAMPLES], every[TRAINING_SAMPLES:]
        else:
            train, test = train_test_split(
                every, test_size=TEST_SAMPLES, random_state=0, stratify=labels
            )
        return train if split == "train" else test
