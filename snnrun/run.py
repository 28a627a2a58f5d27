"""One run: build everything, find out whether it is new, half done or finished, train, test."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from snnrun import __version__, checkpoint, collector, evaluation, provenance, ranks
from snnrun.config import RunSpec
from snnrun.data.base import Splits
from snnrun.data.batcher import Batcher
from snnrun.data.store import Samples
from snnrun.errors import UserError
from snnrun.folders import owned, writing
from snnrun.inheritance import load_best
from snnrun.interrupt import Interrupt
from snnrun.kits.norm import OVER_STEPS
from snnrun.loop import Loop
from snnrun.measure.health import Health
from snnrun.measure.latency import StepTimer
from snnrun.measure.memory import PeakMemory
from snnrun.measure.neighbours import Neighbours
from snnrun.measure.tally import Tally
from snnrun.models.network import Network
from snnrun.terminal import Display
from snnrun.tracking import RunLog, Stop, Store, prepare


@dataclass
class Progress:
    """How far a run is: what a checkpoint holds beside weights, optimiser and generators."""

    epoch: int = 0
    batch: int = 0
    best: float = -1.0
    best_epoch: int = 0
    jobs: int = 1  # most runs seen on the device at once
    tally: dict[str, Any] | None = None
    figures: dict[str, float] = field(default_factory=dict)


def build_net(spec: RunSpec, device: torch.device) -> tuple[Network, Network]:
    """The net in the method's coordinates, and its plain spiking form on the same weights."""
    shape, classes = spec.dataset.shape, spec.dataset.classes
    kits = (k(spec.neuron, spec.norm) for k in (spec.method.kit, spec.method.plain_kit))
    net, plain = (
        spec.model.build(kit, shape, classes).to(device, spec.hardware.dtype) for kit in kits
    )
    if spec.method.channels_last:
        net = net.to(memory_format=spec.hardware.chosen().memory_format())
    if spec.method.in_chunks and spec.norm not in OVER_STEPS:
        net.in_chunks = spec.hardware.chosen().sequences == "chunks"
    plain.load_state_dict(net.state_dict(), assign=True)
    return net, plain


def execute(spec: RunSpec) -> float:
    """Train and test, or continue, or return what a finished run of this spec found.

    Returns:
        The best validation accuracy (test accuracy without validation data), for sweepers.

    Raises:
        UserError: before anything is created if the data or the store is not usable.
        Stop: after SIGINT or SIGTERM, with a checkpoint on disk.
    """
    with spec.hardware.processes():
        try:
            return ranks.from_leader(_compute(spec))
        except Stop:
            ranks.any_of(True)  # when one process ends torchrun ends all; the first saves before
            raise


def _compute(spec: RunSpec) -> float:
    device = spec.hardware.torch_device()
    with ranks.leader_first():
        spec.dataset.find()
    display = Display(spec.progress if ranks.leads() else "off", spec.epochs)
    spec.hardware.prepare(spec.seed)
    if spec.hardware.plan.show:
        display.say(f"plan: {spec.hardware.chosen()}")
    memory = PeakMemory(device)
    net, plain = build_net(spec, device)
    if spec.init_from is not None:
        load_best(net, spec.init_from)
    run = partial(Run, spec, device, display, memory, net, plain)  # the call loads the data
    return _lead(spec, display, run) if ranks.leads() else _follow(run)


def _lead(spec: RunSpec, display: Display, run: Callable[[], "Run"]) -> float:
    with owned(spec.folder, display.say):
        store = prepare(spec.tracking, Path.cwd())
        found = store.find(spec.hash)
        finished = found is not None and found.status == "FINISHED"
        ranks.from_leader(finished)
        if found and finished:
            return _skip(spec, store, found.metrics, display)
        return run().track(store, found.run_id if found else None)


def _follow(run: Callable[[], "Run"]) -> float:
    """Take part in what the first rank does."""
    if not ranks.from_leader(False):
        run().follow()
    return 0.0  # for nobody: the first rank's value counts


def _skip(spec: RunSpec, store: Store, metrics: dict[str, float], display: Display) -> float:
    title = f"{spec.name} (already finished)"
    display.summary(title, metrics, hints(store, spec))
    return _objective(metrics)


def _objective(metrics: dict[str, float]) -> float:
    return metrics.get("val/accuracy_best", metrics["test/accuracy"])


def hints(store: Store, spec: RunSpec) -> list[str]:
    """Commands to look further."""
    return [
        f"compare runs in the browser: snnrun ui --store {store.uri}",
        f"evaluate again: snnrun eval {spec.folder}",
    ]


