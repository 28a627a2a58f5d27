"""N-MNIST: MNIST digits shown to an event camera in three saccades (Orchard et al., 2015)."""

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from snnrun.data.event_files import FileEvents, Order
from snnrun.data.events import Raw, Sensor
from snnrun.data.fetch import Archive
from snnrun.data.files import Entry
from snnrun.errors import DataError

EVENT_BYTES = 5
OVERFLOW_ROW = 240  # y of a marker: this and all later events are 2^13 us later
OVERFLOW_US = 2**13
PAGE = "https://data.mendeley.com/datasets/468j46mzdv/1"
FILES = "https://data.mendeley.com/public-files/datasets/468j46mzdv/files"


@dataclass(kw_only=True)
class NMNIST(FileEvents):
    """Folders `Train` and `Test`, in each one folder per digit; or `train.zip` and `test.zip`."""

    sensor: ClassVar[Sensor] = (2, 34, 34)
    folders: ClassVar[tuple[str, ...]] = ("NMNIST", "N-MNIST")
    archives: ClassVar[tuple[Archive, ...]] = (
        Archive(
            "train.zip",
            "20959b8e626244a1b502305a9e6e2031",
            f"{FILES}/39c25547-014b-4137-a934-9d29fa53c7a0/file_downloaded",
            PAGE,
        ),
        Archive(
            "test.zip",
            "69ca8762b2fe404d9b9bad1103e97832",
            f"{FILES}/05a4d654-7e03-4c15-bdfa-9bb2bcbea494/file_downloaded",
            PAGE,
        ),
    )
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"(?:^|/)(Train|Test)/([^/]+)/([^/]+)\.bin$")
    published: ClassVar[dict[str, int]] = {"train": 60000, "test": 10000}
    layout: ClassVar[str] = "Train/<digit>/*.bin and Test/<digit>/*.bin"

    @property
    def classes(self) -> int:
        """Digits 0 to 9."""
        return 10

    def place(self, match: re.Match[str]) -> tuple[str, int, Order] | str:
        """In MNIST's order, which the file names keep, so that any first N hold all digits."""
        folder, label, stem = match.groups()
        if not re.fullmatch("[0-9]", label):
            return f"unexpected folder '{label}', classes are folders 0 to 9"
        return folder.lower(), int(label), (stem, label)

    def decode(self, content: bytes, entry: Entry, where: str) -> Raw:
        """Five bytes an event: x, y, polarity and time in us of 23 bits, high bits first."""
        if len(content) % EVENT_BYTES:
            raise DataError(
                f"{where}: {len(content)} bytes, not a whole number of "
                f"{EVENT_BYTES}-byte events; truncated? fix: fetch it again"
            )
        x, y, high, middle, low = np.frombuffer(content, np.uint8).reshape(-1, EVENT_BYTES).T
        t = ((high & 127).astype(np.int64) << 16) | (middle.astype(np.int64) << 8) | low
        marker = y == OVERFLOW_ROW
        if marker.any():
            t = t + OVERFLOW_US * marker.cumsum()
            x, y, high, t = x[~marker], y[~marker], high[~marker], t[~marker]
        return Raw(x, y, t, high >> 7)
