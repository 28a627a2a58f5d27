"""How a training step's time and memory grow with the number of steps T and with the width.

Synthetic images, a multilayer perceptron, one thread. T is 8 for the curve by width, and 1 for
methods without time, which have no curve by T. The slope is that of a straight line through
the upper half of the points, both axes logarithmic: 1 is linear growth, 0 none. Memory is what
autograd and the method keep for the backward pass.

    python scripts/bench_scaling.py [--quick] [--methods bptt,saf] [--out FILE.svg]
"""

import argparse
import math
import statistics
import time
from collections.abc import Iterable

import torch
from bench_runner import CPU, specification

from snnrun.config import RunSpec
from snnrun.errors import UserError
from snnrun.measure.memory import saved_for_backward
from snnrun.run import batches, build_net

METHODS = "ann,bptt,dsr,ide,ottt,saf,sltt,spide,ssgd,tet,ttfs,ttfs_relu"
Curve = dict[int, tuple[float, float]]  # T or width -> milliseconds, MiB


def step_cost(spec: RunSpec, repeats: int) -> tuple[float, float]:
    """Shortest CPU milliseconds of a step, and the MiB it keeps for its backward pass."""
    spec.hardware.prepare(spec.seed)
    net, _ = build_net(spec, CPU)
    update = spec.method.setup(net.train())
    data = spec.dataset.load(spec.seed, CPU, spec.method.timesteps)
    x, y = next(batches(spec, data.train, training=True).epoch(0))
    with saved_for_backward(net, x) as saved:
        out = spec.method.step(net, update, x, y)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        spec.method.step(net, update, x, y)
        times.append(time.process_time() - start)
    (kept,) = saved.metrics(out.kept_bytes).values()
    return min(times) * 1e3, kept


def curve(method: str, axis: str, values: Iterable[int], repeats: int) -> Curve:
    """Cost at every T or width at which the method can train this net."""
    found: Curve = {}
    timeless = specification(f"method={method}", "dataset=synthetic").method.timesteps == 1
    if timeless and axis == "T":
        return found
    for value in values:
        timesteps, width = (value, 128) if axis == "T" else (1 if timeless else 8, value)
        keys = (f"method={method}", "method.optim.lr=0", f"method.timesteps={timesteps}")
        shape = ("dataset=synthetic", f"model.hidden=[{width},{width}]")
        try:
            found[value] = step_cost(specification(*keys, *shape), repeats)
        except UserError as error:
            print(f"{method} {axis}={value}: {error}")
    return found


def slope(points: dict[int, float]) -> float:
    """Slope of the upper half of the points, both axes logarithmic."""
    measured = sorted((x, y) for x, y in points.items() if y > 0)
    upper = measured[len(measured) // 2 :]
    if len(upper) < 2:
        return math.nan
    xs, ys = zip(*((math.log(x), math.log(y)) for x, y in upper), strict=True)
    return statistics.linear_regression(xs, ys).slope


def show(method: str, axis: str, found: Curve) -> None:
    for unit, column in (("ms", 0), ("MiB", 1)):
        points = {value: cost[column] for value, cost in found.items()}
        cells = "  ".join(f"{value}: {cost:.3g}" for value, cost in points.items())
        print(f"{method:10} {unit:3} by {axis:5} slope {slope(points):5.2f}  {cells}", flush=True)


def draw(curves: dict[tuple[str, str], Curve], path: str) -> None:
    """Four panels: time and memory by T and by width."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8), layout="constrained")
    panels = figure.subplots(2, 2)
    methods = list(dict.fromkeys(method for method, _ in curves))
    for (method, axis), found in curves.items():
        colour = colormaps["tab20"](methods.index(method))
        for row, label in enumerate(("ms per step", "MiB for backward")):
            panel = panels[row][int(axis == "width")]
            costs = [cost[row] for cost in found.values()]
            panel.plot(list(found), costs, label=method, color=colour)
            panel.set_xscale("log", base=2)
            panel.set(yscale="log", xlabel=axis, ylabel=label)
    panels[0][1].legend(fontsize="small")  # every method has a curve by width
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer points and repeats")
    parser.add_argument("--methods", default=METHODS, help="default: %(default)s")
    parser.add_argument("--out", help="picture to draw, .svg or .png")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    repeats = 2 if chosen.quick else 7
    axes = {"T": [2**i for i in range(6 if chosen.quick else 8)]}
    axes["width"] = [2**i for i in range(5, 8 if chosen.quick else 11)]
    curves = {}
    for method in chosen.methods.split(","):
        for axis, values in axes.items():
            if found := curve(method, axis, values, repeats):
                show(method, axis, found)
                curves[method, axis] = found
    if chosen.out:
        draw(curves, chosen.out)


if __name__ == "__main__":
    main()
