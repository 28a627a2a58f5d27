"""Files of a dataset, whether they lie in a folder or in a zip archive that is never unpacked."""

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from snnrun.data.idx import looks_like
from snnrun.errors import DataError


@dataclass(frozen=True)
class Entry:
    """One file.

    Attributes:
        path: inside the folder or archive, with forward slashes.
        place: path on disk, for messages (`archive.zip:path` inside an archive).
        size: bytes.
        stamp: changes when the content does (time of change, or checksum in an archive).
        read: the content; raises DataError.
    """

    path: str
    place: str
    size: int
    stamp: int
    read: Callable[[], bytes]

    @property
    def identity(self) -> list[str | int]:
        """Plain JSON that changes when the content does."""
        return [self.path, self.size, self.stamp]


def entries(source: Path, where: str) -> list[Entry]:
    """Every file of a folder or zip archive in order of its path; hidden ones are left out.

    Raises:
        DataError: if the archive is not one.
    """
    found = _zipped(source, where) if source.is_file() else _in_folder(source, where)
    visible = [entry for entry in found if not _hidden(entry.path)]
    return sorted(visible, key=lambda entry: entry.path)


def _hidden(path: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def _in_folder(folder: Path, where: str) -> list[Entry]:
    return [_on_disk(folder, path, where) for path in folder.rglob("*") if path.is_file()]


def _on_disk(folder: Path, path: Path, where: str) -> Entry:
    def read() -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{where}: {path} cannot be read: {error.strerror}") from error

    status = path.stat()
    name = path.relative_to(folder).as_posix()
    return Entry(name, str(path), status.st_size, status.st_mtime_ns, read)


def _zipped(path: Path, where: str) -> list[Entry]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        with path.open("rb") as file:
            start = file.read(64)
        found = f"not a zip archive, or cut off, at {path.stat().st_size} bytes{looks_like(start)}"
        if not start:
            found = "archive is 0 bytes (the host refused the download)"
        raise DataError(
            f"{where}: {path.name}: {found}; file: {path}; fix: delete and fetch it again"
        ) from error
    return [_in_zip(archive, info, where) for info in archive.infolist() if not info.is_dir()]


def _in_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> Entry:
    place = f"{archive.filename}:{info.filename}"

    def read() -> bytes:
        try:
            return archive.read(info)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise DataError(
                f"{where}: {place}: corrupt ({error}); fix: delete the archive and fetch it again"
            ) from error

    return Entry(info.filename, place, info.file_size, info.CRC, read)
