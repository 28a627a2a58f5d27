"""Where the time of a training step goes, method by method: products, own kernels, everything else.

    python scripts/profile_step.py --json FILE
    python scripts/profile_step.py --quick     # digits and few steps, for tests

The loop of a run trains as `snnrun train method=X dataset=fashion_mnist hardware=cpu` does, on one
thread, watched by torch's profiler. Self time goes to the innermost of

- products: matrix products and convolutions, forward and backward, with what torch does in them;
- own kernels: snnrun's autograd functions and compiled kernels;
- torch layers: batch norm and ReLU, where torch's kernels do the same work as ours would;
- other: the rest of Method.step by operation, the interpreter as "Python";
- loop: all outside of Method.step: data, running loss and accuracy, display.

All are medians over the steps. The profiler makes operations about a microsecond longer, so that
many small ones weigh too much; the time of a step is CPU time without it, loop included.
"""

import argparse
import gc
import sys
import time
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice, pairwise, repeat
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir
from tables import Measured, keep, machine
from torch.autograd import Function
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from snnrun.config import CONF, RunSpec, build
from snnrun.errors import UserError
from snnrun.kernels.compiled.threads import spread
from snnrun.loop import Loop
from snnrun.measure.health import Health
from snnrun.measure.latency import StepTimer
from snnrun.measure.memory import PeakMemory
from snnrun.measure.tally import Tally
from snnrun.run import batches, build_net
from snnrun.terminal import Display

CPU = torch.device("cpu")
WARMUP = 8
STEP, KERNEL = "Method.step", "compiled kernel"  # names of ranges in the profile
ENGINE = "autograd::engine::evaluate_function"
GROUPS = ("products", "own kernels", "torch layers", "other", "loop")
PRODUCTS = (
    *("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::mv", "aten::dot"),
    *("aten::convolution", "aten::convolution_backward"),
)
LAYERS = (
    *("aten::native_batch_norm", "aten::native_batch_norm_backward"),
    *("aten::relu", "aten::clamp_min", "aten::threshold_backward"),
)
GROUP_OF = dict.fromkeys(PRODUCTS, "products") | dict.fromkeys(LAYERS, "torch layers")
Times = dict[tuple[str, str], float]  # microseconds by group and name


@dataclass
class Profile:
    """What a step takes: milliseconds without the profiler, and its parts under it."""

    step_ms: float = 0.0
    times: Times = field(default_factory=dict)

    def of(self, group: str) -> dict[str, float]:
        """Parts of a group in per cent of all time, the largest first."""
        whole = sum(self.times.values())
        parts = [(name, 100 * us / whole) for (of, name), us in self.times.items() if of == group]
        return dict(sorted(parts, key=lambda part: -part[1]))


def place(event: FunctionEvent, own: set[str]) -> tuple[str, str]:
    """Group and name to which the self time of an event belongs; ``own`` are snnrun's functions."""
    around: FunctionEvent | None = event
    while around is not None and around.name != STEP:
        if around.name in GROUP_OF:
            return GROUP_OF[around.name], around.name
        if around.name in own:
            return "own kernels", around.name
        around = around.cpu_parent
    name = "Python" if event is around else event.name
    return "loop" if around is None else "other", name.partition(ENGINE)[1] or name


def own_functions() -> set[str]:
    """The names under which what snnrun computes itself appears in a profile."""
    kinds = [kind for kind in Function.__subclasses__() if kind.__module__.startswith("snnrun.")]
    return {KERNEL} | {kind.__name__ + suffix for kind in kinds for suffix in ("", "Backward")}


def by_place(events: Sequence[FunctionEvent]) -> Times:
    """Time by group and name, medians over the steps, each of which lasts until the next begins.

    What no event covers is Python of the loop. Nothing is told of the last step.
    """
    begins = sorted(event.time_range.start for event in events if event.name == STEP)
    steps: list[Times] = [defaultdict(float) for _ in begins[1:]]
    own = own_functions()
    for event in events:
        at = bisect(begins, event.time_range.start) - 1
        if 0 <= at < len(steps):
            steps[at][place(event, own)] += event.self_cpu_time_total
    for step, (begin, end) in zip(steps, pairwise(begins), strict=True):
        step["loop", "Python"] += end - begin - sum(step.values())
    return {key: median(step.get(key, 0.0) for step in steps) for key in set().union(*steps)}


