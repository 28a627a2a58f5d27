"""``snnrun export``: write the file, read it back, compare it with the net."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from torch import Tensor, nn

from snnrun import checkpoint
from snnrun.config import RunSpec
from snnrun.errors import UserError
from snnrun.evaluate import load_spec
from snnrun.export import nir, onnx, torchscript
from snnrun.folders import replace
from snnrun.inheritance import load_best
from snnrun.kits.folding import folded
from snnrun.run import batches, build_net

CPU = torch.device("cpu")
SAMPLES = 16  # of the test set, on which net and file are compared


class Format(NamedTuple):
    """How a net in single precision is written, and how far its file may be off.

    Attributes:
        file: name in the run's folder.
        write: takes net, input [T, B, ...] and path; returns what the file gives for that input.
        dtype: precision in which net and file are compared.
        bound: on the norm of the outputs' difference, relative to that of the net's outputs.
    """

    file: str
    write: Callable[[nn.Module, Tensor, Path], Tensor]
    dtype: torch.dtype
    bound: float


# Another runtime sums in another order, by which a potential at the threshold may flip its spike.
FORMATS = {
    "nir": Format("export.nir", nir.write, torch.float64, 1e-6),
    "onnx": Format("export.onnx", onnx.write, torch.float32, 1e-2),
    "torchscript": Format("export.torchscript", torchscript.write, torch.float32, 1e-6),
}


def command(arguments: list[str]) -> None:
    """Write the file and say what is in it.

    Raises:
        UserError: no run, a net that the format cannot hold, a library that is not installed, or a
            file that gives other outputs than the net. No file is left.
    """
    parser = argparse.ArgumentParser(
        prog="snnrun export",
        description="Write the best weights of a run, norms folded in, to a file in its folder; "
        "it is read back and must give the net's outputs on test data. torchscript and onnx: nets "
        "of lif, if or plif neurons without feedback, input [T, batch, ...] normalised as in "
        "training, outputs [T, batch, classes]. nir: of these, chains with hard reset. "
        "state_dict: any net, as a dictionary of tensors, which is not compared.",
        epilog="example: snnrun export outputs/0123456789abcdef --to nir",
    )
    parser.add_argument("run", type=Path, help="the run's folder, as printed at its end")
    parser.add_argument(
        "--to", choices=(*FORMATS, "state_dict"), required=True, help="format of the file"
    )
    chosen = parser.parse_args(arguments)
    spec = load_spec(chosen.run, ["hardware.device=cpu", "hardware.precision=fp32"])
    net, plain = build_net(spec, CPU)
    load_best(net, chosen.run)
    deployed = folded(plain).to(memory_format=torch.contiguous_format)
    if chosen.to == "state_dict":
        file, note = chosen.run / "export.pt", ""
        checkpoint.save(file, deployed.state_dict())
    else:
        how = FORMATS[chosen.to]
        file, x = chosen.run / how.file, samples(spec)
        figure = export(deployed, x, how, file)
        note = (
            f"; read back, its outputs for {x.shape[1]} test samples are {figure:.1e} of their "
            f"norm off (at most {how.bound:.0e})"
        )
    Console(stderr=True).print(f"written: {file}{note}", highlight=False, soft_wrap=True)


def samples(spec: RunSpec) -> Tensor:
    """The first samples of the run's test set, [T, B, ...], not expanded over time.

    Raises:
        DataError: the data is not there.
    """
    splits = spec.dataset.load(spec.seed, CPU, spec.method.timesteps)
    x, _ = next(batches(spec, splits.test, training=False).epoch(0))
    return x[:, :SAMPLES].contiguous()


@torch.no_grad()
def export(net: nn.Module, x: Tensor, how: Format, file: Path) -> float:
    """Write the folded ``net`` to ``file``; how far the file's outputs for ``x`` are off.

    Raises:
        UserError: see `command`; ``file`` is as before.
    """
    x = x.to(how.dtype)
    expected = net.to(how.dtype)(x)
    net, figure = net.float(), 0.0

    def write(path: Path) -> None:
        nonlocal figure
        found = how.write(net, x, path)
        figure = ((found - expected).norm() / expected.norm().clamp(min=1e-30)).item()
        if not figure <= how.bound:
            raise UserError(
                f"{file.name} gives other outputs than the net: {figure:.1e} of their norm off, "
                f"at most {how.bound:.0e} is accepted; use --to state_dict"
            )

    replace(file, write)
    return figure
