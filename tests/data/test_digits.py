import pytest
import torch

from snnrun.errors import ConfigError

CPU = torch.device("cpu")


def test_default_split_has_1347_training_and_450_test_images_of_every_class(dataset):
    splits = dataset("digits", validation=0.0).load(0, CPU, 4)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1347, 0, 450)
    assert splits.train.images.shape == (1347, 1, 8, 8)
    assert splits.train.images.dtype == torch.uint8
    assert splits.train.labels.dtype == torch.int64
    assert splits.test.labels.bincount().tolist() == [45, 46, 44, 46, 45, 46, 45, 45, 43, 45]


def test_test_part_is_independent_of_the_seed_and_validation_is_not(dataset):
    a, b = (dataset("digits").load(seed, CPU, 4) for seed in (0, 1))
    assert torch.equal(a.test.images, b.test.images)
    assert not torch.equal(a.validation.images, b.validation.images)
    assert len(a.validation) == 135


def test_sequential_split_keeps_the_order_of_the_source(dataset):
    from sklearn.datasets import load_digits

    splits = dataset("digits", split="sequential", validation=0.0).load(0, CPU, 4)
    target = torch.from_numpy(load_digits().target)
    assert torch.equal(splits.train.labels, target[:1347])
    assert torch.equal(splits.test.labels, target[1347:])


def test_brightest_pixel_stands_for_one(dataset):
    store = dataset("digits").load(0, CPU, 4).train
    assert int(store.images.max()) == store.peak == 16


def test_limit_takes_the_first_samples_of_both_parts(dataset):
    full = dataset("digits", validation=0.0).load(0, CPU, 4)
    splits = dataset("digits", validation=0.0, limit=100).load(0, CPU, 4)
    assert torch.equal(splits.train.images, full.train.images[:100])
    assert torch.equal(splits.test.labels, full.test.labels[:100])


def test_unknown_split_names_the_accepted_ones(dataset):
    with pytest.raises(ConfigError, match=r"split: 'random' is not one of stratified, sequential"):
        dataset("digits", split="random")
