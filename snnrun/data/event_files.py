"""Event datasets of one file per recording, in a folder or in zip archives."""

import re
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from snnrun.data.event_dataset import EventDataset
from snnrun.data.events import Collector, Events, Raw
from snnrun.data.fetch import Archive, fetch, unpacked
from snnrun.data.files import Entry, entries
from snnrun.data.places import candidates, home
from snnrun.data.problems import Problems
from snnrun.data.progress import tracked
from snnrun.errors import DataError

Order = tuple[int | str, ...]


@dataclass(frozen=True)
class Recording:
    """One file with its class; `order` is its place in the split."""

    entry: Entry
    label: int
    order: Order


@dataclass(kw_only=True)
class FileEvents(EventDataset):
    """Looks for its files in `root` (a folder, or a zip archive), `$SNNRUN_DATA`, the user's cache.

    `allow_partial` goes on with fewer recordings than published, e.g. a subset.
    """

    allow_partial: bool

    folders: ClassVar[tuple[str, ...]] = ()  # names the set is known under
    archives: ClassVar[tuple[Archive, ...]] = ()
    pattern: ClassVar[re.Pattern[str]]  # of a recording's path
    published: ClassVar[dict[str, int]] = {}  # recordings per split
    layout: ClassVar[str] = ""  # what a folder must hold, for messages

    @abstractmethod
    def place(self, match: re.Match[str]) -> tuple[str, int, Order] | str:
        """Split, class and place in the split of a recording, from its path; or what is wrong."""

    @abstractmethod
    def decode(self, content: bytes, entry: Entry, where: str) -> Raw:
        """Events of one file.

        Raises:
            DataError: saying what is wrong with the file.
        """

    def samples(self, recording: Recording, where: str) -> Iterator[tuple[Raw, int]]:
        """Events and class of what a file holds: one sample, unless a set is cut differently."""
        entry = recording.entry
        yield self.decode(entry.read(), entry, f"{where}: {entry.place}"), recording.label

    def source(self, split: str) -> Any:
        """Names, sizes and dates (checksums in an archive) of the split's files."""
        return [recording.entry.identity for recording in self.recordings(split)]

    def convert(self, split: str) -> Events:
        """See EventDataset.convert."""
        where = f"{self.name}/{split}"
        collector, problems = Collector(self.sensor, strict=self.strict, where=where), Problems()
        recordings = self.recordings(split)
        for recording in tracked(recordings, f"reading {where}", len(recordings)):
            with problems.caught():
                for raw, label in self.samples(recording, where):
                    collector.add(raw, label, recording.entry.place)
        problems.report()
        events = collector.joined()
        expected = self.published.get(split, len(recordings))
        if len(recordings) < expected:
            events.notes.append(f"{where}: {len(recordings)} of {expected} recordings")
        return events

    def recordings(self, split: str) -> list[Recording]:
        """The files of a split, complete unless `allow_partial`.

        Raises:
            DataError: if there are none, too few, or some that do not belong here.
        """
        where = f"{self.name}/{split}"
        found = self._search(split)
        if not found and self.download:
            for archive in self.archives:
                unpacked(fetch(archive, home(self.root) / self.name, self.name), self.name)
            found = self._search(split)
        expected = self.published.get(split, 0)
        if not found:
            places = ", ".join(str(group[0]) for group in self._places())
            raise DataError(f"{where} not found; looked in: {places}; fix: {self._remedy()}")
        if len(found) < expected and not self.allow_partial:
            raise DataError(
                f"{where}: {len(found)} of {expected} recordings; "
                f"fix: fetch the rest, or dataset.allow_partial=true; file: {found[0].entry.place}"
            )
        return sorted(found, key=lambda recording: recording.order)

    def _search(self, split: str) -> list[Recording]:
        for group in self._places():
            problems, found = Problems(), []
            for source in group:
                with problems.caught():
                    found += self._listed(source, split)
            problems.report()
            if found:
                return found
        return []

    def _places(self) -> list[list[Path]]:
        """Folders, and together the archives of a folder, which may have been unpacked there."""
        if self.root is not None and Path(self.root).expanduser().is_file():
            return [[Path(self.root).expanduser()]]
        folders = candidates(self.root, self.name, *self.folders)
        names = [archive.name for archive in self.archives if archive.name.endswith(".zip")]
        zipped = [[f / name for name in names if (f / name).is_file()] for f in folders]
        return [*([folder] for folder in folders), *filter(None, zipped)]

    def _listed(self, source: Path, split: str) -> list[Recording]:
        problems, found = Problems(), []
        for entry in entries(source, self.name):
            if (match := self.pattern.search(entry.path)) is None:
                continue
            placed = self.place(match)
            if isinstance(placed, str):
                problems.found.append(f"{self.name}: {placed}; file: {entry.place}")
            elif placed[0] == split:
                found.append(Recording(entry, placed[1], placed[2]))
        problems.report()
        return found

    def _remedy(self) -> str:
        steps = "; ".join(archive.manual for archive in self.archives)
        return (
            f"dataset.root=PATH of a folder or zip archive with {self.layout}, "
            f"or dataset.download=true, or by hand: {steps}"
        )
