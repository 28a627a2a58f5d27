"""DVS128 Gesture: eleven hand and arm gestures before an event camera (Amir et al., 2017)."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from snnrun.data.aedat import aedat3, from_first
from snnrun.data.event_files import FileEvents, Order, Recording
from snnrun.data.events import Raw, Sensor
from snnrun.data.fetch import Archive
from snnrun.data.files import Entry
from snnrun.errors import DataError

LAST_TRAINING_USER = 23  # of 29
PAGE = "https://research.ibm.com/interactive/dvsgesture"
# The page that people see answers programs with nothing; this address of the same files does.
SHARED = "https://api.figshare.com/v2/file/download"


@dataclass(kw_only=True)
class DVSGesture(FileEvents):
    """Users 1 to 23 for training, 24 to 29 for the test, cut by gesture in one of two ways.

    - `ibmGestureTrain/userNN_<light>/<class>.npy` and `ibmGestureTest/...`: events [N,4] of
      x, y, polarity, ms (as tonic distributes them).
    - `userNN_<light>.aedat` with `userNN_<light>_labels.csv`: the original recordings (AEDAT 3.1)
      and their gestures as class (from 1), start and end in us.

    How gestures are cut differs between libraries and so does their number; any number is taken.
    """

    sensor: ClassVar[Sensor] = (2, 128, 128)
    folders: ClassVar[tuple[str, ...]] = ("DVSGesture", "DvsGesture")
    archives: ClassVar[tuple[Archive, ...]] = (
        Archive(
            "ibmGestureTrain.tar.gz", "3a8f0d4120a166bac7591f77409cb105", f"{SHARED}/38022171", PAGE
        ),
        Archive(
            "ibmGestureTest.tar.gz", "56070e45dadaa85fff82e0fbfbc06de5", f"{SHARED}/38020584", PAGE
        ),
    )
    pattern: ClassVar[re.Pattern[str]] = re.compile(
        r"(?:^|/)(?P<user>[^/]+)/(?P<label>[^/]+)\.npy$|(?:^|/)(?P<whole>[^/]+)\.aedat$"
    )
    layout: ClassVar[str] = "ibmGestureTrain/userNN_<light>/<class>.npy, or userNN_<light>.aedat"

    @property
    def classes(self) -> int:
        """Ten gestures and one class of others."""
        return 11

    def place(self, match: re.Match[str]) -> tuple[str, int, Order] | str:
        """By user, light and class."""
        name = match["user"] or match["whole"]
        user = re.match(r"user(\d+)_", name)
        if user is None:
            return f"unexpected name '{name}', recordings are named userNN_<light>"
        label = match["label"] or "0"
        if not label.isdecimal():
            return f"unexpected file '{label}.npy', classes are files 0.npy to 10.npy"
        split = "train" if int(user[1]) <= LAST_TRAINING_USER else "test"
        return split, int(label), (name, int(label))

    def samples(self, recording: Recording, where: str) -> Iterator[tuple[Raw, int]]:
        """One gesture of a file that is cut already, or all gestures of a whole recording."""
        entry = recording.entry
        if entry.path.endswith(".npy"):
            yield from super().samples(recording, where)
            return
        what = f"{where}: {entry.place}"
        path = Path(entry.place.removesuffix(".aedat") + "_labels.csv")
        labels = gestures(_text(path, where), f"{where}: {path}")
        raw = aedat3(entry.read(), what)
        order = np.argsort(raw.t, kind="stable")
        raw = Raw(*(column[order] for column in raw))
        for label, start, end in labels:
            part = slice(*np.searchsorted(raw.t, (start, end)))
            yield Raw(raw.x[part], raw.y[part], raw.t[part] - start, raw.p[part]), label

    def decode(self, content: bytes, entry: Entry, where: str) -> Raw:
        """Integers [N,4] of any width: x, y, polarity, ms."""
        try:
            array = np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, OSError, EOFError, SyntaxError) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"{where}: not readable as .npy ({reason}); fix: fetch it again"
            ) from error
        if array.ndim != 2 or array.shape[1] != 4 or array.dtype.kind not in "iu":
            raise DataError(
                f"{where}: {array.dtype} of shape {array.shape}, expected integers (N, 4)"
            )
        # Widened before ms become us: int16 would overflow after 32 ms.
        x, y, p, t = array.T.astype(np.int64)
        return Raw(x, y, from_first(t) * 1000, p)


def gestures(text: str, what: str) -> list[tuple[int, int, int]]:
    """Class from 0, start and end in us of each line, no gesture reaching into the next.

    One published label file lets a gesture end after the next one starts.

    Raises:
        DataError: naming the first line that is not three whole numbers.
    """
    found = []
    for number, line in enumerate(csv.reader(text.splitlines())):
        if number == 0 or not line:
            continue
        try:
            label, start, end = map(int, line)
        except ValueError as error:
            raise DataError(
                f"{what}: line {number + 1} is {','.join(line)!r}, "
                "expected class,start,end as whole numbers"
            ) from error
        found.append((label - 1, start, end))
    found.sort(key=lambda gesture: gesture[1])
    starts = [start for _, start, _ in found[1:]] + [found[-1][2] if found else 0]
    return [
        (label, start, min(end, nxt))
        for (label, start, end), nxt in zip(found, starts, strict=True)
    ]


def _text(path: Path, where: str) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{where}: {path} cannot be read ({error}); every .aedat needs its labels"
        ) from error
