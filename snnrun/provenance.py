"""Where a run's numbers come from: versions, machine, and the state of the working tree."""

import platform
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from snnrun import __version__, ranks

if TYPE_CHECKING:
    from snnrun.config import RunSpec


def tags(spec: "RunSpec", device: torch.device) -> dict[str, str]:
    """What a run is found and compared by."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    times = f"{ranks.count()} x " if ranks.count() > 1 else ""
    return {
        "spec_hash": spec.hash,
        "method": spec.method.name,
        "dataset": spec.dataset.name,
        "model": spec.model.name,
        "neuron": spec.neuron.name,
        "norm": spec.norm,
        "seed": str(spec.seed),
        "timesteps": str(spec.method.timesteps),
        "precision": spec.hardware.precision,
        "device": f"{times}{device.type} {name}",
        "threads": str(torch.get_num_threads()),
        "host": socket.gethostname(),
        "snnrun": __version__,
        "torch": torch.__version__,
        **spec.hardware.chosen().tags(),
        **({"init_from": spec.source} if spec.source else {}),
        **git_tags(),
    }


def _processor() -> str:
    """Model of the CPU where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def git_tags() -> dict[str, str]:
    """Commit of the current folder, and whether it has changes; empty without git."""
    sha = _git("rev-parse", "HEAD")
    return {"git.sha": sha, "git.dirty": str(bool(_git("status", "--porcelain")))} if sha else {}


def git_diff() -> str:
    """Uncommitted changes of that folder."""
    return _git("diff", "HEAD")


def _git(*args: str) -> str:
    try:
        done = subprocess.run(["git", *args], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
