"""Event recordings: one checked form for every source, many recordings as one flat array."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from snnrun.errors import DataError

Sensor = tuple[int, int, int]  # polarities, height, width

LONGEST_US = 2**31 - 1
COUNTER_WRAP_US = 1_000_000  # no sensor delivers events a second late; a wrapped counter does
EMPTY_SHARE = 0.01  # of recordings without events, above which a set is taken for damaged


class Raw(NamedTuple):
    """One recording as a file holds it: integer arrays [E] of any width; t in us."""

    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    p: np.ndarray


@dataclass(kw_only=True)
class Events:
    """Recordings one behind the other, each sorted by (time, place, polarity).

    Attributes:
        offsets: int64 [N+1]; recording i is [offsets[i], offsets[i+1]).
        address: int16 [E], p * H * W + y * W + x on the sensor.
        time: int32 [E], us.
        labels: int64 [N].
        notes: what was unusual about the source, one sentence each.
    """

    offsets: Tensor
    address: Tensor
    time: Tensor
    labels: Tensor
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, recordings: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Addresses [E'], times [E'] and lengths [B] of some recordings, in the order given."""
        begin = self.offsets[recordings].tolist()
        end = self.offsets[[i + 1 for i in recordings]].tolist()
        spans = [(0, 0), *zip(begin, end, strict=True)]  # nothing can be joined only to nothing
        # Slices, not an index of all events: contiguous copies, and friendly to mapped files.
        address = torch.cat([self.address[a:b] for a, b in spans])
        time = torch.cat([self.time[a:b] for a, b in spans])
        return (
            address,
            time,
            torch.tensor([b - a for a, b in spans[1:]], dtype=torch.int64, device=address.device),
        )


class Collector:
    """Checks recordings one by one and joins them.

    Args:
        sensor: polarities, height, width; at most 32768 addresses.
        strict: refuse unsorted times instead of sorting them.
        where: `dataset/split`, for messages.
    """

    def __init__(self, sensor: Sensor, *, strict: bool, where: str):
        self.sensor, self.strict, self.where = sensor, strict, where
        self.address: list[np.ndarray] = []
        self.time: list[np.ndarray] = []
        self.labels: list[int] = []
        self.seen: Counter[str] = Counter()

    def add(self, raw: Raw, label: int, what: str) -> None:
        """Take in one recording.

        Args:
            raw: its events in any order.
            label: its class.
            what: file or sample, for messages.

        Raises:
            DataError: naming the first event that cannot be, and why.
        """
        address, time = self._checked(raw, f"{self.where}: {what}")
        self.address.append(address)
        self.time.append(time)
        self.labels.append(label)

    def joined(self) -> Events:
        """Everything added so far.

        Raises:
            DataError: if more than 1 % of the recordings have no events.
        """
        count = len(self.labels)
        if self.seen["without events"] > EMPTY_SHARE * count:
            raise DataError(
                f"{self.where}: {self.seen['without events']} of {count} recordings are empty; "
                "fix: fetch them again"
            )
        notes = [
            f"{self.where}: {n} of {count} recordings {what}" for what, n in self.seen.items() if n
        ]
        lengths = [len(part) for part in self.time]
        return Events(
            offsets=torch.tensor([0, *lengths]).cumsum(0),
            address=torch.from_numpy(_flat(self.address, np.int16)),
            time=torch.from_numpy(_flat(self.time, np.int32)),
            labels=torch.tensor(self.labels, dtype=torch.int64),
            notes=notes,
        )

    def _checked(self, raw: Raw, what: str) -> tuple[np.ndarray, np.ndarray]:
        polarities, height, width = self.sensor
        if len(raw.t) == 0:
            self.seen["without events"] += 1
            return np.zeros(0, np.int16), np.zeros(0, np.int32)
        _inside("x", raw.x, width, "wide", what)
        _inside("y", raw.y, height, "high", what)
        p = self._polarity(raw.p, what)
        t = self._time(raw.t, what)
        place = raw.y.astype(np.int64) * width + raw.x
        key = (t * (height * width) + place) * polarities + p
        if np.any(key[1:] < key[:-1]):
            order = np.argsort(key, kind="stable")
            p, t, place = p[order], t[order], place[order]
        return (p * (height * width) + place).astype(np.int16), t.astype(np.int32)

    def _polarity(self, p: np.ndarray, what: str) -> np.ndarray:
        values = np.unique(p).tolist()
        if set(values) <= {0, 1} and max(values) < self.sensor[0]:
            self.seen["of a single polarity"] += len(values) < self.sensor[0]
            return p.astype(np.int64)
        if set(values) <= {-1, 1} and self.sensor[0] == 2:
            self.seen["with polarities -1 and 1, taken as 0 and 1"] += 1
            return (p > 0).astype(np.int64)
        found = ", ".join(map(str, values[:6]))
        raise DataError(f"{what}: polarities {found}; accepted: 0 and 1, or -1 and 1")

    def _time(self, t: np.ndarray, what: str) -> np.ndarray:
        t = t.astype(np.int64)
        steps = np.diff(t)
        if len(steps) and steps.min() < -COUNTER_WRAP_US:
            at = int(steps.argmin())
            back = -int(steps[at]) // 1000
            raise DataError(f"{what}: time goes back by {back} ms at event {at + 1}: counter wrap?")
        for at in (int(t.argmin()), int(t.argmax())):
            if not 0 <= t[at] <= LONGEST_US:
                raise DataError(
                    f"{what}: time {t[at]} us at event {at}, accepted: 0 to {LONGEST_US}"
                )
        if len(steps) and steps.min() < 0:
            if self.strict:
                at = int((steps < 0).argmax()) + 1
                raise DataError(
                    f"{what}: unsorted: event {at} is earlier than the one before; "
                    "fix: dataset.strict=false sorts"
                )
            self.seen["with unsorted times, sorted"] += 1
        return t


def _inside(axis: str, values: np.ndarray, size: int, extent: str, what: str) -> None:
    wrong = (values < 0) | (values >= size)
    if wrong.any():
        at = int(wrong.argmax())
        raise DataError(f"{what}: {axis}={values[at]} at event {at}, sensor is {size} {extent}")


def _flat(parts: list[np.ndarray], kind: type[np.generic]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, kind)
