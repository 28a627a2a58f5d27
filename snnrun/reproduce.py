"""``snnrun reproduce``: a published row over several seeds, against the paper's number."""

import argparse
import re
from pathlib import Path
from statistics import fmean, stdev

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from snnrun.config import CONF, build, composing
from snnrun.errors import UserError
from snnrun.ls import options
from snnrun.published import Published, published
from snnrun.train import train

EPILOG = """examples
  snnrun reproduce ttfs_fashion_mnist
  snnrun reproduce tet_cifar10_resnet19 seeds=3 dataset.download=true

Finished seeds are not repeated; interrupted ones continue: repeat the command.
"""


def command(arguments: list[str]) -> None:
    """Train the seeds that are missing, print mean, deviation and the paper's number.

    Raises:
        UserError: the experiment is unknown, an override does not fit, or the mean falls short of
            the paper's number by more than the tolerance.
    """
    chosen = _parser().parse_args(arguments)
    row = published(_file(chosen.experiment))
    seeds, overrides = split_seeds(chosen.overrides)
    configs = [composed(chosen.experiment, overrides, seed) for seed in range(seeds)]
    judge(chosen.experiment, row, [accuracy(config) for config in configs])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="snnrun reproduce",
        description="Run a published row over seeds 0 to N - 1; fails when the mean test accuracy "
        "misses the paper's by more than the tolerance (two of the paper's deviations, at least "
        "half a point).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiment", help="as snnrun ls experiments names it")
    parser.add_argument("overrides", nargs="*", help="seeds=N (default 5), key=value")
    return parser


def _file(experiment: str) -> Path:
    if experiment not in options("experiment"):
        raise UserError(f"{experiment}: no such experiment; snnrun ls experiments lists them")
    return CONF / "experiment" / f"{experiment}.yaml"


def split_seeds(overrides: list[str]) -> tuple[int, list[str]]:
    """The number of seeds, 5 unless given, and the other overrides.

    Raises:
        UserError: it is no number, or single seeds are named.
    """
    seeds, rest = 5, []
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "seed":
            raise UserError("seed: reproduce runs seeds 0 to N - 1; choose N with seeds=N")
        if key != "seeds":
            rest.append(override)
        elif re.fullmatch(r"[1-9]\d*", value):
            seeds = int(value)
        else:
            raise UserError(f"seeds: {value!r} is not a positive whole number")
    return seeds, rest


def composed(experiment: str, overrides: list[str], seed: int) -> DictConfig:
    """The configuration of one seed, checked.

    Raises:
        ConfigError: an override names no key, or its value does not fit.
    """
    with composing(overrides), initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose("config", [f"experiment={experiment}", *overrides, f"seed={seed}"])
    build(config)
    return config


def accuracy(config: DictConfig) -> float:
    """Test accuracy of a run; trained now unless it has finished before."""
    from snnrun.tracking import prepare

    train(config)
    spec = build(config)
    found = prepare(spec.tracking, Path.cwd()).find(spec.hash)
    assert found is not None
    return found.metrics["test/accuracy"]


def judge(experiment: str, row: Published, accuracies: list[float]) -> None:
    """Print the comparison.

    Raises:
        UserError: the paper's number was missed.
    """
    mean = fmean(accuracies)
    spread = f" ± {stdev(accuracies):.2%}" if len(accuracies) > 1 else ""
    expected = "no number" if row.expected is None else f"{row.expected:.2%}"
    table = Table(title=f"{experiment}: {row.what}", title_justify="left", show_header=False)
    table.add_row("measured here", f"{mean:.2%}{spread} ({len(accuracies)} seeds)")
    table.add_row("paper", f"{expected} [dim]{row.paper}[/dim]")
    table.add_row("tolerance", f"{row.tolerance:.2%}")
    Console(stderr=True).print(table)
    if row.expected is not None and mean < row.expected - row.tolerance:
        raise UserError(
            f"{experiment}: {mean:.2%} is {row.expected - mean:.2%} below the paper's "
            f"{row.expected:.2%}, tolerance {row.tolerance:.2%}"
        )
