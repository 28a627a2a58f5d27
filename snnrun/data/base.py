"""The contract of a dataset: a spec that can be looked up, and loaded into three stores."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from snnrun.data.augment import Augment
from snnrun.data.encode import Encoding
from snnrun.data.problems import Problems
from snnrun.data.seeds import generator
from snnrun.data.store import Samples, Store, pixel_statistics
from snnrun.errors import DataError, require


@dataclass(kw_only=True)
class Splits:
    """The parts of a dataset; `validation` is drawn from the training data and may be empty."""

    train: Samples
    validation: Samples
    test: Samples


@dataclass(kw_only=True)
class Dataset(ABC):
    """A data source and how it is served.

    A source states `classes`, `shape` and `read`; everything else has an answer here.
    """

    name: str
    batch_size: int
    epochs: int
    validation: float
    limit: int | None
    encoding: Encoding
    augment: Augment
    root: str | None
    download: bool

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, f"batch_size: {self.batch_size} is not 1 or more")
        require(self.epochs >= 1, f"epochs: {self.epochs} is not 1 or more")
        require(0 <= self.validation < 1, f"validation: {self.validation} is not in [0, 1)")
        require(
            self.limit is None or self.limit >= 1,
            f"limit: {self.limit} is not 1 or more (null: all)",
        )
        require(
            self.static or self.encoding.name == "direct",
            f"encoding.name: {self.encoding.name} is for images; {self.name} has frames over time, "
            "which are given as they are (direct)",
        )

    @property
    @abstractmethod
    def classes(self) -> int:
        """Number of classes; labels run from 0 to one less."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels (or polarities), height, width of one image or frame."""

    @property
    def static(self) -> bool:
        """True for images, False for frames over time."""
        return True

    @property
    def peak(self) -> int:
        """The pixel value that stands for x = 1."""
        return 255

    @abstractmethod
    def read(self, split: str, timesteps: int) -> tuple[Tensor, Tensor]:
        """One split from its source, verified.

        Args:
            split: "train" or "test".
            timesteps: T, for sources that have a time axis.

        Returns:
            uint8 images [N,C,H,W] or frames [N,T,P,H,W], and int64 labels [N], on the CPU.

        Raises:
            DataError: if the data is missing or damaged.
        """

    def find(self) -> None:
        """Make sure, before anything is created, that the data is there and sound.

        Reads everything; a source for which that takes long looks at less.

        Raises:
            DataError: naming everything missing or damaged and what to do about it.
        """
        problems = Problems()
        for split in ("train", "test"):
            with problems.caught():
                self._verified(split, timesteps=1)
        problems.report()

    def load(self, seed: int, device: torch.device, timesteps: int) -> Splits:
        """Read everything, hold out validation samples, move the parts to a device.

        Images are normalised by the statistics of the whole training set, so the constants do not
        change with the seed; event counts are left as they are.

        Raises:
            DataError: if the data is missing or damaged.
        """
        train = self.store("train", timesteps)
        test = self.store("test", timesteps)
        test.mean, test.std = train.mean, train.std
        held = held_out(train.labels, self.validation, seed)
        require(
            len(held) < len(train),
            f"dataset.validation: {self.validation} of {len(train)} samples leaves none",
        )
        kept = torch.ones(len(train), dtype=torch.bool)
        kept[held] = False
        return Splits(
            train=train.select(kept.nonzero().flatten(), device),
            validation=train.select(held, device),
            test=test.select(torch.arange(len(test)), device),
        )

    def store(self, split: str, timesteps: int) -> Samples:
        """One whole split on the CPU, cut to `limit` samples.

        Raises:
            DataError: if the data is missing or damaged.
        """
        images, labels = self._verified(split, timesteps)
        images, labels = images[: self.limit], labels[: self.limit]
        if self.static:
            mean, std = pixel_statistics(images, self.peak)
        else:
            mean, std = torch.zeros(self.shape[0]), torch.ones(self.shape[0])
        return Store(images=images, labels=labels, peak=self.peak, mean=mean, std=std)

    def _verified(self, split: str, timesteps: int) -> tuple[Tensor, Tensor]:
        images, labels = self.read(split, timesteps)
        where = f"{self.name}/{split}"
        if len(images) != len(labels):
            raise DataError(f"{where}: {len(images)} images but {len(labels)} labels")
        check_labels(labels, self.classes, where)
        return images, labels


def check_labels(labels: Tensor, classes: int, where: str) -> None:
    """Refuse labels outside 0..classes-1.

    Raises:
        DataError: naming the first wrong label and its index.
    """
    wrong = ((labels < 0) | (labels >= classes)).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise DataError(f"{where}: label {labels[index]} at index {index}, classes 0-{classes - 1}")


def held_out(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Draw a class-balanced part of the samples.

    Samples are shuffled, then ordered by class, then taken at even distances: each class gives its
    proportional share, rounded up or down.

    Args:
        labels: [N].
        fraction: of the samples to draw; above 0, at least one is drawn.
        seed: of the draw.

    Returns:
        Ascending indices [M], M = round(fraction * N).
    """
    shuffled = torch.randperm(len(labels), generator=generator("held out", seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    count = max(round(fraction * len(labels)), int(fraction > 0))
    places = (torch.arange(count) * 2 + 1) * len(labels) // (2 * max(count, 1))
    return by_class[places].sort().values
