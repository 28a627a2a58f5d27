"""CIFAR-10 and CIFAR-100: 32 x 32 colour images (Krizhevsky, 2009), in their Python batches."""

import hashlib
import importlib
import io
import logging
import pickle
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from snnrun.data.base import Dataset
from snnrun.data.idx import damaged
from snnrun.data.places import candidates, home
from snnrun.errors import DataError

log = logging.getLogger(__name__)

Files = dict[str, dict[str, str]]  # split -> file name -> md5
VALUES = 3 * 32 * 32


@dataclass(kw_only=True)
class CIFAR10(Dataset):
    """50000 training and 10000 test images; `verify` refuses files of any other content.

    Only the folder `cifar-10-batches-py` is read: in `root`, `$SNNRUN_DATA` or the user's cache, or
    the root itself.
    """

    verify: bool

    archive: ClassVar[str] = "CIFAR10"  # torchvision's class
    folder: ClassVar[str] = "cifar-10-batches-py"
    labels_key: ClassVar[str] = "labels"
    files: ClassVar[Files] = {
        "train": {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
    }

    @property
    def classes(self) -> int:
        """Ten kinds of animals and vehicles."""
        return 10

    @property
    def shape(self) -> tuple[int, int, int]:
        """Red, green and blue."""
        return 3, 32, 32

    def read(self, split: str, timesteps: int) -> tuple[Tensor, Tensor]:
        """Images [N,3,32,32] and labels [N] of one split."""
        folder, where = self._folder(), f"{self.name}/{split}"
        parts = [self._batch(folder / name, md5, where) for name, md5 in self.files[split].items()]
        return torch.cat([images for images, _ in parts]), torch.cat(
            [labels for _, labels in parts]
        )

    def _batch(self, path: Path, md5: str, where: str) -> tuple[Tensor, Tensor]:
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise DataError(f"{where}: {path} cannot be read: {error.strerror}") from error
        self._check_content(path, raw, md5, where)
        batch = unpickled(raw, path, where)
        data, labels = batch.get("data"), batch.get(self.labels_key)
        if not (isinstance(data, _Bytes) and isinstance(labels, list)):
            raise damaged(where, path, f"no byte array 'data' with a list '{self.labels_key}'")
        pixels = data.values
        if pixels.ndim != 2 or pixels.shape[1] != VALUES:
            raise damaged(where, path, f"'data' of shape {pixels.shape}, expected (N, {VALUES})")
        if len(pixels) != len(labels) or not all(_whole(label) for label in labels):
            raise damaged(
                where, path, f"{len(pixels)} images but {len(labels)} whole-number labels"
            )
        return torch.from_numpy(pixels.copy()).view(-1, *self.shape), torch.tensor(labels)

    def _check_content(self, path: Path, raw: bytes, expected: str, where: str) -> None:
        if not raw:
            raise damaged(where, path, "empty file")
        digest = hashlib.md5(raw, usedforsecurity=False).hexdigest()
        if digest == expected:
            return
        what = f"{where}: {path} is not the published file: md5 {digest}, expected {expected}"
        if self.verify:
            raise DataError(f"{what}; fix: fetch it again, or dataset.verify=false")
        log.warning("%s; used because dataset.verify=false", what)

    def _folder(self) -> Path:
        """The folder with all files, fetched first if that is allowed.

        Raises:
            DataError: naming every folder looked at, or the files missing from the best one.
        """
        places = candidates(self.root, self.folder, f"{self.name}/{self.folder}", self.name)
        best = min(places, key=lambda place: len(self._missing(place)))
        if self._missing(best) and self.download:
            best = self._fetch()
        missing = self._missing(best)
        if not missing:
            return best
        if len(missing) < sum(map(len, self.files.values())):
            what = f"{self.name} is incomplete: {best} lacks {', '.join(missing)}"
        else:
            what = f"{self.name} not found; looked in: {', '.join(map(str, places))}"
        raise DataError(
            f"{what}; fix: dataset.root=FOLDER that holds {self.folder}, or dataset.download=true"
        )

    def _missing(self, folder: Path) -> list[str]:
        names = [name for split in self.files.values() for name in split]
        return [name for name in names if not (folder / name).is_file()]

    def _fetch(self) -> Path:
        """Download and unpack through torchvision; the folder appears whole."""
        target = home(self.root) / self.folder
        try:
            home(self.root).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=home(self.root)) as scratch:
                source = importlib.import_module("torchvision.datasets")
                getattr(source, self.archive)(scratch, download=True)
                target.mkdir(exist_ok=True)
                for file in (Path(scratch) / self.folder).iterdir():
                    file.replace(target / file.name)
        except (ImportError, OSError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"{self.name}: download to {target} failed: {reason}; "
                f"fix: dataset.root=FOLDER that holds {self.folder}"
            ) from error
        return target


@dataclass(kw_only=True)
class CIFAR100(CIFAR10):
    """100 fine classes; the 20 coarse ones are not used."""

    archive: ClassVar[str] = "CIFAR100"
    folder: ClassVar[str] = "cifar-100-python"
    labels_key: ClassVar[str] = "fine_labels"
    files: ClassVar[Files] = {
        "train": {"train": "16019d7e3df5f24257cddd939b257f8d"},
        "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    }

    @property
    def classes(self) -> int:
        """A hundred kinds of things."""
        return 100


def _whole(label: object) -> bool:
    return type(label) is int and abs(label) < 2**31


class _Bytes:
    """Stands for a numpy array while unpickling: only bytes, only a shape that fits them.

    numpy's own classes are never given damaged state, which they do not always survive.
    """

    def __init__(self, *_: Any):
        self.values: np.ndarray = np.zeros(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, column_major, raw = state
        if kind.name != "u1" or column_major:
            raise pickle.UnpicklingError("an array of other than bytes in row order")
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        self.values = np.frombuffer(raw, np.uint8).reshape(shape)


class _Kind:
    """Stands for a numpy dtype."""

    def __init__(self, name: str, *_: Any):
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment say nothing about bytes."""


class _ArraysOnly(pickle.Unpickler):
    """Builds byte arrays and plain containers; any other global is refused unread."""

    def find_class(self, module: str, name: str) -> Any:
        """See pickle.Unpickler."""
        allowed = {"_reconstruct": _Bytes, "ndarray": _Bytes, "dtype": _Kind, "encode": _encode}
        if module.partition(".")[0] in ("numpy", "_codecs") and name in allowed:
            return allowed[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def _encode(text: str, encoding: str) -> bytes:
    """How byte strings travel in old protocols, for the one encoding that numpy uses."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not allowed")
    return text.encode("latin1")


def unpickled(raw: bytes, path: Path, where: str) -> dict[str, Any]:
    """The dictionary of one batch, built without executing anything.

    Raises:
        DataError: if it is not a pickled dictionary of arrays and plain values.
    """
    try:
        content = _ArraysOnly(io.BytesIO(raw), encoding="latin1").load()
    except Exception as error:  # damaged pickles raise nearly everything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise damaged(where, path, f"cannot be decoded: {reason}") from error
    if not isinstance(content, dict):
        raise damaged(where, path, f"holds a {type(content).__name__}, expected a dictionary")
    return content
