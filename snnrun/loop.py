"""Training epochs, and what is measured around their steps."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from snnrun import ranks
from snnrun.data.batcher import Batcher
from snnrun.measure.health import Health
from snnrun.measure.latency import WARMUP_STEPS, StepTimer
from snnrun.measure.memory import PeakMemory, saved_for_backward
from snnrun.measure.tally import Tally
from snnrun.methods.base import Method, Update
from snnrun.models.network import Network
from snnrun.terminal import Display


@dataclass(kw_only=True)
class Loop:
    """Everything one run trains with; ``stop_requested`` is asked between batches.

    Batches and figures are those of all ranks, of which each trains on its part.
    """

    net: Network
    method: Method
    update: Update
    train: Batcher
    device: torch.device
    epochs: int
    display: Display
    memory: PeakMemory
    health: Health
    timer: StepTimer
    stop_requested: Callable[[], bool]
    saved: dict[str, float] = field(default_factory=dict)

    def train_epoch(self, epoch: int, start: int, tally: Tally) -> int:
        """Train from batch ``start`` of an epoch, adding to ``tally``; the batch reached.

        Ends early when a stop is requested.
        """
        self.net.train()
        batches = self.train.epoch(epoch, start)
        with self.display.epoch(epoch, len(self.train)) as bar:
            for batch, (x, y) in enumerate(self.timer.waiting(batches), start):
                self.update.progress = (epoch + batch / len(self.train)) / self.epochs
                self._step(x, y, tally, epoch * len(self.train) + batch)
                bar.advance(batch + 1, tally)
                if self.stop_requested():
                    return batch + 1
        return len(self.train)

    def _step(self, x: Tensor, y: Tensor, tally: Tally, step: int) -> None:
        part = ranks.take(len(y))
        x, y = x[:, part.rows], y[part.rows]
        if not self.saved:
            with saved_for_backward(self.net, x) as saved:
                out = self.method.step(self.net, self.update, x, y)
            self.saved = saved.metrics(out.kept_bytes)
            self.health.check_gradients(self.net)
        else:
            with self.timer.step():
                out = self.method.step(self.net, self.update, x, y)
        if self.timer.steps == WARMUP_STEPS:
            self.memory.reset(self._resident())
        tally.add(out.loss, out.logits[: part.count], y[: part.count], step)
        tally.add_extra(out.extra, part.count)

    def _resident(self) -> list[Tensor]:
        """What stands in memory throughout training: data, weights, optimiser state."""
        state = self.update.optimiser.state.values()
        moments = [v for values in state for v in values.values() if isinstance(v, Tensor)]
        return [
            *(v for v in vars(self.train.store).values() if isinstance(v, Tensor)),
            *self.net.parameters(),
            *self.net.buffers(),
            *moments,
        ]
