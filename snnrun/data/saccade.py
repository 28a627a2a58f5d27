"""Images seen by a simulated event camera that makes three saccades, as N-MNIST was recorded.

Integer arithmetic only, so the events are the same on every machine. The logarithm of brightness is
sampled along a closed path of three straight saccades; a sensor pixel emits an event each time it
has changed by `theta`, at the time at which a linear change would have crossed that level.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from snnrun.data.base import Dataset
from snnrun.data.digits import Digits
from snnrun.data.event_dataset import EventDataset
from snnrun.data.events import Events, Sensor
from snnrun.data.fashion_mnist import FashionMNIST
from snnrun.data.progress import tracked
from snnrun.errors import require

SIDE = 34  # sensor pixels
IMAGE = 28
MARGIN = 7  # dark pixels around the image: the path reaches 6 pixels, interpolation one more
SUBPIXELS = 64
CORNERS = ((0, 0), (192, 384), (384, 0), (0, 0))  # x, y in 1/64 pixel
SACCADE_US = 105_000
# round(256 ln(1 + v / 16)): contrast, not brightness, moves the pixels of an event camera.
LOG = np.round(256 * np.log1p(np.arange(256) / 16)).astype(np.int32)
CHUNK = 64  # images at once; more fall out of the cache


@dataclass(kw_only=True)
class Saccade(EventDataset):
    """Events of a dataset of images.

    `saccade_steps` samples per saccade, `theta` is the contrast threshold in 1/256 of log units.
    """

    saccade_steps: int
    theta: int

    sensor: ClassVar[Sensor] = (2, SIDE, SIDE)

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = self.saccade_steps
        whole = steps >= 1 and SACCADE_US % steps == 0
        require(whole, f"saccade_steps: {steps} does not divide {SACCADE_US} us, e.g. 4 or 8")
        require(self.theta >= 1, f"theta: {self.theta} is not 1 or more")

    @property
    def classes(self) -> int:
        """As in the images."""
        return 10

    @abstractmethod
    def images(self, split: str) -> tuple[Tensor, Tensor]:
        """Images [N,28,28], uint8, and labels [N]."""

    def source(self, split: str) -> Any:
        """Checksum of the images, and how they are converted."""
        images, _ = self._limited(split)
        digest = hashlib.sha256(images.numpy().data).hexdigest()
        return {"images": digest, "steps": self.saccade_steps, "theta": self.theta}

    def convert(self, split: str) -> Events:
        """See EventDataset.convert."""
        images, labels = self._limited(split)
        chunks = images.split(CHUNK)
        named = f"converting {self.name}/{split}"
        parts = [
            saccades(chunk.numpy(), steps=self.saccade_steps, theta=self.theta)
            for chunk in tracked(chunks, named, len(chunks))
        ]
        lengths, address, time = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Events(
            offsets=torch.from_numpy(np.concatenate([[0], lengths.cumsum()])),
            address=torch.from_numpy(address),
            time=torch.from_numpy(time),
            labels=labels,
        )

    def _limited(self, split: str) -> tuple[Tensor, Tensor]:
        images, labels = self.images(split)
        return images[: self.limit].contiguous(), labels[: self.limit]

    def _shared(self, name: str) -> dict[str, Any]:
        """The keys that every dataset has, for the one behind this one."""
        return {field.name: getattr(self, field.name) for field in fields(Dataset)} | {"name": name}


@dataclass(kw_only=True)
class FashionMNISTSaccade(Saccade):
    """Fashion-MNIST through saccades."""

    verify: bool

    def images(self, split: str) -> tuple[Tensor, Tensor]:
        """As in the files."""
        source = FashionMNIST(**self._shared("fashion_mnist"), verify=self.verify)
        images, labels = source.read(split, timesteps=1)
        return images.squeeze(1), labels


@dataclass(kw_only=True)
class DigitsSaccade(Saccade):
    """Digits, each pixel enlarged to 3 x 3 and the whole framed by 2, through saccades."""

    split: str

    def images(self, split: str) -> tuple[Tensor, Tensor]:
        """Grey values 0..16 times 15, 28 x 28."""
        images, labels = Digits(**self._shared("digits"), split=self.split).read(split, timesteps=1)
        large = (images.squeeze(1) * 15).repeat_interleave(3, 1).repeat_interleave(3, 2)
        return torch.nn.functional.pad(large, (2, 2, 2, 2)), labels


def view(log: np.ndarray, x: int, y: int) -> np.ndarray:
    """What the sensor sees with its corner at (x, y), bilinear.

    Args:
        log: of brightness, int32 [B,28,28], framed by MARGIN zeros.
        x: 1/64 pixel.
        y: 1/64 pixel.

    Returns:
        int32 [B,34,34].
    """
    (column, right), (row, down) = divmod(-x, SUBPIXELS), divmod(-y, SUBPIXELS)
    row, column = row + MARGIN, column + MARGIN
    rows = log[:, row : row + SIDE + 1]
    left = rows[:, :, column : column + SIDE]
    across = left * (SUBPIXELS - right) + rows[:, :, column + 1 : column + 1 + SIDE] * right
    return (across[:, :-1] * (SUBPIXELS - down) + across[:, 1:] * down) >> 12


def path(steps: int) -> list[tuple[int, int]]:
    """Corner of the sensor at the start and after every step, in 1/64 pixel."""
    places = [CORNERS[0]]
    for (x0, y0), (x1, y1) in pairwise(CORNERS):
        for k in range(1, steps + 1):
            places.append((x0 + (x1 - x0) * k // steps, y0 + (y1 - y0) * k // steps))
    return places


Step = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def changes(images: np.ndarray, *, steps: int, theta: int) -> Iterator[Step]:
    """How often each sensor pixel crosses a level during each step.

    Args:
        images: uint8 [B,28,28].
        steps: per saccade.
        theta: distance of the levels.

    Yields:
        Signed counts, the level each pixel last crossed, what it saw before, what it sees now;
        int32 [B,34,34] each, for 3 * steps steps.
    """
    frame = ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN))
    log = np.pad(LOG[images], frame)
    places = path(steps)
    before = view(log, *places[0])
    level = before.copy()  # what is seen at first causes no events
    for place in places[1:]:
        now = view(log, *place)
        away = now - level
        count = np.sign(away) * (np.abs(away) // theta)
        yield count, level, before, now
        level = level + count * theta
        before = now


def saccades(
    images: np.ndarray, *, steps: int, theta: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Events of images.

    Args:
        images: uint8 [B,28,28].
        steps: per saccade.
        theta: contrast threshold.

    Returns:
        Events per image, int64 [B]; sensor addresses, int16 [E], and times in us, int32 [E], image
        by image, sorted by (time, row, column).
    """
    width = SACCADE_US // steps
    parts = [
        _crossings(*step, theta=theta, start=k * width, width=width)
        for k, step in enumerate(changes(images, steps=steps, theta=theta))
    ]
    cell, rising, time = (np.concatenate(part) for part in zip(*parts, strict=True))
    image, pixel = np.divmod(cell, SIDE * SIDE)
    order = np.argsort((image * (3 * SACCADE_US) + time) * (SIDE * SIDE) + pixel, kind="stable")
    address = (rising * (SIDE * SIDE) + pixel)[order].astype(np.int16)
    return np.bincount(image, minlength=len(images)), address, time[order].astype(np.int32)


def _crossings(
    count: np.ndarray,
    level: np.ndarray,
    before: np.ndarray,
    now: np.ndarray,
    *,
    theta: int,
    start: int,
    width: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixel (in the whole chunk), direction and time of every crossing in one step."""
    flat = count.ravel()
    active = np.flatnonzero(flat)
    times = np.abs(flat[active])
    cell = np.repeat(active, times)
    first = np.repeat(times.cumsum() - times, times)
    nth = np.arange(len(cell)) - first + 1
    sign = np.sign(flat[cell])
    level, before, now = (array.ravel()[cell].astype(np.int64) for array in (level, before, now))
    since = (level + sign * nth * theta - before) * width // (now - before)
    return cell, (sign > 0).astype(np.int64), since.clip(0, width - 1) + start
