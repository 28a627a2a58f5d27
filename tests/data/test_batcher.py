from collections.abc import Callable

import pytest
import torch

from snnrun.data.augment import Augment
from snnrun.data.batcher import Batcher
from snnrun.data.encode import Encoding
from snnrun.data.seeds import generator
from snnrun.data.store import Store, pixel_statistics

Make = Callable[..., Batcher]


def image_store(samples: int = 50) -> Store:
    draws = generator("store")
    images = torch.randint(256, (samples, 3, 6, 6), generator=draws, dtype=torch.uint8)
    mean, std = pixel_statistics(images, 255)
    return Store(images=images, labels=torch.arange(samples), peak=255, mean=mean, std=std)


def frame_store() -> Store:
    draws = generator("frames")
    frames = torch.randint(3, (10, 5, 2, 4, 4), generator=draws, dtype=torch.uint8)
    return Store(
        images=frames, labels=torch.arange(10), peak=1, mean=torch.zeros(2), std=torch.ones(2)
    )


def batcher(store: Store | None = None, name: str = "direct", **changes) -> Batcher:
    encoding = Encoding(name=name, gain=1.0, threshold=0.2, tau=20.0, rounding="round")
    values = {
        "augment": None, "batch_size": 16, "timesteps": 5, "seed": 0,
        "dtype": torch.float32, "shuffle": True,
    }  # fmt: skip
    return Batcher(store or image_store(), encoding=encoding, **(values | changes))


CROP = Augment(crop=2, flip=True, roll=0, auto="none", cutout=2)


def test_every_sample_comes_once_and_the_last_batch_is_partial():
    batches = list(batcher().epoch(0))
    assert [len(y) for _, y in batches] == [16, 16, 16, 2]
    assert len(batcher()) == 4
    assert sorted(torch.cat([y for _, y in batches]).tolist()) == list(range(50))


def test_input_is_time_first_and_directly_coded_images_are_a_view():
    x, y = next(batcher().epoch(0))
    assert x.shape == (5, 16, 3, 6, 6)
    assert x.stride(0) == 0
    assert y.shape == (16,)


def test_direct_input_is_normalised_per_channel():
    x, _ = next(batcher(batch_size=50, dtype=torch.float64).epoch(0))
    assert x[0].mean((0, 2, 3)) == pytest.approx([0, 0, 0], abs=1e-6)
    assert x[0].std((0, 2, 3), correction=0) == pytest.approx([1, 1, 1], abs=1e-6)


def test_unshuffled_batches_follow_the_store():
    store = image_store()
    x, y = next(batcher(store, shuffle=False, dtype=torch.float64).epoch(3))
    assert y.tolist() == list(range(16))
    scaled = x[0] * store.std.view(3, 1, 1) + store.mean.view(3, 1, 1)
    assert torch.equal((scaled * 255).round(), store.images[:16].double())


@pytest.mark.parametrize("name", ["direct", "poisson", "latency", "latency_linear"])
@pytest.mark.parametrize("start", [1, 3])
def test_starting_in_the_middle_equals_the_uninterrupted_epoch(name, start):
    whole = list(batcher(name=name, augment=CROP).epoch(2))
    torch.manual_seed(12345)  # a different global state must not matter
    rest = list(batcher(name=name, augment=CROP).epoch(2, start))
    assert len(rest) == 4 - start
    for (x, y), (x_again, y_again) in zip(whole[start:], rest, strict=True):
        assert torch.equal(x, x_again)
        assert torch.equal(y, y_again)


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    list(batcher(name="poisson", augment=CROP).epoch(0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("change", ["seed", "epoch"])
def test_order_and_augmentation_change_with_seed_and_epoch(change):
    first = batcher(augment=CROP).epoch(0)
    other = batcher(augment=CROP, seed=int(change == "seed")).epoch(int(change == "epoch"))
    (x, y), (x_other, y_other) = next(first), next(other)
    assert not torch.equal(y, y_other)
    assert not torch.equal(x, x_other)


def test_frames_come_as_floats_with_time_first():
    store = frame_store()
    x, _ = next(batcher(store, batch_size=4, shuffle=False).epoch(0))
    assert x.shape == (5, 4, 2, 4, 4)
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    assert torch.equal(x, store.images[:4].transpose(0, 1).float())


@pytest.mark.parametrize("name", ["poisson", "latency", "latency_linear"])
def test_spike_codes_are_zeros_and_ones_of_the_asked_type(name):
    x, _ = next(batcher(name=name, dtype=torch.bfloat16).epoch(0))
    assert x.shape == (5, 16, 3, 6, 6)
    assert x.dtype == torch.bfloat16
    assert set(x.unique().tolist()) == {0.0, 1.0}


def test_the_store_is_never_changed():
    store = image_store()
    before = store.images.clone()
    list(batcher(store, augment=CROP, shuffle=False).epoch(0))
    assert torch.equal(before, store.images)


def test_statistics_of_a_channel_that_never_varies_keep_it_finite():
    images = torch.full((4, 1, 2, 2), 51, dtype=torch.uint8)
    mean, std = pixel_statistics(images, 255)
    assert mean.tolist() == pytest.approx([0.2])
    assert std.tolist() == [1.0]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_order_and_images_are_the_same_on_a_gpu():
    here = image_store()
    there = here.select(torch.arange(50), torch.device("cuda"))
    for (x, y), (x_gpu, y_gpu) in zip(
        batcher(here, augment=CROP).epoch(0), batcher(there, augment=CROP).epoch(0), strict=True
    ):
        torch.testing.assert_close(x, x_gpu.cpu())
        assert torch.equal(y, y_gpu.cpu())
