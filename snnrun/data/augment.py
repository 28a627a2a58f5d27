"""Augmentation of whole uint8 batches: every sample has its own draw, every batch is one gather."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from snnrun.errors import require


@dataclass(kw_only=True)
class Augment:
    """Random changes to training samples; a clip gets one draw for all its frames.

    `crop` pads by that many black pixels and cuts a window of the old size; `flip` mirrors half of
    the samples left to right; `cutout` paints a square of that side with the mean pixel, its centre
    anywhere in the image (DeVries and Taylor, 2017).
    """

    crop: int  # pixels, 0 = off
    flip: bool
    cutout: int  # pixels, 0 = off

    def __post_init__(self) -> None:
        require(self.crop >= 0, f"augment.crop: {self.crop} is not 0 or more")
        require(self.cutout >= 0, f"augment.cutout: {self.cutout} is not 0 or more")

    @property
    def active(self) -> bool:
        """At least one kind is switched on."""
        return self.crop > 0 or self.flip or self.cutout > 0

    def apply(self, pixels: Tensor, fill: Tensor, draws: torch.Generator) -> Tensor:
        """A changed copy of a batch.

        Args:
            pixels: uint8 images [B,C,H,W] or clips [B,T,C,H,W].
            fill: uint8 [C], the value that cutout paints.
            draws: generator on the CPU, so that every device sees the same changes.

        Returns:
            uint8, the shape of `pixels`.
        """
        planes = pixels.flatten(1, -3)  # [B, C or T*C, H, W]
        batch, channels, height, width = planes.shape

        def draw(below: int) -> Tensor:
            return torch.randint(below, (batch,), generator=draws).to(pixels.device)

        if self.crop or self.flip:
            top, left = draw(2 * self.crop + 1), draw(2 * self.crop + 1)
            mirrored = draw(2).bool() if self.flip else torch.zeros_like(top, dtype=torch.bool)
            planes = crop_flip(planes, self.crop, top, left, mirrored)
        if self.cutout:
            fill = fill.repeat(channels // len(fill))
            planes = cut_out(planes, self.cutout, draw(height), draw(width), fill)
        return planes.view(pixels.shape)


def crop_flip(planes: Tensor, pad: int, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
    """Pad with zeros, cut each sample's own window, mirror some of the windows.

    Args:
        planes: [B,C,H,W].
        pad: pixels added on each side.
        top: first row of the window in the padded image [B].
        left: first column of the window [B].
        mirrored: which windows are flipped left to right [B], bool.

    Returns:
        [B,C,H,W].
    """
    batch, channels, height, width = planes.shape
    padded = F.pad(planes, (pad, pad, pad, pad))
    rows = torch.arange(height, device=planes.device)
    columns = torch.arange(width, device=planes.device)
    columns = torch.where(mirrored[:, None], columns.flip(0), columns)  # [B, W]
    row_start = (top[:, None] + rows) * (width + 2 * pad)  # [B, H]
    index = row_start[:, :, None] + (left[:, None] + columns)[:, None, :]  # [B, H, W]
    index = index.view(batch, 1, height * width).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, index).view(planes.shape)


def cut_out(planes: Tensor, side: int, row: Tensor, column: Tensor, fill: Tensor) -> Tensor:
    """Paint one square per sample, clipped at the image's border.

    Args:
        planes: [B,C,H,W].
        side: of the square, pixels.
        row: centre of the square [B].
        column: centre of the square [B].
        fill: value per channel [C].

    Returns:
        [B,C,H,W].
    """

    def inside(centre: Tensor, size: int) -> Tensor:
        offset = torch.arange(size, device=planes.device) - (centre[:, None] - side // 2)
        return (offset >= 0) & (offset < side)  # [B, size]

    height, width = planes.shape[-2:]
    hole = inside(row, height)[:, :, None] & inside(column, width)[:, None, :]  # [B, H, W]
    return torch.where(hole[:, None], fill[:, None, None], planes)
