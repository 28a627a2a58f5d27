"""CIFAR10-DVS: CIFAR-10 images moved before an event camera (Li et al., 2017)."""

import re
from dataclasses import dataclass
from typing import ClassVar

from snnrun.data.aedat import aedat2, aedat4
from snnrun.data.event_files import FileEvents, Order
from snnrun.data.events import Raw, Sensor
from snnrun.data.fetch import Archive
from snnrun.data.files import Entry

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
TRAINING = 900  # recordings of each class, of 1000
PAGE = "https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671"


@dataclass(kw_only=True)
class CIFAR10DVS(FileEvents):
    """`<class>/cifar10_<class>_<i>.aedat` (AEDAT 2.0), in folders or in the ten zip archives.

    Training: the first 900 of each class by number, as OTTT and DSR split them; test: the others.
    """

    sensor: ClassVar[Sensor] = (2, 128, 128)
    folders: ClassVar[tuple[str, ...]] = ("CIFAR10DVS", "CIFAR10-DVS")
    # The host answers programs with an empty page, so these are for a browser.
    archives: ClassVar[tuple[Archive, ...]] = tuple(
        Archive(f"{name}.zip", None, None, PAGE) for name in CLASSES
    )
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"([^/]+)/([^/]+?)_(\d+)\.(aedat4?)$")
    published: ClassVar[dict[str, int]] = {"train": 9000, "test": 1000}
    layout: ClassVar[str] = "<class>/cifar10_<class>_<i>.aedat"

    @property
    def classes(self) -> int:
        """Those of CIFAR-10."""
        return len(CLASSES)

    def place(self, match: re.Match[str]) -> tuple[str, int, Order] | str:
        """Number by number, so that any first N hold all classes."""
        folder, _, number, _ = match.groups()
        if folder not in CLASSES:
            return f"unexpected folder '{folder}', classes are {', '.join(CLASSES)}"
        label = CLASSES.index(folder)
        return "train" if int(number) < TRAINING else "test", label, (int(number), label)

    def decode(self, content: bytes, entry: Entry, where: str) -> Raw:
        """AEDAT 2.0, or 4 as tonic re-packs it."""
        return aedat4(entry.place, where) if entry.path.endswith("4") else aedat2(content, where)
