"""From events to frames: one rule that gives every event its step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrun.errors import choice, require


@dataclass(kw_only=True)
class Binning:
    """How T steps divide a recording.

    - `time`: T equal parts of `duration_ms` from time 0 on; what comes later counts for the last
      step. Without a duration each recording is divided from its first to its last event.
    - `count`: T parts of equal numbers of events, the remainder in the last one (the DVS loaders
      of OTTT and DSR).
    - `window`: parts of `window_ms` from time 0 on, cut or padded to T steps (SSGD). `rounding`
      puts the border between two steps at the window's end (floor) or middle (round).

    `compat` reproduces other loaders on `time` and `count`, each recording from its first event on:
    `tonic` drops what is left over by whole-number bin widths, among it always the last event;
    `spikingjelly` adds it to the last step.
    """

    by: str
    duration_ms: float | None  # time; null = each recording's own
    window_ms: float  # window
    rounding: str  # window
    compat: str

    def __post_init__(self) -> None:
        choice("binning.by", self.by, ("time", "count", "window"))
        choice("binning.rounding", self.rounding, ("floor", "round"))
        choice("binning.compat", self.compat, ("none", "tonic", "spikingjelly"))
        for key in ("duration_ms", "window_ms"):
            value = getattr(self, key)
            require(value is None or value > 0, f"binning.{key}: {value} is not above 0")
        require(
            self.compat == "none" or self.by != "window",
            f"binning.compat: {self.compat} goes with binning.by=time or count",
        )

    def steps(self, time: Tensor, lengths: Tensor, timesteps: int) -> Tensor:
        """The step of every event.

        Args:
            time: us [E], ascending within each recording.
            lengths: events per recording [B], one behind the other in `time`.
            timesteps: T.

        Returns:
            int64 [E] in 0..T; T stands for "not counted".
        """
        first = lengths.cumsum(0) - lengths
        if self.by == "count":
            rank = torch.arange(len(time), device=time.device)
            rank -= first.repeat_interleave(lengths)
            return self._equal_counts(rank, lengths, timesteps)
        if self.by == "window":
            # Exact: microseconds below 2^31 and their quotients fit a float64.
            at = time.double() / (self.window_ms * 1e3)
            at = at.round() if self.rounding == "round" else at.floor()
            return at.long().clamp_(max=timesteps)
        if self.compat == "none" and self.duration_ms is not None:
            at = time.double().mul_(timesteps).div_(self.duration_ms * 1e3)
            return at.long().clamp_(max=timesteps - 1)
        return self._own_length(time.long(), first, lengths, timesteps)

    def _equal_counts(self, rank: Tensor, lengths: Tensor, timesteps: int) -> Tensor:
        share = (lengths // timesteps).repeat_interleave(lengths)
        step = rank // share.clamp(min=1)
        if self.compat == "tonic":
            return torch.where(share > 0, step, timesteps).clamp_(max=timesteps)
        return step.clamp_(max=timesteps - 1)

    def _own_length(self, time: Tensor, first: Tensor, lengths: Tensor, timesteps: int) -> Tensor:
        kept = lengths > 0
        start = torch.zeros_like(lengths)
        span = torch.zeros_like(lengths)
        start[kept] = time[first[kept]]
        span[kept] = time[(first + lengths)[kept] - 1] - start[kept]
        since = time - start.repeat_interleave(lengths)
        if self.compat == "none":
            step = since * timesteps // span.clamp(min=1).repeat_interleave(lengths)
            return step.clamp_(max=timesteps - 1)
        width = (span // timesteps).repeat_interleave(lengths)
        step = since // width.clamp(min=1)
        if self.compat == "tonic":
            return torch.where(width > 0, step, timesteps).clamp_(max=timesteps)
        return torch.where(width > 0, step, timesteps - 1).clamp_(max=timesteps - 1)


def frames(
    address: Tensor, steps: Tensor, lengths: Tensor, *, cells: int, timesteps: int
) -> Tensor:
    """Count the events of each recording, step and cell.

    Args:
        address: cell of each event [E], 0..cells-1.
        steps: step of each event [E], `timesteps` for those not counted.
        lengths: events per recording [B].
        cells: F, cells of one frame.
        timesteps: T.

    Returns:
        float32 [T, B, F]; counts, so exact up to 2^24.
    """
    batch = len(lengths)
    start = torch.arange(0, batch * cells, cells, device=address.device)
    index = start.repeat_interleave(lengths).add_(address).add_(steps, alpha=batch * cells)
    flat = torch.zeros(timesteps * batch * cells, device=address.device)
    counted = steps < timesteps
    # Most often nothing is dropped, and the copies need not be made.
    if not counted.all():
        index = index[counted]
    ones = torch.ones(1, device=address.device).expand(len(index))
    return flat.scatter_add_(0, index, ones).view(timesteps, batch, cells)
