import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from snnrun.data import saccade
from snnrun.data.binning import Binning
from snnrun.data.event_dataset import frame_cells
from snnrun.data.event_store import EventStore
from snnrun.data.events import Events
from snnrun.data.idx import read_idx
from snnrun.data.nmnist import NMNIST
from snnrun.errors import ConfigError

CPU = torch.device("cpu")
DEBIAN = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
needs_debian = pytest.mark.skipif(not DEBIAN.is_file(), reason=f"{DEBIAN} absent")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def nmnist_bytes(address: np.ndarray, time: np.ndarray) -> bytes:
    polarity, place = np.divmod(address.astype(np.int64), 34 * 34)
    y, x = np.divmod(place, 34)
    t = time.astype(np.int64)
    rows = np.stack([x, y, polarity << 7 | t >> 16, t >> 8 & 255, t & 255], 1)
    return rows.astype(np.uint8).tobytes()


@needs_debian
def test_the_first_hundred_training_images_give_the_known_events():
    pixels, _ = read_idx(DEBIAN, dims=3, where="test")
    lengths, address, time = saccade.saccades(pixels[:100].numpy(), steps=8, theta=160)
    content = nmnist_bytes(address, time)
    assert len(time) == 396410
    assert hashlib.sha256(content).hexdigest() == (
        "9deeca4c98716c96848682250b6d6d14ff640eafafd52716a425a72f109f2eaf"
    )
    first = time[: lengths[0]]
    assert lengths[0] == 4030
    assert np.histogram(first, [0, 105000, 210000, 315000])[0].tolist() == [1562, 1393, 1075]


def slow_saccades(image: np.ndarray) -> list[tuple[int, int, int, int]]:
    """The recipe pixel by pixel: events (t, y, x, p) of one image."""
    table = [round(256 * np.log1p(v / 16)) for v in range(256)]

    def log(y: int, x: int) -> int:
        return table[image[y, x]] if 0 <= y < 28 and 0 <= x < 28 else 0

    def seen(px: int, py: int, u: int, v: int) -> int:
        (ix, fx), (iy, fy) = divmod(64 * u - px, 64), divmod(64 * v - py, 64)
        top = log(iy, ix) * (64 - fx) + log(iy, ix + 1) * fx
        low = log(iy + 1, ix) * (64 - fx) + log(iy + 1, ix + 1) * fx
        return (top * (64 - fy) + low * fy) >> 12

    places, events = saccade.path(8), []
    for v in range(34):
        for u in range(34):
            values = [seen(px, py, u, v) for px, py in places]
            level = values[0]
            for k in range(1, len(values)):
                previous, now = values[k - 1], values[k]
                while abs(now - level) >= 160:
                    sign = 1 if now > level else -1
                    level += sign * 160
                    t = (level - previous) * 13125 // (now - previous)
                    events.append((min(max(t, 0), 13124) + (k - 1) * 13125, v, u, int(sign > 0)))
    return sorted(events)


