"""What all event datasets share: conversion once, then frames as the configuration wants them."""

import logging
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from snnrun.data.base import Dataset, check_labels
from snnrun.data.binning import Binning
from snnrun.data.cache import cached
from snnrun.data.event_store import EventStore
from snnrun.data.events import Events, Sensor
from snnrun.data.problems import Problems
from snnrun.data.store import Samples
from snnrun.errors import choice, require

log = logging.getLogger(__name__)

MIB = 2**20


@dataclass(kw_only=True)
class EventDataset(Dataset):
    """Recordings of a sensor.

    `size` scales coordinates down to [height, width], events that meet are added; `merge_polarity`
    adds both polarities into one channel; `values` are counts, 0 and 1 (binary), or counts divided
    by the largest of their frame (max).
    """

    binning: Binning
    values: str
    merge_polarity: bool
    size: list[int] | None
    strict: bool
    cache_dir: str | None
    resident_limit_mib: int

    sensor: ClassVar[Sensor]

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("values", self.values, ("count", "binary", "max"))
        require(
            self.augment.auto == "none",
            f"augment.auto: {self.augment.auto} is for images, not for events; accepted: none",
        )
        _, height, width = self.sensor
        require(
            self.size is None
            or (len(self.size) == 2 and 0 < self.size[0] <= height and 0 < self.size[1] <= width),
            f"size: {self.size} is not [height, width] of at most [{height}, {width}]",
        )
        least = self.resident_limit_mib
        require(least >= 0, f"resident_limit_mib: {least} is not 0 or more")
        self._found: dict[str, Events] = {}

    @property
    def static(self) -> bool:
        """Frames over time."""
        return False

    @property
    def peak(self) -> int:
        """Frames count events."""
        return 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Polarities, height and width of a frame."""
        polarities, height, width = self.sensor
        height, width = self.size or (height, width)
        return 1 if self.merge_polarity else polarities, height, width

    @abstractmethod
    def source(self, split: str) -> Any:
        """What identifies a split's content, as plain JSON: names, sizes, dates or checksums.

        Raises:
            DataError: if something is missing.
        """

    @abstractmethod
    def convert(self, split: str) -> Events:
        """All recordings of a split, in an order that does not depend on the file system.

        Raises:
            DataError: naming everything that is damaged.
        """

    def read(self, split: str, timesteps: int) -> tuple[Tensor, Tensor]:
        """Frames [N,T,P,H,W], uint8, and labels [N]."""
        store = self.store(split, timesteps)
        frames = torch.cat([*store.batches(torch.arange(len(store)).split(64), None)])
        return frames.to(torch.uint8), store.labels

    def find(self) -> None:
        """Convert everything, or find it converted; `load` uses it.

        Raises:
            DataError: naming everything missing or damaged and what to do about it.
        """
        problems = Problems()
        for split in ("train", "test"):
            with problems.caught():
                self._found[split] = self._events(split)
        problems.report()

    def store(self, split: str, timesteps: int) -> Samples:
        """See Dataset.store."""
        events = self._found.pop(split, None) or self._events(split)
        index = torch.arange(len(events))[: self.limit]
        return EventStore(
            events=events,
            index=index,
            cells=frame_cells(self.sensor, self.shape),
            shape=self.shape,
            binning=self.binning,
            values=self.values,
            timesteps=timesteps,
            limit_bytes=self.resident_limit_mib * MIB,
            labels=events.labels[index],
            peak=self.peak,
            mean=torch.zeros(self.shape[0]),
            std=torch.ones(self.shape[0]),
        )

    def _events(self, split: str) -> Events:
        key = {"name": self.name, "split": split, "strict": self.strict}
        key["source"] = self.source(split)
        events = cached(self.cache_dir, key, lambda: self.convert(split))
        check_labels(events.labels, self.classes, f"{self.name}/{split}")
        for note in events.notes:
            log.warning(note)
        return events


def frame_cells(sensor: Sensor, shape: tuple[int, int, int]) -> Tensor:
    """Where in a frame each sensor address is counted, polarity merged if the frame has one.

    Args:
        sensor: polarities, height, width of the sensor.
        shape: the same of a frame.

    Returns:
        int64 [P*H*W of the sensor], values below P*H*W of the frame.
    """
    polarities, height, width = sensor
    p = torch.arange(polarities) % shape[0]
    y = torch.arange(height) * shape[1] // height
    x = torch.arange(width) * shape[2] // width
    return ((p[:, None, None] * shape[1] + y[:, None]) * shape[2] + x).flatten()
