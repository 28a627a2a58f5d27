"""Events kept as they are, made frames batch by batch; or all at once where the frames fit."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from snnrun.data.binning import Binning, frames
from snnrun.data.events import Events
from snnrun.data.store import Key, Samples, Store

log = logging.getLogger(__name__)

CHUNK = 8  # recordings made bytes at once; larger chunks fall out of the cache
MOST = 255  # events per cell and step that a byte holds


@dataclass(kw_only=True)
class EventStore:
    """Part of an event dataset.

    Attributes:
        events: of the whole split, on the training device, or mapped from a file.
        index: the recordings of this part, int64 [N], on the CPU.
        cells: frame cell of every sensor address, int64 [P_sensor * H_sensor * W_sensor].
        shape: polarities, height, width of a frame.
        limit_bytes: what may be kept on the device.
    """

    events: Events
    index: Tensor
    cells: Tensor
    shape: tuple[int, int, int]
    binning: Binning
    values: str  # count | binary | max
    timesteps: int
    limit_bytes: int
    labels: Tensor
    peak: int
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def static(self) -> bool:
        """Never: frames over time."""
        return False

    def batches(self, order: Sequence[Tensor], draws: Key | None) -> Iterator[Tensor]:
        """See Samples.batches; float32 frames, and nothing is drawn."""
        for index in order:
            yield self.take(index)

    def take(self, index: Tensor) -> Tensor:
        """Frames [B,T,P,H,W], float32, of the samples at `index` [B]; laid out time first."""
        recordings = self.index[index.to(self.index.device)]
        count = self._on_cpu if self.labels.device.type == "cpu" else self._on_device
        counts = count(recordings)
        if self.values == "binary":
            counts.clamp_(max=1)
        elif self.values == "max":
            counts /= counts.amax(2, keepdim=True).clamp_(min=1)
        return counts.unflatten(2, self.shape).transpose(0, 1)

    @property
    def _size(self) -> int:
        """Cells of a frame."""
        return prod(self.shape)

    def _on_cpu(self, recordings: Tensor) -> Tensor:
        """Counts [T,B,F]."""
        from snnrun.data.binning_cpu import frames_cpu  # imports the compiler

        return frames_cpu(
            self.events, recordings, self.binning,
            cells=self.cells, size=self._size, timesteps=self.timesteps,
        )  # fmt: skip

    def _on_device(self, recordings: Tensor) -> Tensor:
        """Counts [T,B,F]; from a mapped file the events come to the CPU first."""
        parts = (part.to(self.labels.device) for part in self.events.part(recordings.tolist()))
        address, time, lengths = parts
        steps = self.binning.steps(time, lengths, self.timesteps)
        cells = self.cells.index_select(0, address.int())
        return frames(cells, steps, lengths, cells=self._size, timesteps=self.timesteps)

    def select(self, index: Tensor, device: torch.device) -> Samples:
        """The samples at `index` [M], for training on a device.

        Frames as bytes if they fit the limit, else the events themselves if they do, else those
        mapped from their file. What comes out of `batches` is the same.
        """
        part = replace(
            self,
            index=self.index[index],
            labels=self.labels[index].to(device),
            cells=self.cells.to(device),
            mean=self.mean.to(device),
            std=self.std.to(device),
        )
        if self.values != "max" and len(part) * self.timesteps * self._size <= self.limit_bytes:
            images = part._as_bytes()
            if images is not None:
                labels, mean, std = part.labels, part.mean, part.std
                return Store(images=images, labels=labels, peak=self.peak, mean=mean, std=std)
        return part._kept_as_events(device)

    def _as_bytes(self) -> Tensor | None:
        """All frames, uint8 [N,T,P,H,W]; None if a byte does not hold the counts."""
        shape = (len(self), self.timesteps, *self.shape)
        images = torch.empty(shape, dtype=torch.uint8, device=self.labels.device)
        for begin in range(0, len(self), CHUNK):
            counts = self.take(torch.arange(begin, min(begin + CHUNK, len(self))))
            if counts.max() > MOST:
                return None
            images[begin : begin + CHUNK] = counts
        return images

    def _kept_as_events(self, device: torch.device) -> "EventStore":
        events = self.events
        size = events.address.nbytes + events.time.nbytes
        if size > self.limit_bytes:
            log.info("%d MiB of events are read from their file", size >> 20)
            return self
        address, time = events.address.to(device), events.time.to(device)
        return replace(self, events=replace(events, address=address, time=time))
