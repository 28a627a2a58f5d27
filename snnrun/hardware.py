"""Where a run computes: device, precision, threads, determinism, energy constants."""

import math
import os
import random
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from snnrun import ranks, torchrun
from snnrun.errors import ConfigError, choice, require
from snnrun.plan import Plan
from snnrun.planning import Planning

# Of weights, potentials and everything but the products that a training step computes in bf16.
DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.float32}


@dataclass(kw_only=True)
class Energy:
    """Energy of one operation in picojoule."""

    e_ac_pj: float
    e_mac_pj: float

    def __post_init__(self) -> None:
        """Refuse what would make the energy of a finished run a number that no store takes."""
        for key, value in vars(self).items():
            require(0 <= value < math.inf, f"energy.{key}: {value} is negative or not finite")


@dataclass(kw_only=True)
class Hardware:
    """The machine as a run sees it."""

    name: str
    device: str
    precision: str
    threads: int | None
    deterministic: bool
    plan: Planning
    energy: Energy

    def __post_init__(self) -> None:
        """Check names and ranges."""
        choice("precision", self.precision, tuple(DTYPES))
        require(
            self.threads is None or 1 <= self.threads <= 1024,  # OpenMP dies of very many
            f"threads: {self.threads} is not null or a number from 1 to 1024",
        )

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of weights, inputs and potentials."""
        return DTYPES[self.precision]

    def processes(self) -> AbstractContextManager[None]:
        """Around a run: the processes that compute it, here this one alone.

        Raises:
            UserError: torchrun has started several.
        """
        require(
            torchrun.processes() <= 1,
            f"hardware: torchrun has started {torchrun.processes()} processes for one run; add "
            "hardware=ddp",
        )
        return nullcontext()

    def torch_device(self) -> torch.device:
        """The device to compute on.

        Raises:
            ConfigError: when it does not exist on this machine.
        """
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
        except RuntimeError:
            device = torch.device("meta")
        if device.type not in ("cpu", "cuda"):
            raise ConfigError(f"hardware.device: {name!r} is not one of auto, cpu, cuda, cuda:N")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ConfigError(
                f"hardware.device: {name!r} asked for, {torch.cuda.device_count()} CUDA devices "
                "found; use hardware=cpu"
            )
        if device.type == "cuda" and device.index is None:
            return torch.device("cuda", self.cuda_index(torch.cuda.device_count()))
        return device

    def cuda_index(self, count: int) -> int:
        """Which of a machine's CUDA devices, if none was named: a sweep's jobs take turns."""
        return int(os.environ.get("SNNRUN_JOB", "0")) % count

    def chosen(self) -> Plan:
        """How this machine computes; for a run's process, `prepare` has to come first."""
        return self.plan.plan(self.torch_device(), self.precision)

    def products(self) -> torch.autocast:
        """Around training steps: matrix products in bfloat16 if the precision says so.

        Spikes are exact in it; currents are rounded to 8 bits, and so are weights that are
        multiplied. None is kept in the lower precision, as methods may change weights within a
        step.
        """
        return torch.autocast(
            self.torch_device().type,
            dtype=torch.bfloat16,
            enabled=self.precision == "bf16",
            cache_enabled=False,
        )

    def prepare(self, seed: int) -> None:
        """Set everything that is global to the process, as it may be reused between runs."""
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.torch_device().type == "cuda":
            torch.cuda.set_device(self.torch_device())
        self.chosen().prepare()
        # The call imports the compiler, 1.4 s; CPU kernels do not need it.
        if torch.cuda.is_available():
            torch.use_deterministic_algorithms(self.deterministic, warn_only=True)
        torch.backends.cudnn.benchmark = not self.deterministic


@dataclass(kw_only=True)
class Distributed(Hardware):
    """A machine, or several, on which torchrun has started processes that share every batch.

    Without torchrun it is the plain machine, for everything but a run.
    """

    def __post_init__(self) -> None:
        """Check that no device is named that could not be everyone's."""
        super().__post_init__()
        choice("device", self.device, ("auto", "cpu", "cuda"))
        self._chosen: Plan | None = None

    def processes(self) -> AbstractContextManager[None]:
        """See Hardware.processes.

        Raises:
            UserError: torchrun has started none.
        """
        require(
            torchrun.processes() > 0,
            "hardware: ddp is one run on N processes that torchrun starts: torchrun --standalone "
            "--nproc-per-node=N -m snnrun train hardware=ddp ...",
        )
        return ranks.joined()

    def cuda_index(self, count: int) -> int:
        """One for each process of a machine.

        Raises:
            ConfigError: there are too few.
        """
        here = torchrun.local_rank()
        require(
            here < count,
            f"hardware.device: process {here + 1} of this machine has no CUDA device, {count} "
            "found; start fewer by --nproc-per-node, or use hardware.device=cpu",
        )
        return here

    def chosen(self) -> Plan:
        """See Hardware.chosen; all processes compute in the way of the first."""
        if self._chosen is None:
            self._chosen = ranks.from_leader(super().chosen() if ranks.leads() else None)
        return self._chosen
