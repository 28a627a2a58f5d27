import pytest
import torch

from snnrun.errors import ConfigError

CPU = torch.device("cpu")


def test_images_have_the_asked_shape_and_balanced_classes(dataset):
    data = dataset("synthetic", size=[3, 5, 7], num_classes=4, train_samples=40, validation=0.25)
    splits = data.load(0, CPU, 6)
    assert data.shape == (3, 5, 7)
    assert data.static
    assert splits.train.images.shape == (30, 3, 5, 7)
    assert splits.train.images.dtype == torch.uint8
    assert (splits.train.labels.bincount() - 7.5).abs().max() < 1


def test_frames_are_sparse_binary_events_over_the_asked_steps(dataset):
    data = dataset("synthetic", size=[2, 8, 8], frames=True, train_samples=20)
    store = data.load(0, CPU, 6).train
    assert not data.static
    assert store.images.shape == (18, 6, 2, 8, 8)
    assert set(store.images.unique().tolist()) == {0, 1}
    assert store.images.float().mean().item() == pytest.approx(0.07, abs=0.02)


@pytest.mark.parametrize("frames", [False, True])
def test_nearest_class_mean_separates_the_test_part(dataset, frames):
    splits = dataset("synthetic", frames=frames).load(0, CPU, 8)
    train, test = splits.train, splits.test
    pixels = train.images.float().flatten(1)
    means = torch.stack([pixels[train.labels == label].mean(0) for label in range(10)])
    guess = torch.cdist(test.images.float().flatten(1), means).argmin(1)
    assert (guess == test.labels).float().mean() > 0.9


def test_the_same_samples_come_out_every_time(dataset):
    a, b = (dataset("synthetic").load(seed, CPU, 4).test for seed in (0, 1))
    assert torch.equal(a.images, b.images)


def test_more_samples_than_one_chunk_are_joined(dataset):
    splits = dataset("synthetic", train_samples=600, validation=0.0).load(0, CPU, 4)
    assert splits.train.images.shape == (600, 1, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": [8, 8]}, r"size: \[8, 8\] is not \[channels, height, width\]"),
        ({"num_classes": 0}, "num_classes: 0 is not 1 or more"),
        ({"test_samples": 0}, "test_samples: 0 is not 1 or more"),
        ({"noise": 2.0}, "noise: 2.0 is not in"),
        (
            {"frames": True, "encoding": {"name": "poisson"}},
            "encoding.name: poisson is for images; synthetic has frames over time",
        ),
    ],
)
def test_wrong_values_are_named(dataset, changes, message):
    with pytest.raises(ConfigError, match=message):
        dataset("synthetic", **changes)