def batches(spec: RunSpec, store: Samples, *, training: bool) -> Batcher:
    """Batches as the run sees them: shuffled and augmented only in training."""
    data = spec.dataset
    return Batcher(
        store,
        encoding=data.encoding,
        augment=data.augment if training else None,
        batch_size=data.batch_size,
        timesteps=spec.method.timesteps,
        seed=spec.seed,
        dtype=spec.hardware.dtype,
        shuffle=training,
    )


class Run:
    """The state of one run while it is computed."""

    def __init__(
        self,
        spec: RunSpec,
        device: torch.device,
        display: Display,
        memory: PeakMemory,
        net: Network,
        plain: Network,
    ):
        self.spec, self.device, self.display = spec, device, display
        self.plain = plain
        self.plan = spec.hardware.chosen()
        self.interrupt = Interrupt()
        self.neighbours = Neighbours(device)
        self.progress = Progress()
        self.splits: Splits = spec.dataset.load(spec.seed, device, spec.method.timesteps)
        self.loop = Loop(
            net=net,
            method=spec.method,
            update=spec.method.setup(net),
            train=batches(spec, self.splits.train, training=True),
            device=device,
            epochs=spec.epochs,
            display=display,
            memory=memory,
            health=Health(),
            timer=StepTimer(device),
            stop_requested=self.interrupt.requested,
        )
        self.validation = batches(spec, self.splits.validation, training=False)
        self.last, self.best = spec.folder / "last.pt", spec.folder / "best.pt"

    def track(self, store: Store, run_id: str | None) -> float:
        """Compute the run inside its tracking run."""
        spec = self.spec
        how = store.run(
            name=spec.name,
            tags=provenance.tags(spec, self.device),
            params=flatten(spec.tree),
            run_id=run_id,
            parent_id=os.environ.get("SNNRUN_PARENT_RUN"),
        )
        with self.interrupt.listening(), how as run_log, self.neighbours.present():
            state = ranks.from_leader(self._saved())
            self._count_jobs()
            if state is None:
                self._describe(run_log)
            else:
                self._resume(state)
                run_log.replay([(step, values) for step, values in state["pending"]])
            collector.go_on()
            self._fit(run_log)
            metrics = self._finish(run_log)
        self.display.summary(spec.name, metrics, hints(store, spec))
        return _objective(metrics)

    def follow(self) -> None:
        """Train along with the first rank, which alone evaluates, records and saves."""
        with self.interrupt.listening():
            state: dict[str, Any] | None = ranks.from_leader(None)
            if state is not None:
                self._restore(state)
                self.progress.tally = None  # the first has it
            collector.go_on()
            while self.progress.epoch < self.spec.epochs:
                self._train()
                self._stop_if_asked()
                self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
                self._stop_if_asked()

    def _describe(self, run_log: RunLog) -> None:
        spec = self.spec
        config = OmegaConf.to_yaml(OmegaConf.create(spec.tree))
        with writing(spec.folder, "output_dir"):
            (spec.folder / "config.yaml").write_text(config)
        run_log.artifact(spec.folder / "config.yaml")
        if diff := provenance.git_diff():
            run_log.text("git.diff", diff)
        self.display.say(
            f"{spec.name}: {spec.dataset.name}, {spec.model.name} (norm {spec.norm}), "
            f"{spec.neuron.name}, {spec.epochs} epochs of {len(self.splits.train)} samples in "
            f"batches of {spec.dataset.batch_size}, on {self.device}"
        )

    def _fit(self, run_log: RunLog) -> None:
        while self.progress.epoch < self.spec.epochs:
            started = time.perf_counter()
            tally = self._train()
            if self.interrupt.requested():
                self._stop(run_log, tally)
            metrics = tally.metrics("train") | {"latency/epoch_s": time.perf_counter() - started}
            self._end_epoch(run_log, metrics)

    def _train(self) -> Tally:
        """Train an epoch, or what is left of it; the tally of all ranks."""
        progress, tally = self.progress, Tally.zero(self.device)
        if progress.tally is not None:
            tally.load_state_dict(progress.tally)
        with self.spec.hardware.products():
            progress.batch = self.loop.train_epoch(progress.epoch, progress.batch, tally)
        return tally.over_ranks()

    def _count_jobs(self) -> None:
        self.progress.jobs = max(self.progress.jobs, self.neighbours.look())

    def _end_epoch(self, run_log: RunLog, metrics: dict[str, float]) -> None:
        loop, progress = self.loop, self.progress
        self._count_jobs()
        metrics |= loop.memory.metrics("train") | loop.saved | loop.timer.metrics()
        epoch = progress.epoch
        progress.epoch, progress.batch, progress.tally = epoch + 1, 0, None
        due = progress.epoch % self.spec.eval_every == 0 or progress.epoch == self.spec.epochs
        if due:
            metrics |= evaluation.validate(
                self.plain, self.spec.method, self.validation, loop.health
            )
        better = due and metrics.get("val/accuracy", progress.best + 1) > progress.best
        if "val/accuracy" in metrics:
            progress.best = max(progress.best, metrics["val/accuracy"])
            metrics["val/accuracy_best"] = progress.best
        metrics["progress/samples"] = progress.epoch * len(self.splits.train)
        metrics["progress/updates"] = loop.update.steps
        progress.figures |= metrics
        run_log.metrics(metrics, step=progress.epoch)
        if better:
            progress.best_epoch = progress.epoch
        self._save(run_log)
        self._keep_best()
        self.display.epoch_line(epoch, metrics, metrics["latency/epoch_s"])
        self._stop_if_asked()

    def _finish(self, run_log: RunLog) -> dict[str, float]:
        """Touch the test set once, with the best checkpoint."""
        loop, spec = self.loop, self.spec
        loop.net.load_state_dict(self._read(self.best)["net"])
        test = batches(spec, self.splits.test, training=False)
        metrics = evaluation.test(
            self.plain, spec.method, test, spec.hardware.energy, loop.memory, loop.health
        )
        run_log.metrics(metrics, step=spec.epochs)
        self._count_jobs()
        tags = loop.health.tags() | {"jobs_per_device": str(self.progress.jobs)}
        for key, value in tags.items():
            run_log.tag(key, value)
        drawn = self._draw(test) if spec.report.raster else []
        for file in (self.last, self.best, *drawn):
            run_log.artifact(file)
        return self.progress.figures | metrics

    def _draw(self, test: Batcher) -> list[Path]:
        from snnrun.report.raster import draw

        x, _ = next(test.epoch(0))
        with writing(self.spec.folder, "output_dir"):
            return draw(self.plain, x, self.spec.folder)

    def _stop_if_asked(self) -> None:
        if self.interrupt.requested():
            raise Stop("stopped")

    def _stop(self, run_log: RunLog, tally: Tally) -> None:
        self.progress.tally = tally.state_dict()
        self._save(run_log)
        raise Stop("stopped")

    def _save(self, run_log: RunLog) -> None:
        state = {
            "spec_hash": self.spec.hash,
            "version": __version__,
            "plan": self.plan.choices(),
            "net": self.loop.net.state_dict(),
            "update": self.loop.update.state_dict(),
            "progress": dict(vars(self.progress)),
            "saved": self.loop.saved,
            "health": self.loop.health.found,
            "rng": checkpoint.rng_state(self.device),
            "pending": run_log.pending(),
        }
        checkpoint.save(self.last, state)

    def _keep_best(self) -> None:
        """Keep the last checkpoint if it is the best; again on resume, for kills in between."""
        if self.progress.epoch == self.progress.best_epoch and not self.progress.batch:
            checkpoint.keep(self.last, self.best)

    def _read(self, path: Path) -> dict[str, Any]:
        """A checkpoint of this run.

        Raises:
            UserError: it is missing, damaged or of another run.
        """
        advice = f"delete {self.spec.folder} to start the run afresh"
        state = checkpoint.load(path, advice)
        if state.get("spec_hash") != self.spec.hash:
            raise UserError(f"checkpoint {path} belongs to another specification; {advice}")
        return state

    def _saved(self) -> dict[str, Any] | None:
        """The last checkpoint, if there is one."""
        if not self.last.exists():
            return None
        state = self._read(self.last)
        self.plan.check_continues(state.get("plan", self.plan.choices()))
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        """Take over what every rank trains with."""
        self.loop.net.load_state_dict(state["net"])
        self.loop.update.load_state_dict(state["update"])
        self.loop.saved = state["saved"]
        self.loop.health.found = state["health"]
        self.progress = Progress(**state["progress"])
        checkpoint.restore_rng(state["rng"], self.device)

    def _resume(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._restore(state)
        self._keep_best()
        if self.progress.best_epoch:
            self._read(self.best)  # now, and not after hours of training
        done = self.progress
        self.display.say(
            f"{self.spec.name}: continuing at epoch {done.epoch + 1}, batch {done.batch}"
        )


def flatten(tree: Any, prefix: str = "") -> dict[str, str]:
    """Nested config as ``a.b`` -> text, for a run's params; lists as they are written in yaml."""
    if not isinstance(tree, dict):
        return {prefix: str(tree)}
    flat: dict[str, str] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
