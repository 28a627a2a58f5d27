"""Augmentation of whole uint8 batches: every sample has its own draw, every batch is one gather."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from snnrun.errors import choice, require

POLICIES = ("none", "cifar10", "imagenet", "svhn")


@dataclass(kw_only=True)
class Augment:
    """Random changes to training samples; a clip gets one draw for all its frames.

    In this order: `crop` pads by that many black pixels and cuts a window of the old size; `flip`
    mirrors half of the samples left to right; `roll` shifts by up to that many pixels each way,
    what leaves on one side coming back on the other (Li et al., 2022, for event data); `auto`
    applies a learnt policy of colour and shape changes (AutoAugment, Cubuk et al., 2019), to images
    only; `cutout` paints a square of that side with the mean pixel, its centre anywhere in the
    image (DeVries and Taylor, 2017).
    """

    crop: int  # pixels, 0 = off
    flip: bool
    roll: int  # pixels, 0 = off
    auto: str  # none | cifar10 | imagenet | svhn
    cutout: int  # pixels, 0 = off

    def __post_init__(self) -> None:
        for key in ("crop", "roll", "cutout"):
            value = getattr(self, key)
            require(value >= 0, f"augment.{key}: {value} is not 0 or more")
        choice("augment.auto", self.auto, POLICIES)

    @property
    def active(self) -> bool:
        """At least one kind is switched on."""
        sizes = self.crop + self.roll + self.cutout
        return sizes > 0 or self.flip or self.auto != "none"

    def apply(self, pixels: Tensor, fill: Tensor, draws: torch.Generator) -> Tensor:
        """A changed copy of a batch.

        Args:
            pixels: uint8 images [B,C,H,W] or clips [B,T,C,H,W] of any type.
            fill: [C], the value that cutout paints.
            draws: generator on the CPU, so that every device sees the same changes.

        Returns:
            Shape and type of `pixels`.
        """
        planes = pixels.flatten(1, -3)  # [B, C or T*C, H, W]
        batch, channels, height, width = planes.shape

        def draw(below: int) -> Tensor:
            return torch.randint(below, (batch,), generator=draws).to(pixels.device)

        if self.crop or self.flip:
            top, left = draw(2 * self.crop + 1), draw(2 * self.crop + 1)
            mirrored = torch.zeros(batch, dtype=torch.bool)
            if self.flip:
                mirrored = torch.randint(2, (batch,), generator=draws).bool()
            planes = crop_flip(planes, self.crop, top, left, mirrored)
        if self.roll:
            down, right = draw(2 * self.roll + 1) - self.roll, draw(2 * self.roll + 1) - self.roll
            planes = roll(planes, down, right)
        if self.auto != "none":
            planes = learnt_policy(planes, self.auto, draws)
        if self.cutout:
            fill = fill.to(planes.dtype).repeat(channels // len(fill))
            planes = cut_out(planes, self.cutout, draw(height), draw(width), fill)
        return planes.view(pixels.shape)


def crop_flip(planes: Tensor, pad: int, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
    """Pad with zeros, cut each sample's own window, mirror some of the windows.

    Args:
        planes: [B,C,H,W].
        pad: pixels added on each side.
        top: first row of the window in the padded image [B].
        left: first column of the window [B].
        mirrored: which windows are flipped left to right [B], bool, on the CPU: no device is asked.

    Returns:
        [B,C,H,W].
    """
    batch, channels, height, width = planes.shape
    length = width + 2 * pad  # of a padded row
    padded = F.pad(planes, (pad, pad, pad, pad)).view(-1)
    # A row of a window is a run of neighbours in memory, copied at once: a view of all such runs.
    runs = padded.as_strided((len(padded) - width + 1, width), (1, 1))
    plane = torch.arange(batch * channels, device=planes.device).view(batch, channels)
    first = (plane * (height + 2 * pad) + top[:, None]) * length + left[:, None]  # [B, C]
    row = torch.arange(0, height * length, length, device=planes.device)
    windows = runs.index_select(0, (first[:, :, None] + row).view(-1)).view(planes.shape)
    chosen = mirrored.nonzero().squeeze(1).to(planes.device)
    return windows.index_copy_(0, chosen, windows.index_select(0, chosen).flip(-1))


def roll(planes: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Shift every sample cyclically by its own distance.

    Args:
        planes: [B,C,H,W].
        down: pixels [B], negative is up.
        right: pixels [B], negative is left.

    Returns:
        [B,C,H,W].
    """
    batch, channels, height, width = planes.shape
    rows = (torch.arange(height, device=planes.device) - down[:, None]) % height  # [B, H]
    columns = (torch.arange(width, device=planes.device) - right[:, None]) % width  # [B, W]
    index = rows[:, :, None] * width + columns[:, None, :]
    index = index.view(batch, 1, height * width).expand(-1, channels, -1)
    return planes.flatten(2).gather(2, index).view(planes.shape)


def learnt_policy(images: Tensor, policy: str, draws: torch.Generator) -> Tensor:
    """AutoAugment of torchvision, image by image: a batch-wide draw would change all alike.

    Args:
        images: uint8 [B,C,H,W], C = 1 or 3.
        policy: cifar10 | imagenet | svhn.
        draws: generator on the CPU.

    Returns:
        uint8 [B,C,H,W].
    """
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    change = AutoAugment(AutoAugmentPolicy(policy))
    seed = int(torch.randint(2**62, (), generator=draws))
    # torchvision draws from the global generator, which must come out as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.stack([change(image) for image in images])


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
