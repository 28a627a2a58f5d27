"""Converted data on disk: one file per content key, written whole or not at all.

Layout: a line of JSON (key, notes, sha256 of the rest, name, shape, type and place of each array),
then the arrays, each starting at a multiple of 64 bytes after that line.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snnrun.data.events import Events
from snnrun.data.places import cache_home

log = logging.getLogger(__name__)

VERSION = 1  # of the conversion: raise it when equal keys would give other events
ALIGNMENT = 64
BLOCK = 2**22  # bytes
ARRAYS = ("offsets", "address", "time", "labels")


def cached(folder: str | None, key: dict[str, Any], make: Callable[[], Events]) -> Events:
    """The events of a key from the cache, mapped into memory, else made and kept for next time.

    A cache that cannot be written costs one notice, never the run.

    Args:
        folder: of the cache; None = in the user's cache.
        key: everything the result depends on, as plain JSON.
        make: computes the result.
    """
    key = {**key, "version": VERSION}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    place = Path(folder).expanduser() if folder else cache_home() / "converted"
    path = place / f"{name}.events"
    found = _load(path, key) if path.is_file() else None
    if found is not None:
        return found
    events = make()
    try:
        _save(path, key, events)
    except OSError as error:
        log.warning("cache %s not written (%s); going on without it", path, error.strerror)
    return events


def _save(path: Path, key: dict[str, Any], events: Events) -> None:
    arrays: dict[str, np.ndarray] = {name: getattr(events, name).numpy() for name in ARRAYS}
    digest, at = hashlib.sha256(), 0
    layout: dict[str, Any] = {}
    for name, array in arrays.items():
        padded = -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        layout[name] = {"shape": array.shape, "type": array.dtype.str, "at": at}
        digest.update(array.view(np.uint8).data)
        digest.update(bytes(padded - array.nbytes))
        at += padded
    header = {
        "key": key, "notes": events.notes, "sha256": digest.hexdigest(), "size": at,
        "arrays": layout,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            line = json.dumps(header).encode()
            file.write(line.ljust(-(-(len(line) + 1) // ALIGNMENT) * ALIGNMENT - 1) + b"\n")
            for array in arrays.values():
                file.write(array.view(np.uint8).data)
                file.write(bytes(-array.nbytes % ALIGNMENT))
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).replace(path)
    finally:
        Path(scratch).unlink(missing_ok=True)


def _load(path: Path, key: dict[str, Any]) -> Events | None:
    """Content of a cache file; None, with a notice, if it is not exactly what was written."""
    try:
        with path.open("rb") as file:
            line = file.readline()
            header = json.loads(line)
            digest = hashlib.sha256()
            while block := file.read(BLOCK):
                digest.update(block)
        if header["key"] != key or header["sha256"] != digest.hexdigest():
            raise ValueError("its content is not what was written for this key")
        arrays = {name: _mapped(path, len(line), header["arrays"][name]) for name in ARRAYS}
        return Events(**arrays, notes=header["notes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("cache %s is not usable (%s): made again", path, error)
        return None


def _mapped(path: Path, start: int, array: dict[str, Any]) -> torch.Tensor:
    shape, kind = tuple(array["shape"]), np.dtype(array["type"])
    if 0 in shape:
        return torch.from_numpy(np.zeros(shape, kind))
    # Copy-on-write, because torch warns about arrays that cannot be written.
    return torch.from_numpy(np.memmap(path, kind, "c", start + array["at"], shape))
