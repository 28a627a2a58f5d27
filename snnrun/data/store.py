"""What the batcher reads from; and the usual case, samples resident on the device as uint8."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Key = tuple[int | str, ...]


class Samples(Protocol):
    """Part of a dataset.

    Attributes:
        labels: int64 classes [N], on the training device.
        peak: the value that stands for x = 1 (255 for 8-bit images, 1 for event counts).
        mean: mean of x per channel [C], float32.
        std: standard deviation of x per channel [C], float32, never 0.
    """

    labels: Tensor
    peak: int
    mean: Tensor
    std: Tensor

    def __len__(self) -> int: ...

    @property
    def static(self) -> bool:
        """Images without a time axis, as opposed to frames."""

    def batches(self, order: Sequence[Tensor], draws: Key | None) -> Iterator[Tensor]:
        """Images [B,C,H,W] or frames [B,T,P,H,W] on the training device, batch by batch.

        Args:
            order: the samples of each batch, int64 [B] each.
            draws: key of what is drawn while decoding; None = nothing is.
        """

    def select(self, index: Tensor, device: torch.device) -> "Samples":
        """The samples at `index` [M], for training on a device."""


@dataclass(kw_only=True)
class Store:
    """Part of a dataset, resident.

    Attributes:
        images: uint8 images [N,C,H,W], or uint8 frames over time [N,T,P,H,W].
        labels: int64 classes [N], on the same device.
        peak: the pixel value that stands for x = 1 (255 for 8-bit images, 1 for event counts).
        mean: mean of x per channel [C], float32.
        std: standard deviation of x per channel [C], float32, never 0.
    """

    images: Tensor
    labels: Tensor
    peak: int
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def static(self) -> bool:
        """Images without a time axis, as opposed to frames."""
        return self.images.dim() == 4

    def batches(self, order: Sequence[Tensor], draws: Key | None) -> Iterator[Tensor]:
        """See Samples.batches; nothing is drawn."""
        for index in order:
            # index_select: indexing with a tensor is an order of magnitude slower on uint8.
            yield self.images.index_select(0, index)

    def select(self, index: Tensor, device: torch.device) -> "Store":
        """The samples at `index` [M], moved to a device."""
        index = index.to(self.images.device)
        return Store(
            images=self.images.index_select(0, index).to(device),
            labels=self.labels.index_select(0, index).to(device),
            peak=self.peak,
            mean=self.mean.to(device),
            std=self.std.to(device),
        )


def pixel_statistics(images: Tensor, peak: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel of x = v / peak, from exact counts of each value.

    Args:
        images: uint8 [N,C,H,W].
        peak: the pixel value that stands for x = 1.

    Returns:
        Two float32 tensors [C]; a channel that never varies gets standard deviation 1.
    """
    values = torch.arange(256, dtype=torch.float64) / peak
    mean, std = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        centre = (share * values).sum()
        spread = (share * (values - centre) ** 2).sum().sqrt()
        mean.append(centre)
        std.append(torch.where(spread > 0, spread, 1.0))
    return torch.stack(mean).float(), torch.stack(std).float()
