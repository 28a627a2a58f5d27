"""What a person sees: progress bars in a terminal, plain lines elsewhere, tables at the end."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from snnrun.measure.tally import Tally

log = logging.getLogger(__name__)

REFRESH_S = 0.25  # reading the running loss waits for the device, so not at every step

SUMMARY = (
    ("test/accuracy", "test accuracy", "{:.2%}"),
    ("val/accuracy_best", "best validation accuracy", "{:.2%}"),
    ("memory/saved_for_backward_mib", "kept for backward", "{:.2f} MiB"),
    ("memory/train_peak_mib", "training peak memory", "{:.1f} MiB"),
    ("latency/train_step_ms_p50", "training step (median)", "{:.2f} ms"),
    ("latency/inference_ms_per_sample", "inference per sample", "{:.4f} ms"),
    ("latency/decision_steps", "steps until decided", "{:.2f}"),
    ("spikes/per_sample", "spikes per sample", "{:,.0f}"),
    ("spikes/per_neuron", "spikes per neuron", "{:.3f}"),
    ("synops/acs_per_sample", "accumulates per sample", "{:,.0f}"),
    ("synops/macs_per_sample", "multiply-accumulates per sample", "{:,.0f}"),
    ("energy/inference_uj", "energy per inference", "{:.4f} µJ"),
)


class Bar(Protocol):
    """Shows how far an epoch is."""

    def advance(self, done: int, tally: "Tally") -> None:
        """Show that ``done`` batches of the epoch are behind us."""


class Silent:
    """Shows nothing."""

    def advance(self, done: int, tally: "Tally") -> None:
        """See Bar.advance."""


class RichBar:
    """A bar with loss, accuracy and speed."""

    def __init__(self, progress: Progress, title: str, batches: int):
        self.progress = progress
        self.task = progress.add_task(title, total=batches, figures="")
        self.started = self.shown = time.perf_counter()

    def advance(self, done: int, tally: "Tally") -> None:
        """See Bar.advance."""
        now = time.perf_counter()
        if now - self.shown >= REFRESH_S:
            self.shown = now
            loss, accuracy = tally.loss.item() / tally.samples, tally.correct.item() / tally.samples
            speed = tally.samples / (now - self.started)
            figures = f"loss {loss:.4f}  accuracy {accuracy:.3f}  {speed:,.0f} samples/s"
            self.progress.update(self.task, completed=done, figures=figures)


class Display:
    """One run's view on the terminal; ``mode`` is auto, plain or off."""

    def __init__(self, mode: str, epochs: int):
        self.console = Console(stderr=True)
        self.epochs = epochs
        self.bars = mode == "auto" and self.console.is_terminal
        self.lines = mode != "off"

    @contextmanager
    def epoch(self, epoch: int, batches: int) -> Iterator[Bar]:
        """A bar for one epoch, gone when the epoch is over."""
        if not self.bars:
            yield Silent()
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            yield RichBar(progress, f"epoch {epoch + 1}/{self.epochs}", batches)

    def epoch_line(self, epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        """One line per finished epoch."""
        if not self.lines:
            return
        shown = {
            "loss": metrics.get("train/loss"),
            "accuracy": metrics.get("train/accuracy"),
            "val loss": metrics.get("val/loss"),
            "val accuracy": metrics.get("val/accuracy"),
        }
        text = "  ".join(f"{key} {value:.4f}" for key, value in shown.items() if value is not None)
        self._print(f"epoch {epoch + 1}/{self.epochs}  {text}  {seconds:.1f} s")

    def say(self, text: str) -> None:
        """One line."""
        if self.lines:
            self._print(text)

    def summary(self, title: str, metrics: Mapping[str, float], hints: list[str]) -> None:
        """The final table, and what to look at next."""
        if not self.lines:
            return
        table = Table(title=title, title_justify="left", show_header=False)
        for key, label, form in SUMMARY:
            if key in metrics:
                table.add_row(label, form.format(metrics[key]), f"[dim]{key}[/dim]")
        self.console.print(table)
        for hint in hints:
            self._print(hint)

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
