"""Latency: training steps, waiting for data, inference, and steps until the answer is fixed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

WARMUP_STEPS = 5  # compilation, autotuning, allocator growth
WINDOW = 1000  # steps the percentiles look back over
INFERENCE_WARMUP, INFERENCE_REPEATS = 2, 7

Batch = TypeVar("Batch")


def synchronise(device: torch.device) -> None:
    """Wait for the work queued on the current stream; copies on other streams may go on."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


class StepTimer:
    """Times training steps and the waiting for their data, the first few steps left out.

        for x, y in timer.waiting(batches):
            with timer.step():
                method.step(net, update, x, y)

    What happens outside of both (logging, saving, evaluation) is not counted.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.recent: deque[float] = deque(maxlen=WINDOW)  # seconds
        self.steps = 0
        self.pending_s = self.waited_s = self.worked_s = 0.0

    def waiting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; the time each takes to arrive on the device is added to the waiting."""
        iterator, end = iter(batches), object()
        while True:
            start = perf_counter()
            batch = next(iterator, end)
            if batch is end:
                return
            synchronise(self.device)
            self.pending_s += perf_counter() - start
            yield batch  # type: ignore[misc]  # the sentinel was returned above

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time one step, device-synchronised at both ends; a step that raises is not counted."""
        synchronise(self.device)
        start = perf_counter()
        yield
        synchronise(self.device)
        self._record(perf_counter() - start)

    def metrics(self) -> dict[str, float]:
        """Median and 95th percentile of a step in ms, share of the time spent waiting for data.

        Empty until a step after the warm-up was timed.
        """
        if not self.recent:
            return {}
        p50, p95 = np.percentile(self.recent, [50, 95]) * 1e3
        return {
            "latency/train_step_ms_p50": float(p50),
            "latency/train_step_ms_p95": float(p95),
            "data/wait_fraction": self.waited_s / (self.waited_s + self.worked_s),
        }

    def _record(self, seconds: float) -> None:
        self.steps += 1
        if self.steps > WARMUP_STEPS:
            self.recent.append(seconds)
            self.worked_s += seconds
            self.waited_s += self.pending_s
        self.pending_s = 0.0


def inference_ms(net: nn.Module, x: Tensor) -> float:
    """Milliseconds per sample to run the batch ``x`` [T, B, ...]: median of several runs.

    Evaluation mode, no gradients; the net's mode is restored.
    """
    training = net.training
    net.eval()
    times = []
    with torch.no_grad():
        for _ in range(INFERENCE_WARMUP + INFERENCE_REPEATS):
            synchronise(x.device)
            start = perf_counter()
            net(x)
            synchronise(x.device)
            times.append(perf_counter() - start)
    net.train(training)
    return median(times[INFERENCE_WARMUP:]) * 1e3 / x.shape[1]


class DecisionMeter:
    """Mean number of steps until the answer is fixed, over all samples shown.

    Args:
        decide: ``Method.decision_steps``, outputs [T, B, C] -> steps [B].
    """

    def __init__(self, decide: Callable[[Tensor], Tensor]):
        self.decide = decide
        self.total: Tensor | None = None
        self.samples = 0

    def add(self, outputs: Tensor) -> None:
        """Take in the outputs [T, B, C] of one batch."""
        steps = self.decide(outputs).sum(dtype=torch.float64)
        self.total = steps if self.total is None else self.total + steps
        self.samples += outputs.shape[1]

    def metrics(self) -> dict[str, float]:
        """The mean over all samples so far; empty before the first batch."""
        if self.total is None:
            return {}
        return {"latency/decision_steps": self.total.item() / self.samples}
