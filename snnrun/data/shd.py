"""Spiking Heidelberg Digits: spoken digits through a model of the cochlea (Cramer et al., 2020)."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from snnrun.data.event_dataset import EventDataset
from snnrun.data.events import Collector, Events, Raw, Sensor
from snnrun.data.fetch import Archive, fetch
from snnrun.data.files import entries
from snnrun.data.idx import looks_like
from snnrun.data.places import candidates, home
from snnrun.data.problems import Problems
from snnrun.data.progress import tracked
from snnrun.errors import DataError

TIMES, UNITS, LABELS = "spikes/times", "spikes/units", "labels"
PAGE = "https://zenkelab.org/datasets/"
ARCHIVES = {
    "train": Archive(
        "shd_train.h5.zip", "f3252aeb598ac776c1b526422d90eecb", f"{PAGE}shd_train.h5.zip", PAGE
    ),
    "test": Archive(
        "shd_test.h5.zip", "1503a5064faa34311c398fb0a1ed0a6f", f"{PAGE}shd_test.h5.zip", PAGE
    ),
}


@dataclass(kw_only=True)
class SHD(EventDataset):
    """`shd_train.h5` and `shd_test.h5`, or the zip archives they come in; 20 classes of speech.

    The split is by file, two speakers being in the test file only.
    """

    sensor: ClassVar[Sensor] = (1, 1, 700)

    @property
    def classes(self) -> int:
        """The digits 0 to 9 in German and in English."""
        return 20

    def source(self, split: str) -> Any:
        """Name, size and date of the file."""
        path = self._path(split)
        status = path.stat()
        return [path.name, status.st_size, status.st_mtime_ns]

    def convert(self, split: str) -> Events:
        """See EventDataset.convert."""
        path, where = self._path(split), f"{self.name}/{split}"
        collector, problems = Collector(self.sensor, strict=self.strict, where=where), Problems()
        with opened(path, where) as (times, units, labels):
            for i in tracked(range(len(labels)), f"reading {where}", len(labels)):
                with problems.caught():
                    what = f"{path}, sample {i}"
                    raw = sample(times[i], units[i], f"{where}: {what}")
                    collector.add(raw, int(labels[i]), what)
        problems.report()
        return collector.joined()

    def _path(self, split: str) -> Path:
        """Where the file of a split is, fetched first if that is allowed.

        Raises:
            DataError: naming every folder looked at.
        """
        archive = ARCHIVES[split]
        folders = candidates(self.root, self.name, "SHD")
        names = (archive.name.removesuffix(".zip"), archive.name)
        for folder in folders:
            for name in names:
                if (folder / name).is_file():
                    return folder / name
        if self.download:
            return fetch(archive, home(self.root) / self.name, self.name)
        raise DataError(
            f"{self.name}/{split} not found; looked in: {', '.join(map(str, folders))}; "
            f"fix: dataset.root=FOLDER with {names[0]}, or dataset.download=true, "
            f"or by hand: {archive.manual}"
        )


def sample(times: np.ndarray, units: np.ndarray, what: str) -> Raw:
    """One recording from times in s (float16) and units.

    Raises:
        DataError: if they do not belong together or a time is not a number.
    """
    if len(times) != len(units):
        raise DataError(f"{what}: times {len(times)}, units {len(units)}; fix: fetch it again")
    # A float16 overflows at 65504, so seconds are widened before they become microseconds.
    seconds = times.astype(np.float64)
    if not np.isfinite(seconds).all():
        at = int((~np.isfinite(seconds)).argmax())
        raise DataError(f"{what}: time {seconds[at]} at event {at}; fix: fetch it again")
    microseconds = np.rint(seconds * 1e6).astype(np.int64)
    nothing = np.zeros(len(units), np.int64)
    return Raw(units.astype(np.int64), nothing, microseconds, nothing)


@contextmanager
def opened(path: Path, where: str) -> Iterator[tuple[Any, Any, np.ndarray]]:
    """Times and units per sample, and labels, of an HDF5 file or of the one in a zip archive.

    Raises:
        DataError: if the file is truncated, not HDF5, or lacks one of the three.
    """
    import h5py

    content: Path | io.BytesIO = path
    if zipfile.is_zipfile(path) or path.suffix == ".zip":
        inside = [entry for entry in entries(path, where) if entry.path.endswith(".h5")]
        if len(inside) != 1:
            raise DataError(f"{where}: {path} holds {len(inside)} .h5 files, expected 1")
        content = io.BytesIO(inside[0].read())
    try:
        with h5py.File(content, "r") as file:
            missing = [key for key in (TIMES, UNITS, LABELS) if key not in file]
            if missing:
                raise DataError(f"{where}: {path} has no {', '.join(missing)}; fix: fetch it again")
            times, units, labels = file[TIMES], file[UNITS], file[LABELS][:]
            if not len(times) == len(units) == len(labels):
                counts = f"{len(times)} times, {len(units)} units, {len(labels)} labels"
                raise DataError(f"{where}: {path} holds {counts}; fix: fetch it again")
            yield times, units, labels
    except DataError:
        raise
    except Exception as error:  # h5py raises nearly everything on damaged files
        found = _explained(str(error), path)
        raise DataError(
            f"{where}: {path.name} {found}; file: {path}; fix: fetch it again"
        ) from error


def _explained(message: str, path: Path) -> str:
    """What HDF5 found, in the words of a person."""
    if "truncated file" in message:
        numbers = dict(
            part.split(" = ") for part in message.rstrip(")").split(", ") if " = " in part
        )
        stored = next((v for k, v in numbers.items() if k.endswith("stored_eof")), "?")
        return f"is truncated ({path.stat().st_size} of {stored} bytes)"
    with path.open("rb") as file:
        return f"is not readable as HDF5 ({message.partition('(')[0].strip()})" + looks_like(
            file.read(64)
        )
