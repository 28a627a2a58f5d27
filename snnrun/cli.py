"""The command line: picks the sub-command, imports nothing heavy itself."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from snnrun import __version__, collector, torchrun

HELP = f"""snnrun {__version__}: train spiking neural networks with any method, on one footing

  snnrun train  [group=option ...] [key=value ...] [-m]  train one run; -m: every combination
  snnrun check  [group=option ...] [key=value ...]       say what would run, and what is missing
  snnrun eval   RUN [key=value ...]                      evaluate a finished run again
  snnrun compare [key=value ...] [--baseline NAME]       finished runs side by side
  snnrun export RUN --to FORMAT                          for other programs: nir, onnx, torchscript
  snnrun reproduce EXPERIMENT [seeds=N]                  a published row against the paper's number
  snnrun verify [group=option ...] [key=value ...]       definition checks on this machine
  snnrun ls     GROUP                                    list methods, datasets, models, ...
  snnrun ui     [--store URI] [--port N]                 open the MLflow UI on train's store

Each command has --help. Two to start with:
  snnrun train
  snnrun train -m method=bptt,tet seed=0,1,2
"""


def main() -> None:
    """Entry point of the console script and of ``python -m snnrun``."""
    command, *rest = sys.argv[1:] or ["--help"]
    if command != "train" and torchrun.processes() > 1:
        torchrun.fail(f"torchrun starts the processes of snnrun train; snnrun {command} is one")
    if command in ("-sc", "--shell-completion"):
        _complete()
    elif command in ("train", "check"):
        _hydra(command, rest)
    elif command in COMMANDS:
        _user_errors(COMMANDS[command], rest)
    elif command in ("-h", "--help"):
        sys.stdout.write(HELP)
    elif command in ("-V", "--version"):
        sys.stdout.write(f"snnrun {__version__}\n")
    else:
        names = ", ".join(["train", "check", *COMMANDS])
        sys.exit(f"error: unknown command {command!r}; one of: {names}")


def _hydra(command: str, arguments: list[str]) -> None:
    sweep = bool({"-m", "--multirun"} & set(arguments))
    if command == "check" and sweep:
        sys.exit("error: snnrun check looks at one run and writes nothing; leave out -m")
    if sweep and torchrun.processes():
        torchrun.fail("torchrun starts the processes of one run; sweep without it, or without -m")
    if not sweep:
        collector.wait()
    _launch(command, f"snnrun {command}", arguments)


def _launch(task: str, program: str, arguments: list[str]) -> None:
    from snnrun import train

    # Hydra's parser takes overrides in one piece only: not some before `-m` and some behind it.
    sys.argv = [program, *sorted(arguments, key=_is_override)]
    train.launch(getattr(train, task))


def _is_override(argument: str) -> bool:
    return argument[0:1] != "-" and ("=" in argument or argument[0:1] == "~")


def _complete() -> None:
    """Hydra completes groups and keys, and must see the line without the sub-command."""
    line = os.environ.get("COMP_LINE", "")
    program, _, tail = line.partition(" ")
    sub, space, overrides = tail.lstrip().partition(" ")
    if line and not space:
        names = ["train", "check", *COMMANDS]
        sys.stdout.write(" ".join(name for name in names if name.startswith(sub)) + "\n")
    elif not line or sub in ("train", "check"):
        os.environ["COMP_LINE"] = f"{program} {overrides}"
        _launch("train", "snnrun", sys.argv[1:])


def _user_errors(command: Callable[[list[str]], None], arguments: list[str]) -> None:
    from snnrun.errors import UserError, enough_memory
    from snnrun.train import set_up_process

    set_up_process()
    try:
        with enough_memory():
            command(arguments)
    except UserError as error:
        sys.exit(f"error: {error}")


def _ls(arguments: list[str]) -> None:
    from snnrun.ls import GROUPS, show

    parser = argparse.ArgumentParser(prog="snnrun ls", description="List the options of a group.")
    parser.add_argument("group", choices=GROUPS)
    show(parser.parse_args(arguments).group)


def _ui(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="snnrun ui", description="Open the MLflow UI on the store that snnrun train uses."
    )
    parser.add_argument("--store", help="tracking.uri of the runs (default: as snnrun train here)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=5000, help="(default: %(default)s)")
    chosen = parser.parse_args(arguments)
    if not 0 < chosen.port < 2**16:
        parser.error(f"argument --port: {chosen.port} is not between 1 and 65535")
    from snnrun.tracking_store import SQLITE, existing, resolve_uri

    uri = resolve_uri(chosen.store, Path.cwd())
    if uri.startswith(SQLITE):
        existing(uri)
    server = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    os.execv(sys.executable, [*server, "--host", chosen.host, "--port", str(chosen.port)])


def _eval(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="snnrun eval",
        description="Evaluate the best checkpoint of a run on the test set. A key with several "
        "values gives one table, and a csv and a picture in the run's folder.",
        epilog="example: snnrun eval outputs/0123456789abcdef method.timesteps=1,2,4,8",
    )
    parser.add_argument("run", type=Path, help="the run's folder, as printed at its end")
    parser.add_argument("overrides", nargs="*", help="key=value, e.g. method.timesteps=8")
    chosen = parser.parse_args(arguments)
    from snnrun.evaluate import evaluate

    evaluate(chosen.run, chosen.overrides)


def _compare(arguments: list[str]) -> None:
    from snnrun.report.command import command

    command(arguments)


def _reproduce(arguments: list[str]) -> None:
    from snnrun.reproduce import command

    command(arguments)


def _export(arguments: list[str]) -> None:
    from snnrun.export.command import command

    command(arguments)


def _verify(arguments: list[str]) -> None:
    from snnrun.verify.command import command

    command(arguments)


COMMANDS = {
    "compare": _compare,
    "eval": _eval,
    "export": _export,
    "ls": _ls,
    "reproduce": _reproduce,
    "ui": _ui,
    "verify": _verify,
}