def test_whole_batches_agree_with_the_recipe_pixel_by_pixel():
    pixels = images(3)
    lengths, address, time = saccade.saccades(pixels, steps=8, theta=160)
    polarity, place = np.divmod(address.astype(int), 34 * 34)
    rows = list(
        zip(
            time.tolist(),
            (place // 34).tolist(),
            (place % 34).tolist(),
            polarity.tolist(),
            strict=True,
        )
    )
    assert rows[: lengths[0]] == slow_saccades(pixels[0])


def events_of(pixels: np.ndarray) -> Events:
    lengths, address, time = saccade.saccades(pixels, steps=8, theta=160)
    return Events(
        offsets=torch.from_numpy(np.concatenate([[0], lengths.cumsum()])),
        address=torch.from_numpy(address),
        time=torch.from_numpy(time),
        labels=torch.zeros(len(pixels), dtype=torch.int64),
    )


@pytest.mark.parametrize("timesteps", [24, 12, 3])
def test_binned_events_are_the_changes_of_the_steps(timesteps):
    pixels = images(5)
    how = Binning(by="time", duration_ms=315.0, window_ms=1.0, rounding="floor", compat="none")
    shape = saccade.Saccade.sensor
    store = EventStore(
        events=events_of(pixels), index=torch.arange(5), cells=frame_cells(shape, shape),
        shape=shape, binning=how, values="count", timesteps=timesteps, limit_bytes=0,
        labels=torch.zeros(5, dtype=torch.int64), peak=1, mean=torch.zeros(2), std=torch.ones(2),
    )  # fmt: skip
    steps = torch.from_numpy(
        np.stack([c for c, *_ in saccade.changes(pixels, steps=8, theta=160)], 1)
    )
    both = torch.stack([(-steps).clamp(min=0), steps.clamp(min=0)], 2)  # [B, 24, P, H, W]
    expected = both.view(5, timesteps, -1, 2, 34, 34).sum(2)
    assert torch.equal(store.take(torch.arange(5)), expected.float())


def test_an_image_gives_the_same_events_in_any_company():
    pixels = images(9)
    alone = [saccade.saccades(pixels[i : i + 1], steps=8, theta=160) for i in range(9)]
    lengths, address, time = saccade.saccades(pixels, steps=8, theta=160)
    assert lengths.tolist() == [int(part[0][0]) for part in alone]
    assert np.array_equal(address, np.concatenate([part[1] for part in alone]))
    assert np.array_equal(time, np.concatenate([part[2] for part in alone]))


def test_events_survive_as_nmnist_bytes():
    _, address, time = saccade.saccades(images(1), steps=8, theta=160)
    raw = NMNIST.decode(None, nmnist_bytes(address, time), None, "x")
    assert np.array_equal(raw.p.astype(int) * 1156 + raw.y.astype(int) * 34 + raw.x, address)
    assert np.array_equal(raw.t, time)


def test_a_black_image_has_no_events():
    lengths, _, _ = saccade.saccades(np.zeros((1, 28, 28), np.uint8), steps=8, theta=160)
    assert lengths.tolist() == [0]


def test_digits_are_enlarged_and_framed(dataset):
    pixels, _ = dataset("digits_saccade").images("test")
    assert pixels.shape == (450, 28, 28)
    assert int(pixels.max()) == 240
    assert pixels[:, :2].sum() == pixels[:, :, -2:].sum() == 0
    assert torch.equal(pixels[:, 2:26:3, 2:26:3], pixels[:, 4:26:3, 4:26:3])


def test_a_limit_converts_no_more_and_the_cache_spares_the_rest(dataset, monkeypatch):
    first = dataset("digits_saccade", limit=70, validation=0.0).load(0, CPU, 6)
    assert first.train.images.shape == (70, 6, 2, 34, 34)
    assert len(first.test) == 70
    monkeypatch.setattr(saccade, "saccades", None)
    again = dataset("digits_saccade", limit=70, validation=0.0).load(0, CPU, 6)
    assert torch.equal(first.train.images, again.train.images)


@needs_debian
def test_clothes_keep_their_labels(dataset):
    splits = dataset("fmnist_saccade", limit=50, validation=0.0).load(0, CPU, 3)
    images = dataset("fashion_mnist", limit=50, validation=0.0).load(0, CPU, 3)
    assert torch.equal(splits.train.labels, images.train.labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"saccade_steps": 11}, "saccade_steps: 11 does not divide 105000 us"),
        ({"theta": 0}, "theta: 0 is not 1 or more"),
        ({"size": [40, 34]}, r"size: \[40, 34\] is not \[height, width\] of at most \[34, 34\]"),
        ({"values": "spikes"}, "values: 'spikes' is not one of count, binary, max"),
        ({"resident_limit_mib": -1}, "resident_limit_mib: -1 is not 0 or more"),
        ({"encoding": {"name": "poisson"}}, "encoding.name: poisson is for images"),
        ({"augment": {"auto": "cifar10"}}, "augment.auto: cifar10 is for images, not for events"),
    ],
)
def test_wrong_values_are_named(dataset, changes, message):
    with pytest.raises(ConfigError, match=message):
        dataset("digits_saccade", **changes)
