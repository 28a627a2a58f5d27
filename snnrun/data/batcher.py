"""Batches from a resident store: one index_select, one gather, conversion last."""

from collections.abc import Iterator

import torch
from torch import Tensor

from snnrun.data.augment import Augment
from snnrun.data.encode import Encoding, latency_spikes, poisson_spikes, spike_steps
from snnrun.data.seeds import generator
from snnrun.data.store import Store


class Batcher:
    """Yields encoded batches whose content depends on (seed, epoch, position) only.

    The global random state is neither read nor changed, so a run resumed at batch k sees exactly
    what the uninterrupted run would have seen.
    """

    def __init__(
        self,
        store: Store,
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
        self.augment = augment if augment is not None and augment.active else None
        self.batch_size = batch_size
        self.timesteps = timesteps
        self.seed = seed
        self.dtype = dtype
        self.shuffle = shuffle
        device = store.images.device
        shape = (-1, 1, 1)
        self._scale = (1 / (store.peak * store.std)).to(dtype).view(shape)
        self._shift = (-store.mean / store.std).to(dtype).view(shape)
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
        order = self._order(epoch) if self.shuffle else None
        for batch in range(start, len(self)):
            pixels, labels = self._take(order, batch)
            if self.augment is not None:
                draws = generator("augment", self.seed, epoch, batch)
                pixels = self.augment.apply(pixels, self._fill, draws)
            yield self._encode(pixels, epoch, batch), labels

    def _order(self, epoch: int) -> Tensor:
        draws = generator("order", self.seed, epoch)
        return torch.randperm(len(self.store), generator=draws).to(self.store.labels.device)

    def _take(self, order: Tensor | None, batch: int) -> tuple[Tensor, Tensor]:
        here = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
        if order is None:
            return self.store.images[here], self.store.labels[here]
        # index_select, because indexing with a tensor is an order of magnitude slower on uint8.
        index = order[here]
        return self.store.images.index_select(0, index), self.store.labels.index_select(0, index)

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
        return pixels.to(self.dtype).mul_(self._scale).add_(self._shift)
