"""Batches for training: taken from a store as bytes, changed as a whole, made floats last."""

from collections.abc import Iterator

import torch
from torch import Tensor

from snnrun.data.augment import Augment
from snnrun.data.encode import Encoding, latency_spikes, poisson_spikes, spike_steps
from snnrun.data.seeds import generator
from snnrun.data.store import Samples


class Batcher:
    """Yields encoded batches whose content depends on (seed, epoch, position) only.

    The global random state is neither read nor changed, so a run resumed at batch k sees exactly
    what the uninterrupted run would have seen.
    """

    def __init__(
        self,
        store: Samples,
        *,
        encoding: Encoding,
        augment: Augment | None,
        batch_size: int,
        timesteps: int,
        seed: int,
        dtype: torch.dtype,
        shuffle: bool,
    ) -> None:
        self.store = store
        self.encoding = encoding
        self.augment = augment
        self.batch_size = batch_size
        self.timesteps = timesteps
        self.seed = seed
        self.dtype = dtype
        self.shuffle = shuffle
        device = store.labels.device
        shape = (-1, 1, 1)
        self._scale = (1 / (store.peak * store.std)).to(dtype).view(shape)
        self._shift = (-store.mean / store.std).to(dtype).view(shape)
        # Event counts stay as they are, and two passes over every batch are spared.
        self._as_is = bool((self._scale == 1).all() and (self._shift == 0).all())
        self._fill = (store.mean * store.peak).round().to(torch.uint8)
        self._steps = spike_steps(encoding, peak=store.peak, timesteps=timesteps).to(device)

    def __len__(self) -> int:
        """Batches per epoch; the last one may be smaller."""
        return -(-len(self.store) // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch from position `start` on.

        Yields:
            Input [T,B,C,H,W] of the batcher's dtype and labels [B], int64. Directly encoded images
            are a view with stride 0 over time.
        """
        order = self._order(epoch).split(self.batch_size)[start:]
        draws = None if self.augment is None else ("decode", self.seed, epoch)
        samples = self.store.batches(order, draws)
        for batch, (index, pixels) in enumerate(zip(order, samples, strict=True), start):
            if self.augment is not None and self.augment.active:
                key = generator("augment", self.seed, epoch, batch)
                pixels = self.augment.apply(pixels, self._fill, key)
            yield self._encode(pixels, epoch, batch), self.store.labels.index_select(0, index)

    def _order(self, epoch: int) -> Tensor:
        device = self.store.labels.device
        if not self.shuffle:
            return torch.arange(len(self.store), device=device)
        draws = generator("order", self.seed, epoch)
        return torch.randperm(len(self.store), generator=draws).to(device)

    def _encode(self, pixels: Tensor, epoch: int, batch: int) -> Tensor:
        if not self.store.static:
            return self._normalised(pixels.transpose(0, 1).contiguous())
        if self.encoding.name == "direct":
            return self._normalised(pixels).expand(self.timesteps, *pixels.shape)
        if self.encoding.name == "poisson":
            draws = generator("poisson", self.seed, epoch, batch, device=pixels.device)
            gain = self.encoding.gain / self.store.peak
            return poisson_spikes(pixels, gain, self.timesteps, self.dtype, draws)
        return latency_spikes(pixels, self._steps, self.timesteps, self.dtype)

    def _normalised(self, pixels: Tensor) -> Tensor:
        values = pixels.to(self.dtype)
        return values if self._as_is else values.mul_(self._scale).add_(self._shift)
