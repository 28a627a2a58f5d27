"""Samples per CPU-second of our loaders beside DataLoader + PIL and tonic's ToFrame.

    python scripts/bench_data.py [--quick] [--json FILE]

All variants run interleaved in one process on one thread; process CPU time, medians over rounds.
Images are cropped, flipped and normalised; events become frames of T = 10 steps.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from snnrun.data.augment import Augment
from snnrun.data.batcher import Batcher
from snnrun.data.binning import Binning
from snnrun.data.encode import Encoding
from snnrun.data.event_dataset import frame_cells
from snnrun.data.event_store import EventStore
from snnrun.data.events import Events
from snnrun.data.saccade import Saccade, saccades
from snnrun.data.store import Samples, Store, pixel_statistics

BATCH = 128
STEPS = 10
SENSOR = Saccade.sensor
DIRECT = Encoding(name="direct", gain=1.0, threshold=0.2, tau=20.0, rounding="round")
OFF = Augment(crop=0, flip=False, roll=0, auto="none", cutout=0)
CROP = Augment(crop=4, flip=True, roll=0, auto="none", cutout=0)
GOALS = {"28x28x1": 40, "32x32x3": 18, "events": 5}

Epoch = Callable[[], Iterable[object]]


def batches(store: Samples, augment: Augment) -> Epoch:
    """Our loader, an epoch per call."""
    batcher = Batcher(
        store, encoding=DIRECT, augment=augment, batch_size=BATCH, timesteps=STEPS, seed=0,
        dtype=torch.float32, shuffle=True,
    )  # fmt: skip
    return lambda: batcher.epoch(0)


def image_loaders(shape: tuple[int, int, int], samples: int) -> dict[str, tuple[Epoch, int]]:
    """Ours, and torchvision's transforms on PIL images in a DataLoader; samples per epoch."""
    from PIL import Image
    from torch.utils.data import DataLoader
    from torchvision import transforms

    height = shape[1]
    images = torch.randint(256, (samples, *shape), dtype=torch.uint8)
    labels = torch.arange(samples) % 10
    mean, std = pixel_statistics(images, 255)
    store = Store(images=images, labels=labels, peak=255, mean=mean, std=std)
    change = transforms.Compose(
        [
            transforms.RandomCrop(height, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean.tolist(), std.tolist()),
        ]
    )
    arrays = images.permute(0, 2, 3, 1).squeeze(-1).numpy()

    class Pictures(torch.utils.data.Dataset):
        """As torchvision's own datasets: an array in memory, a PIL image per item."""

        def __len__(self) -> int:
            return len(arrays) // 10  # slow enough for a tenth to be timed well

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return change(Image.fromarray(arrays[index])), int(labels[index])

    loader = DataLoader(Pictures(), BATCH, shuffle=True)
    return {
        "snnrun": (batches(store, CROP), samples),
        "DataLoader + PIL": (lambda: loader, samples // 10),
    }


def event_loaders(samples: int) -> dict[str, tuple[Epoch, int]]:
    """Ours with frames and with events resident, and tonic's ToFrame per recording."""
    from sklearn.datasets import load_digits
    from tonic.transforms import ToFrame

    digits = load_digits().images[:samples].astype(np.uint8) * 15
    large = np.pad(digits.repeat(3, 1).repeat(3, 2), ((0, 0), (2, 2), (2, 2)))
    lengths, address, times = saccades(large, steps=8, theta=160)
    offsets = np.concatenate([[0], lengths.cumsum()])
    labels = torch.arange(samples) % 10
    events = Events(
        offsets=torch.from_numpy(offsets), address=torch.from_numpy(address),
        time=torch.from_numpy(times), labels=labels,
    )  # fmt: skip
    how = Binning(by="time", duration_ms=315.0, window_ms=1.0, rounding="floor", compat="none")
    store = EventStore(
        events=events, index=torch.arange(samples), cells=frame_cells(SENSOR, SENSOR), shape=SENSOR,
        binning=how, values="count", timesteps=STEPS, limit_bytes=2**31, labels=labels, peak=1,
        mean=torch.zeros(2), std=torch.ones(2),
    )  # fmt: skip
    resident = store.select(torch.arange(samples), torch.device("cpu"))
    recordings = [structured(address[a:b], times[a:b]) for a, b in pairwise(offsets)]
    frame = ToFrame(SENSOR[::-1], n_time_bins=STEPS)

    def tonic() -> Iterator[torch.Tensor]:
        order = torch.randperm(samples).tolist()
        for begin in range(0, samples, BATCH):
            clips = [frame(recordings[i]) for i in order[begin : begin + BATCH]]
            yield torch.from_numpy(np.stack(clips)).float().transpose(0, 1).contiguous()

    return {
        "snnrun": (batches(resident, OFF), samples),
        "snnrun, binned per batch": (batches(store, OFF), samples),
        "tonic ToFrame": (tonic, samples),
    }


def structured(address: np.ndarray, times: np.ndarray) -> np.ndarray:
    """One recording as tonic wants it."""
    polarity, place = np.divmod(address.astype(np.int64), SENSOR[1] * SENSOR[2])
    out = np.empty(len(times), [("x", int), ("y", int), ("t", int), ("p", int)])
    out["x"], out["y"] = place % SENSOR[2], place // SENSOR[2]
    out["t"], out["p"] = times, polarity
    return out


def speeds(loaders: dict[str, tuple[Epoch, int]], rounds: int) -> dict[str, float]:
    """Median samples per CPU-second of each loader, one warm-up round first."""
    found: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(rounds + 1):
        for name, (epoch, samples) in loaders.items():
            start = time.process_time()
            for _ in epoch():
                pass
            found[name].append(samples / (time.process_time() - start))
    return {name: median(values[1:]) for name, values in found.items()}


def measure(quick: bool) -> dict[str, dict[str, float]]:
    """Speeds by kind of data."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rounds, images, recordings = (2, 2_000, 128) if quick else (7, 20_000, 512)
    return {
        "28x28x1": speeds(image_loaders((1, 28, 28), images), rounds),
        "32x32x3": speeds(image_loaders((3, 32, 32), images), rounds),
        "events": speeds(event_loaders(recordings), rounds),
    }


def show(results: dict[str, dict[str, float]]) -> None:
    table = Table(title="samples per CPU-second, one thread", title_justify="left")
    for column in ("data", "loader", "samples/s", "ratio", "goal"):
        table.add_column(column, justify="left" if column in ("data", "loader") else "right")
    for data, found in results.items():
        base = list(found.values())[-1]
        for i, (loader, speed) in enumerate(found.items()):
            ratio = f"{speed / base:.1f}x"
            table.add_row(data, loader, f"{speed:,.0f}", ratio, "" if i else f"{GOALS[data]}x")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small and imprecise, for tests")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    chosen = parser.parse_args()
    results = measure(chosen.quick)
    show(results)
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
