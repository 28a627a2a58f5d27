"""MNIST and its layout: four IDX files of 28 x 28 grey images in 10 classes."""

import importlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from snnrun.data.base import Dataset
from snnrun.data.idx import damaged, read_idx
from snnrun.data.places import candidates, home
from snnrun.errors import DataError

PREFIX = {"train": "train", "test": "t10k"}
FILES = tuple(
    f"{p}-{kind}-ubyte" for p in PREFIX.values() for kind in ("images-idx3", "labels-idx1")
)


@dataclass(kw_only=True)
class MNIST(Dataset):
    """Handwritten digits (LeCun et al., 1998).

    With `root` only that folder is searched. Without it: `$SNNRUN_DATA`, the user's cache, then
    where the system's package manager puts the set. Files may be gzipped; sources are only read.
    """

    archive: ClassVar[str] = "MNIST"  # torchvision's class, and the name of its folder
    system_folders: ClassVar[tuple[str, ...]] = ()
    remedy: ClassVar[str] = ""  # what to do besides dataset.root and dataset.download

    @property
    def classes(self) -> int:
        """Ten digits, or ten kinds of clothing."""
        return 10

    @property
    def shape(self) -> tuple[int, int, int]:
        """One grey channel."""
        return 1, 28, 28

    def read(self, split: str, timesteps: int) -> tuple[Tensor, Tensor]:
        """Images [N,1,28,28] and labels [N] of one split."""
        files, where = self._files(), f"{self.name}/{split}"
        path = files[f"{PREFIX[split]}-images-idx3-ubyte"]
        images, digest = read_idx(path, dims=3, where=where)
        if images.shape[1:] != self.shape[1:]:
            found = "x".join(map(str, images.shape[1:]))
            raise damaged(where, path, f"images of {found} pixels, expected 28x28")
        self.check_content(path, digest, where)
        path = files[f"{PREFIX[split]}-labels-idx1-ubyte"]
        labels, digest = read_idx(path, dims=1, where=where)
        self.check_content(path, digest, where)
        return images.unsqueeze(1), labels.to(torch.int64)

    def check_content(self, path: Path, digest: str, where: str) -> None:
        """Compare the md5 of a decompressed file with what is known of it: nothing for MNIST."""

    def _files(self) -> dict[str, Path]:
        """The four files by their plain names, fetched first if that is allowed.

        Raises:
            DataError: naming every folder looked at, or the files missing from the best one.
        """
        found = self._search()
        if len(found) < len(FILES) and self.download:
            self._fetch()
            found = self._search()
        if len(found) == len(FILES):
            return found
        if found:
            missing = ", ".join(name for name in FILES if name not in found)
            folder = next(iter(found.values())).parent
            what = f"{self.name} is incomplete: {folder} lacks {missing}"
        else:
            what = f"{self.name} not found; looked in: {', '.join(map(str, self._folders()))}"
        raise DataError(
            f"{what}; fix: {self.remedy}dataset.root=FOLDER with the four files, "
            "or dataset.download=true"
        )

    def _search(self) -> dict[str, Path]:
        """What the first complete folder holds, else the fullest."""
        return max(map(_present, self._folders()), key=len)

    def _folders(self) -> list[Path]:
        nested = candidates(self.root, self.name, f"{self.archive}/raw")
        if self.root is not None:
            return [*nested, home(self.root) / "raw"]
        return [*nested, *map(Path, self.system_folders)]

    def _fetch(self) -> None:
        """Download through torchvision; files appear whole, links are replaced, not followed."""
        target = home(self.root) / self.archive / "raw"
        try:
            home(self.root).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=home(self.root)) as scratch:
                source = importlib.import_module("torchvision.datasets")
                getattr(source, self.archive)(scratch, download=True)
                target.mkdir(parents=True, exist_ok=True)
                for name in FILES:
                    (Path(scratch) / self.archive / "raw" / name).replace(target / name)
        except (ImportError, OSError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"{self.name}: download to {target} failed: {reason}; "
                f"fix: {self.remedy}dataset.root=FOLDER with the four files"
            ) from error


def _present(folder: Path) -> dict[str, Path]:
    candidates = ((name, folder / (name + end)) for name in FILES for end in (".gz", ""))
    return {name: path for name, path in candidates if path.is_file()}
