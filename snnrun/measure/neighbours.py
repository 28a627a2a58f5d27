"""How many runs use one device of this machine at the same time.

Times of runs that share a device do not compare. Launchers hand out jobs in many ways, and two
terminals do it without one, so runs are counted where they compute: each holds a locked file, and
the system drops the lock when its process ends, however it ends. Runs of other users, of other
containers, and other programs are not seen.
"""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout


class Neighbours:
    """Runs on a device, the own one included while it is present."""

    def __init__(self, device: torch.device, place: Path | None = None) -> None:
        user = os.getuid() if hasattr(os, "getuid") else "user"
        place = place or Path(tempfile.gettempdir()) / f"snnrun-{user}"
        self._folder = place / _identity(device)

    @contextmanager
    def present(self) -> Iterator[None]:
        """Be counted inside."""
        self._folder.mkdir(parents=True, exist_ok=True)
        own = self._folder / f"{uuid.uuid4().hex}.run"
        lock = FileLock(own)
        with self._door():
            lock.acquire()
        try:
            yield
        finally:
            with self._door():
                lock.release()
                own.unlink(missing_ok=True)

    def look(self) -> int:
        """Count the runs that are there now; what ended processes left behind is removed."""
        with self._door():
            return sum(_held(file) for file in self._folder.glob("*.run"))

    def _door(self) -> FileLock:
        return FileLock(self._folder / "door")


def _held(file: Path) -> bool:
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    file.unlink(missing_ok=True)
    return False


def _identity(device: torch.device) -> str:
    """The same name in every process, whatever CUDA_VISIBLE_DEVICES makes of the numbers."""
    if device.type != "cuda":
        return device.type
    return f"cuda-{torch.cuda.get_device_properties(device).uuid}"
