"""Downloads that appear whole and verified, or not at all."""

import hashlib
import http.client
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snnrun.data.progress import tracked
from snnrun.errors import DataError

BLOCK = 2**20  # bytes
TIMEOUT_S = 60


@dataclass(frozen=True)
class Archive:
    """A published file; `url` is None where only a person gets through."""

    name: str
    md5: str | None
    url: str | None
    page: str

    @property
    def manual(self) -> str:
        """How to get it by hand."""
        check = f" (md5 {self.md5})" if self.md5 else ""
        return f"{self.name}{check} from {self.url or self.page}"


def fetch(archive: Archive, folder: Path, name: str) -> Path:
    """Download a file into a folder.

    Args:
        archive: what to fetch.
        folder: made if needed.
        name: of the dataset, for messages.

    Returns:
        Where the file is.

    Raises:
        DataError: if it cannot be had, is not the published one, or cannot be written.
    """
    target = folder / archive.name
    if target.is_file():
        return target
    part = target.with_name(target.name + ".part")
    try:
        if archive.url is None:
            raise OSError("its host admits only browsers")
        folder.mkdir(parents=True, exist_ok=True)
        digest = _receive(archive.url, part, archive.name)
        if archive.md5 not in (None, digest):
            raise OSError(f"{part.stat().st_size} bytes with md5 {digest}, expected {archive.md5}")
        part.replace(target)
    except (OSError, http.client.HTTPException) as error:
        part.unlink(missing_ok=True)
        raise DataError(
            f"{name}: download failed: {error}; fix: get {archive.manual}, put it in {folder}"
        ) from error
    return target


def unpacked(archive: Path, name: str) -> Path:
    """Unpack a compressed tar archive where it lies; others are read as they are.

    Returns:
        The archive.

    Raises:
        DataError: if it is damaged, holds paths outside itself, or cannot be written.
    """
    if archive.suffix != ".gz":
        return archive
    try:
        with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
            with tarfile.open(archive) as tar:
                tar.extractall(scratch, filter="data")
            for item in Path(scratch).iterdir():
                item.replace(archive.parent / item.name)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(
            f"{name}: {archive} cannot be unpacked: {error}; fix: delete and fetch it again"
        ) from error
    return archive


def _receive(url: str, part: Path, name: str) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, part.open("wb") as file:
        total = -(-int(answer.headers.get("Content-Length") or 0) // BLOCK)
        for block in tracked(_blocks(answer), f"downloading {name}", total):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def _blocks(answer: Any) -> Iterator[bytes]:
    while block := answer.read(BLOCK):
        yield block
