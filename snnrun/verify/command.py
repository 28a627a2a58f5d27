"""``snnrun verify``: the definition checks on the user's machine, method and net."""

import argparse

from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from snnrun.config import CONF, RunSpec, build, composing
from snnrun.errors import ConfigError, UserError
from snnrun.verify.checks import CHECKS, Bench, Outcome


def command(arguments: list[str]) -> None:
    """Run all checks, print one line each.

    Raises:
        UserError: a check fails, or the choice itself cannot be run.
    """
    parser = argparse.ArgumentParser(
        prog="snnrun verify",
        description="Check that things that are equal by definition are equal on this machine and "
        "for this method, model and neuron; no data is needed. What does not apply is left out and "
        "says why.",
        epilog="example: snnrun verify method=saf model=vgg_sws dataset=cifar10",
    )
    parser.add_argument("overrides", nargs="*", help="group=option, key=value, as for train")
    overrides = parser.parse_args(arguments).overrides
    spec = specify(overrides)
    spec.hardware.prepare(spec.seed)
    bench = Bench(lambda *more: specify(overrides, *more), spec.hardware.torch_device())
    failed = show(run(bench))
    if failed:
        raise UserError(f"{failed} of {len(CHECKS)} checks failed")


def specify(overrides: list[str], *more: str) -> RunSpec:
    """The checked specification; a group or key in ``more`` replaces the user's for it.

    Raises:
        ConfigError: the combination cannot be run.
    """
    groups = {extra.partition("=")[0] for extra in more} & {"method", "model"}
    kept = [o for o in overrides if o.partition("=")[0].partition(".")[0] not in groups]
    with composing(overrides), initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return build(compose("config", [*kept, *more]))


def run(bench: Bench) -> dict[str, Outcome | str]:
    """Outcome of every check by its description, or why it does not apply."""
    outcomes: dict[str, Outcome | str] = {}
    for check in CHECKS:
        name = (check.__doc__ or "").strip().rstrip(".")
        try:
            outcomes[name] = check(bench)
        except ConfigError as error:
            outcomes[name] = str(error)
    return outcomes


def show(outcomes: dict[str, Outcome | str]) -> int:
    """Print one line per check; how many failed."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    failed = 0
    for name, outcome in outcomes.items():
        if isinstance(outcome, str):
            table.add_row("-", name, "", outcome)
            continue
        failed += not outcome.passed
        word = "pass" if outcome.passed else "FAIL"
        table.add_row(word, name, f"{outcome.figure:.1e}", f"at most {outcome.bound:.0e}")
    Console(soft_wrap=True).print(table)
    return failed
