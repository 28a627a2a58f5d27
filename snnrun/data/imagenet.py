"""ImageNet (ILSVRC 2012): photographs in folders by class, decoded while training."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from snnrun.data.base import Dataset
from snnrun.data.places import candidates
from snnrun.data.problems import Problems
from snnrun.data.seeds import generator
from snnrun.data.store import Key
from snnrun.errors import DataError, require

FOLDERS = {"train": "train", "test": "val"}
CLASS = re.compile(r"n\d{8}")
IMAGES = (".jpeg", ".jpg", ".png")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the training set, as in torchvision
MARGIN = 256 / 224  # the shorter side is scaled to this multiple of the crop for evaluation


@dataclass(kw_only=True)
class ImageNet(Dataset):
    """`train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`; the validation images are the test set.

    `num_classes` folders are expected, `allow_partial` takes fewer; `skip_bad` images that cannot
    be decoded are replaced by black ones before an epoch fails.
    """

    num_classes: int
    image_size: int
    workers: int
    allow_partial: bool
    skip_bad: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, least in (("num_classes", 1), ("image_size", 1), ("workers", 0), ("skip_bad", 0)):
            value = getattr(self, key)
            require(value >= least, f"{key}: {value} is not {least} or more")

    @property
    def classes(self) -> int:
        """As many as published, even if fewer are there."""
        return self.num_classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """Red, green and blue of the crop."""
        return 3, self.image_size, self.image_size

    def read(self, split: str, timesteps: int) -> tuple[Tensor, Tensor]:
        """All images of a split decoded as for evaluation [N,3,S,S], and labels [N]."""
        store = self.store(split, timesteps)
        images = store.batches(torch.arange(len(store)).split(64), None)
        return torch.cat([*images]), store.labels

    def find(self) -> None:
        """Look at folders and file names; images are decoded when they are needed.

        Raises:
            DataError: naming everything missing.
        """
        problems = Problems()
        for split in FOLDERS:
            with problems.caught():
                self._files(split)
        problems.report()

    def store(self, split: str, timesteps: int) -> "FolderStore":
        """See Dataset.store; classes take turns, so that any first N hold all of them."""
        files = self._files(split)
        order = sorted(
            (rank, label) for label, paths in enumerate(files) for rank in range(len(paths))
        )
        order = order[: self.limit]
        return FolderStore(
            paths=[str(files[label][rank]) for rank, label in order],
            size=self.image_size,
            workers=self.workers,
            skip_bad=self.skip_bad,
            where=f"{self.name}/{split}",
            labels=torch.tensor([label for _, label in order]),
            peak=255,
            mean=torch.tensor(MEAN),
            std=torch.tensor(STD),
        )

    def _files(self, split: str) -> list[list[Path]]:
        """Sorted image files of every class, classes in order of their names."""
        where = f"{self.name}/{split}"
        places = [place / FOLDERS[split] for place in candidates(self.root, self.name, "ImageNet")]
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            raise DataError(
                f"{where} not found; looked in: {', '.join(map(str, places))}; fix: dataset.root="
                "FOLDER with train/<wnid>/ and val/<wnid>/; its terms forbid a download from here"
            )
        inside = sorted(
            p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))
        )
        files = [sorted(p for p in c.iterdir() if p.suffix.lower() in IMAGES) for c in inside]
        problems = Problems()
        problems.found += [
            f"{where}: unexpected folder '{c.name}'; file: {c}; fix: move it away"
            for c in inside
            if not CLASS.fullmatch(c.name)
        ]
        full = sum(map(bool, files))
        if not self.allow_partial:
            found = f"found {full} of {self.num_classes} classes"
            fix = f"fix: fetch the rest, or dataset.allow_partial=true; file: {folder}"
            empty = [c.name for c, paths in zip(inside, files, strict=True) if not paths]
            problems.found += [
                f"{where}: class folder '{n}' is empty; {found}; {fix}" for n in empty
            ]
            if full != self.num_classes and not empty:
                problems.found.append(f"{where}: {found}; {fix}")
        elif not 0 < full <= self.num_classes:
            problems.found.append(
                f"{where}: found {full} classes, expected 1 to {self.num_classes}"
            )
        problems.report()
        return files


@dataclass(kw_only=True)
class FolderStore:
    """Images decoded batch by batch by worker processes; what they draw depends on no worker."""

    paths: list[str]
    size: int
    workers: int
    skip_bad: int
    where: str
    labels: Tensor
    peak: int
    mean: Tensor
    std: Tensor

    static: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order: Sequence[Tensor], draws: Key | None) -> Iterator[Tensor]:
        """See Samples.batches; draws of a training image depend on the key and the image alone."""
        decoding = Decoding([index.tolist() for index in order], self.paths, self.size, draws)
        bad = 0
        for images, failures in DataLoader(
            decoding,  # type: ignore[arg-type]  # anything with a length and items will do
            batch_size=None,
            num_workers=min(self.workers, len(order)),
            pin_memory=self.labels.is_cuda,
            generator=generator("workers"),  # else its seed comes from the global generator
        ):
            bad += len(failures)
            if bad > self.skip_bad:
                raise DataError(
                    f"{self.where}: {failures[-1]}; fix: fetch it again, or dataset.skip_bad={bad}"
                )
            yield images.to(self.labels.device, non_blocking=True)

    def select(self, index: Tensor, device: torch.device) -> "FolderStore":
        """See Samples.select; images stay on disk."""
        return replace(
            self,
            paths=[self.paths[i] for i in index.tolist()],
            labels=self.labels[index].to(device),
            mean=self.mean.to(device),
            std=self.std.to(device),
        )


@dataclass
class Decoding:
    """Item i is the i-th batch, uint8 [B,3,S,S], and what could not be decoded."""

    order: list[list[int]]
    paths: list[str]
    size: int
    draws: Key | None

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, batch: int) -> tuple[Tensor, list[str]]:
        images = torch.zeros(len(self.order[batch]), 3, self.size, self.size, dtype=torch.uint8)
        failures = []
        for place, sample in enumerate(self.order[batch]):
            try:
                images[place] = self._image(sample)
            except (OSError, ValueError, SyntaxError) as error:
                failures.append(
                    f"{self.paths[sample]} (sample {sample}) cannot be decoded: {error}"
                )
        return images, failures

    def _image(self, sample: int) -> Tensor:
        """A random part (inception crop) if there is a key to draw by, else the centre."""
        from PIL import Image
        from torchvision.transforms import functional as shape

        with Image.open(self.paths[sample]) as file:
            image = file.convert("RGB")
        if self.draws is None:
            image = shape.resize(image, round(self.size * MARGIN))
            image = shape.center_crop(image, [self.size, self.size])
        else:
            top, left, height, width = random_part(image.height, image.width, (*self.draws, sample))
            image = shape.resized_crop(image, top, left, height, width, [self.size, self.size])
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def random_part(height: int, width: int, key: Key) -> tuple[int, int, int, int]:
    """Top, left, height and width of 8 to 100 % of an image, sides 3:4 to 4:3 (Szegedy, 2015).

    Falls back to the whole image where ten draws do not fit into it.
    """
    draws = generator(*key)
    for area, ratio, y, x in torch.rand(10, 4, generator=draws, dtype=torch.float64).tolist():
        target = (0.08 + 0.92 * area) * height * width
        aspect = (3 / 4) ** (1 - 2 * ratio)
        rows, columns = round((target / aspect) ** 0.5), round((target * aspect) ** 0.5)
        if 0 < rows <= height and 0 < columns <= width:
            return int(y * (height - rows + 1)), int(x * (width - columns + 1)), rows, columns
    return 0, 0, height, width
