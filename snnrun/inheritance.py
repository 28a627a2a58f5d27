"""Starting from the weights of a finished run: time inheritance training, fine-tuning.

Deng et al., ICLR 2022, arXiv 2202.11946, section 4.3: train with few steps first, go on with many;
optimiser and schedule start afresh.
"""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import nn

from snnrun import checkpoint
from snnrun.errors import ConfigError, UserError


def identity(folder: Path) -> str:
    """Spec hash of the finished run in ``folder``.

    Raises:
        ConfigError: there is no run, or it has not reached its last epoch.
    """
    if not (folder / "config.yaml").is_file() or not (folder / "best.pt").is_file():
        raise ConfigError(f"init_from: {folder} is not a run's folder with a best.pt")
    state = _read(folder / "last.pt")
    done, epochs = state["progress"]["epoch"], OmegaConf.load(folder / "config.yaml").epochs
    if done < epochs:
        raise ConfigError(
            f"init_from: the run in {folder} stopped after {done} of {epochs} epochs; finish it "
            "first, its best weights may still change"
        )
    return str(state["spec_hash"])


def load_best(net: nn.Module, folder: Path) -> None:
    """Give ``net`` the best weights of the run in ``folder``.

    Raises:
        UserError: they do not fit this net.
    """
    state = _read(folder / "best.pt")
    try:
        net.load_state_dict(state["net"])
    except RuntimeError as error:  # torch lists every tensor; the first says enough
        reason = str(error).splitlines()[1].strip()
        raise UserError(f"the weights in {folder} do not fit this net: {reason}") from error


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint that a run has written."""
    advice = "the tracking store keeps a copy with the artifacts of a finished run"
    state = checkpoint.load(path, advice)
    if "spec_hash" not in state:
        raise UserError(f"checkpoint {path} is not of a run; {advice}")
    return state
