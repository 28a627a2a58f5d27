"""Made-up samples of any shape: every class has its own mean, so there is something to learn."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from snnrun.data.base import Dataset
from snnrun.data.seeds import generator
from snnrun.errors import require

CHUNK = 256  # samples made at once, so that large shapes never exist as floats as a whole
EVENT_PROBABILITY = 0.4  # of the brightest pixel, per step
EVENT_CONTRAST = 3  # exponent that leaves most pixels silent: about 7 % fire, as in event cameras


@dataclass(kw_only=True)
class Synthetic(Dataset):
    """Images, or binary event frames, around class means that are uniform noise themselves.

    A sample's intensity is (1 - noise) * mean + noise * u, u uniform in [0, 1) and, in frames, new
    at every step; frames fire with a probability that grows with the cube of it. The same samples
    come out for every seed of a run.
    """

    num_classes: int
    size: list[int]  # C (or P), H, W
    frames: bool
    train_samples: int
    test_samples: int
    noise: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_classes >= 1, f"num_classes: {self.num_classes} is not 1 or more")
        whole = len(self.size) == 3 and min(self.size) >= 1
        require(whole, f"size: {self.size} is not [channels, height, width]")
        for key in ("train_samples", "test_samples"):
            require(getattr(self, key) >= 1, f"{key}: {getattr(self, key)} is not 1 or more")
        require(0 <= self.noise <= 1, f"noise: {self.noise} is not in [0, 1]")

    @property
    def classes(self) -> int:
        """As many as asked for."""
        return self.num_classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """As asked for."""
        channels, height, width = self.size
        return channels, height, width

    @property
    def static(self) -> bool:
        """Images unless frames are asked for."""
        return not self.frames

    @property
    def peak(self) -> int:
        """8-bit images; frames count events."""
        return 1 if self.frames else 255

    def find(self) -> None:
        """Nothing to look up: samples are made when they are loaded."""

    def read(self, split: str, timesteps: int) -> tuple[Tensor, Tensor]:
        """Images [N,C,H,W] or frames [N,T,P,H,W], and labels [N] that go round the classes."""
        count = self.train_samples if split == "train" else self.test_samples
        means = torch.rand(self.classes, *self.shape, generator=generator("synthetic means"))
        draws = generator("synthetic", split)
        labels = torch.arange(count) % self.classes
        make = partial(self._events, timesteps) if self.frames else self._images
        return torch.cat([make(means[part], draws) for part in labels.split(CHUNK)]), labels

    def _images(self, means: Tensor, draws: torch.Generator) -> Tensor:
        intensity = means.lerp(torch.rand(means.shape, generator=draws), self.noise)
        return (255 * intensity).round().to(torch.uint8)

    def _events(self, timesteps: int, means: Tensor, draws: torch.Generator) -> Tensor:
        means = means.unsqueeze(1).expand(-1, timesteps, -1, -1, -1)  # [B, T, P, H, W]
        intensity = means.lerp(torch.rand(means.shape, generator=draws), self.noise)
        uniform = torch.rand(means.shape, generator=draws)
        return (uniform < EVENT_PROBABILITY * intensity**EVENT_CONTRAST).to(torch.uint8)
