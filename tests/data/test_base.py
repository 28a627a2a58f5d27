from dataclasses import dataclass

import pytest
import torch

from snnrun.data.base import Dataset, held_out
from snnrun.errors import ConfigError, DataError

CPU = torch.device("cpu")


@dataclass(kw_only=True)
class Given(Dataset):
    """What a user's own source amounts to."""

    @property
    def classes(self) -> int:
        return 2

    @property
    def shape(self) -> tuple[int, int, int]:
        return 1, 2, 2

    def read(self, split, timesteps):
        images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
        labels = {"train": [0, 1, 0, 1], "test": [0, 1, 7]}[split]
        return images[: len(labels)], torch.tensor(labels)


@pytest.fixture
def given(dataset):
    spec = vars(dataset("digits"))
    return Given(**{key: spec[key] for key in Given.__dataclass_fields__})


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_held_out_part_has_the_same_share_of_every_class(fraction):
    labels = torch.tensor([0] * 400 + [1] * 200 + [2] * 40)
    counts = labels[held_out(labels, fraction, seed=0)].bincount()
    assert counts.tolist() == [400 * fraction, 200 * fraction, 40 * fraction]


def test_held_out_is_seeded_ascending_and_without_repetition():
    labels = torch.arange(100) % 7
    a, again, b = (held_out(labels, 0.3, seed) for seed in (0, 0, 1))
    assert torch.equal(a, again)
    assert not torch.equal(a, b)
    assert a.tolist() == sorted(set(a.tolist()))
    assert len(a) == 30


def test_held_out_of_nothing_is_empty_and_of_little_is_one():
    labels = torch.tensor([0, 1, 2])
    assert len(held_out(labels, 0.0, seed=0)) == 0
    assert len(held_out(labels, 0.01, seed=0)) == 1


def test_training_and_validation_parts_are_disjoint_and_complete(dataset):
    parts = dataset("synthetic").load(0, CPU, 4)
    whole = dataset("synthetic", validation=0.0).load(0, CPU, 4).train
    rows = torch.cat([parts.train.images, parts.validation.images]).flatten(1).tolist()
    assert sorted(rows) == sorted(whole.images.flatten(1).tolist())


def test_all_parts_share_the_statistics_of_the_training_set(dataset):
    a, b = (dataset("synthetic").load(seed, CPU, 4) for seed in (0, 1))
    assert torch.equal(a.train.mean, b.train.mean)
    assert torch.equal(a.train.mean, a.test.mean)
    assert torch.equal(a.validation.std, a.test.std)


def test_label_out_of_range_is_named_with_its_index(given):
    with pytest.raises(DataError, match="digits/test: label 7 at index 2, classes 0-1"):
        given.find()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": 1.0}, r"validation: 1.0 is not in \[0, 1\)"),
        ({"batch_size": 0}, "batch_size: 0 is not 1 or more"),
        ({"epochs": 0}, "epochs: 0 is not 1 or more"),
        ({"limit": 0}, "limit: 0 is not 1 or more"),
        ({"encoding": {"name": "morse"}}, "encoding.name: 'morse' is not one of direct"),
    ],
)
def test_wrong_values_are_named(dataset, changes, message):
    with pytest.raises(ConfigError, match=message):
        dataset("digits", **changes)