@contextmanager
def named_kernels() -> Iterator[None]:
    """Have the profile show compiled kernels also where no autograd function calls them."""

    def named(items: int, work: Callable[[int, int], Any]) -> list[Any]:
        with record_function(KERNEL):
            return spread(items, work)

    with ExitStack() as patches:
        for name, module in list(sys.modules.items()):
            if name.startswith("snnrun.kernels.") and getattr(module, "spread", None) is spread:
                patches.enter_context(patch.object(module, "spread", named))
        yield


def phases(found: Profile, steps: int) -> Iterator[bool]:
    """What stands between the steps of a loop: false until all of them are behind us.

    Steps to warm up, as many to time as ``steps``, and as many to profile; fills in ``found``.
    """
    yield from repeat(False, WARMUP)
    marks = [time.process_time()]
    for _ in range(steps):
        yield False
        marks.append(time.process_time())
    found.step_ms = median(end - begin for begin, end in pairwise(marks)) * 1e3
    with named_kernels(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        yield from repeat(False, steps + 1)
    found.times = by_place(profiler.events())
    yield True


def specification(*overrides: str) -> RunSpec:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build(compose("config", ["hardware=cpu", "hardware.threads=1", *overrides]))


def profiled(spec: RunSpec, steps: int) -> Profile:
    """Train as a run does, from its first step on.

    Raises:
        UserError: the method cannot train this net on these data.
    """
    found = Profile()
    spec.hardware.prepare(spec.seed)
    net, _ = build_net(spec, CPU)
    data = spec.dataset.load(spec.seed, CPU, spec.method.timesteps)
    loop = Loop(
        net=net,
        method=spec.method,
        update=spec.method.setup(net),
        train=batches(spec, data.train, training=True),
        device=CPU,
        epochs=spec.epochs,
        display=Display("auto", spec.epochs),
        memory=PeakMemory(CPU),
        health=Health(),
        timer=StepTimer(CPU),
        stop_requested=partial(next, phases(found, steps)),
    )
    step = record_function(STEP)(spec.method.step)
    with spec.hardware.products(), patch.object(spec.method, "step", step):
        for epoch in count():
            loop.train_epoch(epoch, 0, Tally.zero(CPU))
            if found.times:
                return found
    raise AssertionError("the count never ends")


def row(method: str, chosen: argparse.Namespace) -> tuple[list[str], Profile | None]:
    """The method's row of the table, and what is behind it; none if it refuses net or data."""
    try:
        spec = specification(f"method={method}", f"dataset={chosen.dataset}", *chosen.overrides)
        found = profiled(spec, chosen.steps)
    except UserError as error:
        return [method, "", *("" for _ in GROUPS), f"refused: {error}"], None
    parts = [f"{sum(found.of(group).values()):.1f}" for group in GROUPS]
    most = ", ".join(f"{name} {share:.1f}" for name, share in islice(found.of("other").items(), 4))
    return [method, f"{found.step_ms:.1f}", *parts, most], found


def main() -> None:
    methods = sorted(file.stem for file in (CONF / "method").glob("*.yaml"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--method", nargs="+", default=methods, help="default: all")
    parser.add_argument("--dataset", default="fashion_mnist", help="default: %(default)s")
    parser.add_argument("--overrides", nargs="+", default=[], help="as snnrun train takes them")
    parser.add_argument("--steps", type=int, default=30, help="timed, and as many profiled")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--quick", action="store_true", help="digits, two steps, for tests")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.dataset, chosen.steps = "digits", 2
    rows, figures = [], {}
    for method in chosen.method:
        cells, found = row(method, chosen)
        rows.append(cells)
        figures[method] = found and {
            "step_ms": found.step_ms,
            **{group: found.of(group) for group in GROUPS},
        }
        gc.collect()
    title = (
        f"Where the time of a training step on {chosen.dataset} goes, in per cent, "
        f"one thread of {machine('cpu')} ({specification().hardware.chosen()})"
    )
    table = Measured(title, ["method", "step ms", *GROUPS, "most of the other"], rows)
    table.show()
    keep(chosen.json, [table], figures)


if __name__ == "__main__":
    main()
