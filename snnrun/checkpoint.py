"""Checkpoints: written whole or not at all, read without executing anything that is in the file.

A state is a dict of tensors, numbers, strings, None, and lists, tuples and dicts of these: what
`torch.load(weights_only=True)` takes.
"""

import os
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from snnrun.errors import UserError
from snnrun.folders import replace


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path`; a kill at any moment leaves the old file or the new one.

    Raises:
        TypeError: the state holds an object that `load` would refuse; `path` is untouched.
        UserError: the folder cannot be written or the disk is full; `path` is untouched.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # what torch makes of a full disk
                    raise error.__context__ from None
                raise
            file.flush()
            os.fsync(file.fileno())
        if foreign := get_unsafe_globals_in_checkpoint(str(temporary)):
            raise TypeError(f"a checkpoint cannot hold {', '.join(foreign)}")

    replace(path, write)


def load(path: Path, advice: str = "delete it") -> dict[str, Any]:
    """Read a checkpoint, every tensor on the CPU.

    Args:
        path: of the file.
        advice: what the user should do when it cannot be read.

    Raises:
        UserError: the file is missing, truncated, changed, or not a checkpoint of snnrun.
    """
    try:
        with zipfile.ZipFile(path) as parts:  # torch compares no checksums
            if wrong := parts.testzip():
                raise ValueError(f"{wrong} is not what was written")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {path} does not exist; {advice}") from error
    except Exception as error:  # arbitrary bytes make the unpickler raise anything, KeyError too
        raise UserError(
            f"checkpoint {path} cannot be read: truncated, changed, or not written by snnrun; "
            f"{advice}"
        ) from error
    return state


def keep(path: Path, best: Path) -> None:
    """Make `best` the file that is at `path` now: a hard link, a copy where there are none.

    Later calls of `save` put a new file at `path`, so they do not change `best`.

    Raises:
        UserError: the folder cannot be written.
    """

    def write(temporary: Path) -> None:
        try:
            temporary.hardlink_to(path)
        except OSError:  # FAT, some network file systems
            shutil.copyfile(path, temporary)

    replace(best, write)


def rng_state(device: torch.device) -> dict[str, Any]:
    """State of every global generator: python, numpy, torch on the CPU and on the run's device."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
    }


def restore_rng(state: dict[str, Any], device: torch.device) -> None:
    """Put every generator where `rng_state` found it, on whatever device the run goes on."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"][0], device)
