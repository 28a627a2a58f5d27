"""Frames of many recordings on the CPU: compiled, events counted where the batch lies in memory."""

import numpy as np
import torch
from torch import Tensor

from snnrun.data.binning import Binning
from snnrun.data.events import Events
from snnrun.kernels.compiled.machine_code import compiled
from snnrun.kernels.compiled.threads import spread

CHUNK = 8  # recordings whose steps are found at once; more fall out of the cache


def frames_cpu(
    events: Events,
    recordings: Tensor,
    binning: Binning,
    *,
    cells: Tensor,
    size: int,
    timesteps: int,
) -> Tensor:
    """Count the events of some recordings; as `binning.frames`, of which it is the fast form.

    Args:
        events: of the whole split, in memory or mapped from a file.
        recordings: which of them [B].
        binning: the rule that gives every event its step.
        cells: frame cell of every sensor address, int64.
        size: F, cells of one frame.
        timesteps: T.

    Returns:
        float32 [T, B, F].
    """
    begin = events.offsets[recordings]
    lengths = events.offsets[recordings + 1] - begin
    place = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).numpy()
    address, time, at = (x.numpy() for x in (events.address, events.time, begin))
    steps = np.empty(place[-1], np.int32)
    for some in torch.arange(len(recordings)).split(CHUNK):
        lo, hi = int(some[0]), int(some[-1]) + 1
        picked = np.empty(place[hi] - place[lo], np.int32)
        _pick(time, at[lo:hi], place[lo : hi + 1], picked)
        found = binning.steps(torch.from_numpy(picked), lengths[lo:hi], timesteps)
        steps[place[lo] : place[hi]] = found.numpy()
    out = torch.zeros(timesteps, len(recordings), size)
    places = cells.to(torch.int32).numpy()
    spread(
        len(recordings),
        lambda lo, hi: _count(address, at, place, steps, places, out.numpy(), lo, hi),
    )
    return out


@compiled
def _pick(time: np.ndarray, begin: np.ndarray, place: np.ndarray, picked: np.ndarray) -> None:
    """Copy the times of recordings one behind the other."""
    for b in range(begin.size):
        shift = begin[b] - place[b]
        for e in range(place[b], place[b + 1]):
            picked[e - place[0]] = time[e + shift]


@compiled
def _count(
    address: np.ndarray,
    begin: np.ndarray,
    place: np.ndarray,
    steps: np.ndarray,
    cells: np.ndarray,
    out: np.ndarray,
    lo: int,
    hi: int,
) -> None:
    """Add the events of recordings lo..hi-1 to out [T, B, F]."""
    for b in range(lo, hi):
        shift = begin[b] - place[b]
        for e in range(place[b], place[b + 1]):
            if steps[e] < out.shape[0]:
                out[steps[e], b, cells[address[e + shift]]] += np.float32(1)
