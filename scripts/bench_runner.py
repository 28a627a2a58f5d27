"""What the runner costs: a training step through it over the same step in a bare loop.

The loop of a real run trains on Fashion-MNIST; between its steps the bare one runs, on a copy of
the net and batches made beforehand, so that both see the machine in the same state. CPU time, one
thread; the learning rate is 0, so that both nets stay equally sparse. The runner's step includes
fetching and encoding the batch, timers, running loss and accuracy, and the progress display.

    python scripts/bench_runner.py [steps]
"""

import copy
import itertools
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from snnrun.config import CONF, RunSpec, build
from snnrun.errors import DataError
from snnrun.loop import Loop
from snnrun.measure.health import Health
from snnrun.measure.latency import StepTimer
from snnrun.measure.memory import PeakMemory
from snnrun.measure.tally import Tally
from snnrun.run import batches, build_net
from snnrun.terminal import Display

WARMUP = 10
CPU = torch.device("cpu")


def specification(*overrides: str) -> RunSpec:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        fixed = ["hardware=cpu", "hardware.threads=1", "method.optim.lr=0", *overrides]
        return build(compose("config", fixed))


def measure(spec: RunSpec, steps: int) -> str:
    spec.hardware.prepare(spec.seed)
    net, _ = build_net(spec, CPU)
    bare_net = copy.deepcopy(net).train()
    bare_update = spec.method.setup(bare_net)
    data = spec.dataset.load(spec.seed, CPU, spec.method.timesteps)
    ready = itertools.cycle(
        list(itertools.islice(batches(spec, data.train, training=True).epoch(0), WARMUP))
    )
    runner, bare = [], []
    mark = 0.0

    def between_steps() -> bool:
        nonlocal mark
        runner.append(time.process_time() - mark)
        x, y = next(ready)
        mark = time.process_time()
        spec.method.step(bare_net, bare_update, x, y)
        bare.append(time.process_time() - mark)
        mark = time.process_time()
        return len(bare) >= steps + WARMUP

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
        stop_requested=between_steps,
    )
    for epoch in itertools.count():
        mark = time.process_time()
        loop.train_epoch(epoch, 0, Tally.zero(CPU))
        if len(bare) >= steps + WARMUP:
            break
    medians = [statistics.median(times[WARMUP:]) * 1e3 for times in (runner, bare)]
    wait = loop.timer.metrics()["data/wait_fraction"]
    what = f"{spec.dataset.name} {spec.model.name} {spec.method.name}"
    times = f"runner {medians[0]:.2f} ms, bare {medians[1]:.2f} ms"
    return f"{what}: {times}, ratio {medians[0] / medians[1]:.3f}, waiting for data {wait:.2%}"


def seconds(*command: str) -> float:
    """Shortest wall time of a command."""
    times = []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    spec = specification("dataset=fashion_mnist")
    try:
        spec.dataset.find()
    except DataError:
        print("Fashion-MNIST is not here; synthetic images of the same shape instead")
        shape = ("dataset.size=[1,28,28]", "dataset.batch_size=128", "dataset.train_samples=10000")
        spec = specification("dataset=synthetic", "model=convnet", *shape)
    print(measure(spec, steps))
    print(measure(specification("dataset=digits"), 10 * steps))
    snnrun = str(Path(sys.executable).with_name("snnrun"))
    print(f"snnrun train --help: {seconds(snnrun, 'train', '--help'):.3f} s")
    print(f"import hydra: {seconds(sys.executable, '-c', 'import hydra'):.3f} s")


if __name__ == "__main__":
    main()
