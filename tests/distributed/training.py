"""What one and two processes train alike: run by torchrun it trains every case on all of them."""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from snnrun import checkpoint, ranks
from snnrun.config import CONF, build
from snnrun.loop import Loop
from snnrun.measure.health import Health
from snnrun.measure.latency import StepTimer
from snnrun.measure.memory import PeakMemory
from snnrun.measure.tally import Tally
from snnrun.run import batches, build_net
from snnrun.terminal import Display

CPU = torch.device("cpu")
EPOCHS = 2
# Three updates an epoch, the last on five samples: two for one process, three for the other.
COMMON = (
    "dataset=synthetic", "dataset.size=[1,8,8]", "dataset.num_classes=4", "dataset.validation=0",
    "dataset.train_samples=45", "dataset.test_samples=4", "dataset.batch_size=20",
    "dataset.augment.crop=1", "hardware=cpu", "hardware.precision=fp64",
    "hardware.plan.probe=false", f"epochs={EPOCHS}",
)  # fmt: skip
MLP = ("model=mlp", "model.hidden=[16,12]")
CONV = ("model=convnet", "model.channels=[4,6]")
DROPOUT = ("model.dropout=0.3",)
BACK = ("model.feedback=true",)
SPIKES = ("dataset.encoding.name=poisson",)
CASES = {
    "bptt": ("method=bptt", *CONV, *DROPOUT, "method.optim.clip_norm=0.5"),
    "bptt-stand-in": ("method=bptt", *CONV, *DROPOUT, "dataset.train_samples=41"),
    "tet": ("method=tet", *CONV),
    "ottt-online": ("method=ottt", "method.online=true", *CONV, *DROPOUT),
    "ottt": ("method=ottt", "method.online=false", *MLP, *DROPOUT),
    "saf-e-online": ("method=saf", "method.variant=e", "method.update=online", *CONV, *DROPOUT),
    "saf-e": ("method=saf", "method.variant=e", "method.update=accumulate", *MLP, *DROPOUT),
    "saf-f": ("method=saf", "method.variant=f", "method.update=accumulate", *CONV, *DROPOUT),
    "ttfs": ("method=ttfs", *CONV, "method.optim.clip_norm=0.5"),
    "ssgd-events": ("method=ssgd", *MLP, *SPIKES, "neuron.threshold=0.2"),
    "ssgd-conv": ("method=ssgd", *CONV, *SPIKES, "neuron.threshold=0.1"),
    "spide": ("method=spide", *MLP, *BACK, *DROPOUT),
    "spide-scaled": ("method=spide", *CONV, *BACK, "method.loss_scale=100"),
    "spide-stand-in": ("method=spide", *MLP, *BACK, "dataset.train_samples=41"),
    "ide": ("method=ide", *CONV, *BACK, *DROPOUT),
    "ide-broyden": ("method=ide", "method.solver=broyden", *MLP, *BACK, *DROPOUT),
    "dsr": ("method=dsr", *CONV),
    "ttfs_relu": ("method=ttfs_relu", "model.norm=bn", *CONV),
    "ann": ("method=ann", *CONV, *DROPOUT),
}


@cache
def composed(case: str) -> DictConfig:
    """The configuration of a case; Hydra reads the files again each time."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", [*COMMON, *CASES[case]])


class Training:
    """A case in training, as a run trains it."""

    def __init__(self, case: str):
        self.spec = spec = build(composed(case))
        spec.hardware.prepare(spec.seed)
        self.net, _ = build_net(spec, CPU)
        splits = spec.dataset.load(spec.seed, CPU, spec.method.timesteps)
        self.loop = Loop(
            net=self.net,
            method=spec.method,
            update=spec.method.setup(self.net),
            train=batches(spec, splits.train, training=True),
            device=CPU,
            epochs=spec.epochs,
            display=Display("off", spec.epochs),
            memory=PeakMemory(CPU),
            health=Health(),
            timer=StepTimer(CPU),
            stop_requested=lambda: False,
        )

    def epoch(self, number: int) -> dict[str, Any]:
        """Train one; everything that a checkpoint would hold, and what is logged."""
        tally = Tally.zero(CPU)
        self.loop.train_epoch(number, 0, tally)
        return {
            "net": self.net.state_dict(),
            "update": self.loop.update.state_dict(),
            "rng": checkpoint.rng_state(CPU),
            "metrics": tally.over_ranks().metrics("train"),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `epoch` returned, read from a file."""
        self.net.load_state_dict(state["net"])
        self.loop.update.load_state_dict(state["update"])
        checkpoint.restore_rng(state["rng"], CPU)


def train(case: str, folder: Path) -> None:
    """Both epochs, and the second again from where ``folder`` has the others' first."""
    training = Training(case)
    for number in range(EPOCHS):
        keep(folder / f"{case}-{ranks.count()}-{number}.pt", training.epoch(number))
    others = folder / f"{case}-{3 - ranks.count()}-0.pt"
    if others.exists():
        training = Training(case)
        training.restore(checkpoint.load(others))
        keep(folder / f"{case}-{ranks.count()}-continued.pt", training.epoch(1))


def keep(path: Path, state: dict[str, Any]) -> None:
    if ranks.leads():
        checkpoint.save(path, state)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with ranks.joined():
        for name in sys.argv[2:]:
            train(name, Path(sys.argv[1]))
