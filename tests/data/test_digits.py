import pytest
import torch

from snnrun.errors import ConfigError, DataError

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


def test_images_and_stratified_split_are_those_of_scikit_learn(dataset):
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bundle = load_digits()
    parts = train_test_split(
        bundle.images, bundle.target, test_size=450, random_state=0, stratify=bundle.target
    )
    splits = dataset("digits", validation=0.0).load(0, CPU, 4)
    for store, images, labels in ((splits.train, *parts[::2]), (splits.test, *parts[1::2])):
        assert torch.equal(store.images.squeeze(1), torch.from_numpy(images).byte())
        assert torch.equal(store.labels, torch.from_numpy(labels))


def test_another_file_in_its_place_is_refused(dataset, monkeypatch):
    monkeypatch.setattr("snnrun.data.digits.SHA256", "0" * 64)
    with pytest.raises(DataError, match=r"digits\.csv\.gz is not the published file; fix: "):
        dataset("digits").find()


def test_a_missing_file_is_said(dataset, monkeypatch):
    monkeypatch.setattr("snnrun.data.digits.find_spec", lambda name: None)
    with pytest.raises(DataError, match="scikit-learn, which bundles them, is not installed"):
        dataset("digits").find()
