"""``snnrun eval``: measure a run's best checkpoint again, possibly with other settings."""

from pathlib import Path
from typing import cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from omegaconf import DictConfig, OmegaConf

from snnrun import evaluation
from snnrun.config import RunSpec, build, composing
from snnrun.curve import Curve
from snnrun.errors import UserError, require
from snnrun.folders import writing
from snnrun.inheritance import load_best
from snnrun.measure.health import Health
from snnrun.measure.memory import PeakMemory
from snnrun.run import batches, build_net
from snnrun.terminal import Display


def load_spec(folder: Path, overrides: list[str]) -> RunSpec:
    """The specification a run was started with, changed by ``key=value`` overrides.

    Raises:
        UserError: the folder holds no run.
        ConfigError: an override names no key, or its value does not fit.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        raise UserError(f"{folder} is not a run's folder: it has no config.yaml")
    config = cast(DictConfig, OmegaConf.load(file))
    config.init_from = None  # what it started from is in its checkpoint by now
    OmegaConf.set_struct(config, True)
    with composing(overrides):
        for change in OverridesParser.create().parse_overrides(overrides):
            key = change.key_or_group
            require(
                not OmegaConf.is_dict(OmegaConf.select(config, key)),
                f"{key}: a group cannot be replaced here, only keys in it",
            )
            OmegaConf.update(config, key, change.value())
        return build(config)


def evaluate(folder: Path, overrides: list[str]) -> list[dict[str, float]]:
    """Print and return the test metrics of the best checkpoint in a run's folder.

    An override with several values, ``method.timesteps=1,2,4``, gives one evaluation for each; they
    are shown as one table, and written as csv and picture to the run's folder.
    """
    key, choices = variants(overrides)
    specs = {value: load_spec(folder, changes) for value, changes in choices.items()}
    figures = {value: measure(spec, folder) for value, spec in specs.items()}
    if key:
        curve = Curve(key, figures)
        curve.show()
        with writing(folder, "eval"):
            curve.write(folder)
    else:
        (spec,) = specs.values()
        Display("plain", spec.epochs).summary(f"{spec.name} on the test set", figures[""], [])
    return list(figures.values())


def variants(overrides: list[str]) -> tuple[str, dict[str, list[str]]]:
    """The key with several values, and the overrides of each; ``""`` without such a key.

    Raises:
        ConfigError: several keys have several values, or one is no override.
    """
    with composing(overrides):
        changes = OverridesParser.create().parse_overrides(overrides)
    swept = [change for change in changes if change.is_sweep_override()]
    if not swept:
        return "", {"": overrides}
    names = ", ".join(change.key_or_group for change in swept)
    require(len(swept) == 1, f"only one key can have several values here, not {names}")
    rest = [str(change.input_line) for change in changes if change is not swept[0]]
    # glob(*) would be looked up among the options of a group.
    listed = swept[0].is_discrete_sweep() and swept[0].value_type != ValueType.GLOB_CHOICE_SWEEP
    require(listed, f"{names}: list the values, e.g. {names}=1,2,4")
    values = [str(value) for value in swept[0].sweep_string_iterator()]
    return names, {value: [*rest, f"{names}={value}"] for value in values}


def measure(spec: RunSpec, folder: Path) -> dict[str, float]:
    """Test metrics of the best weights in ``folder`` under a specification."""
    device = spec.hardware.torch_device()
    spec.hardware.prepare(spec.seed)
    memory = PeakMemory(device)
    net, plain = build_net(spec, device)
    load_best(net, folder)
    splits = spec.dataset.load(spec.seed, device, spec.method.timesteps)
    test = batches(spec, splits.test, training=False)
    return evaluation.test(plain, spec.method, test, spec.hardware.energy, memory, Health())
