"""From the composed configuration to one checked, typed specification of a run."""

import difflib
import hashlib
import json
import pkgutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from inspect import isabstract
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from snnrun.errors import ConfigError, choice, require

if TYPE_CHECKING:
    from snnrun.data.base import Dataset
    from snnrun.hardware import Hardware
    from snnrun.methods.base import Method
    from snnrun.models.base import Model
    from snnrun.neurons.base import Neuron
    from snnrun.tracking import Tracking

HERE = Path(__file__).resolve().parent
# A checkout keeps conf beside the package, a wheel inside it.
CONF = next(p for p in (HERE.parent / "conf", HERE / "conf") if (p / "config.yaml").is_file())

BASES = {
    "method": "snnrun.methods.base.Method",
    "neuron": "snnrun.neurons.base.Neuron",
    "dataset": "snnrun.data.base.Dataset",
    "model": "snnrun.models.base.Model",
    "hardware": "snnrun.hardware.Hardware",
}
NODES = ("tracking", "report", *BASES)
TOP = ("seed", "epochs", "eval_every", "init_from", "output_dir", "progress", *NODES)
# What changes neither the weights nor the figures measured on them; precision does.
NOT_IN_HASH = ("hardware", "tracking", "report", "output_dir", "progress", "experiment")
WHERE_DATA_IS = ("root", "download", "cache_dir", "resident_limit_mib")

T = TypeVar("T")


@dataclass(kw_only=True)
class Report:
    """What is drawn at the end of a run."""

    raster: bool


@dataclass(kw_only=True)
class RunSpec:
    """One run, completely: typed groups that fit each other, and the plain tree they came from."""

    seed: int
    epochs: int
    eval_every: int
    output_dir: Path
    progress: str
    method: "Method"
    neuron: "Neuron"
    dataset: "Dataset"
    model: "Model"
    hardware: "Hardware"
    tracking: "Tracking"
    report: Report
    norm: str
    init_from: Path | None
    source: str | None  # spec hash of the run in init_from
    tree: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the run in the tracking store."""
        m = self.method
        return f"{m.name}-{self.model.name}-T{m.timesteps}-s{self.seed}"

    @property
    def hash(self) -> str:
        """Identity of the run: equal for two commands that would compute the same numbers."""
        tree = {k: v for k, v in self.tree.items() if k not in NOT_IN_HASH}
        tree["dataset"] = {k: v for k, v in tree["dataset"].items() if k not in WHERE_DATA_IS}
        tree["precision"] = self.hardware.precision
        del tree["init_from"]  # a place; what counts is what was computed there
        if self.source is not None:
            tree["init_from"] = self.source
        text = json.dumps(tree, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def folder(self) -> Path:
        """Where checkpoints are kept."""
        return self.output_dir / self.hash[:16]


def build(cfg: DictConfig) -> RunSpec:
    """Turn every group into a typed object and check all of them together; creates nothing.

    Raises:
        ConfigError: naming the key, what was found and what is accepted.
    """
    from snnrun.inheritance import identity
    from snnrun.tracking import Tracking

    tree = _resolved(cfg)
    _check_keys(tree)
    _check_sizes(tree)
    groups = {group: typed_group(tree[group], group) for group in BASES}
    tracking = typed(Tracking, tree["tracking"], "tracking")
    _check_values(tree)
    norm = _fit(groups["method"], groups["model"])
    require(
        groups["hardware"].precision != "bf16" or groups["method"].takes_bf16,
        f"hardware.precision: method={groups['method'].name} is not known to train in bf16; "
        "use fp32",
    )
    neuron = groups["method"].neuron(groups["neuron"])
    init_from = Path(tree["init_from"]).resolve() if tree["init_from"] else None
    return RunSpec(
        **{key: tree[key] for key in ("seed", "epochs", "eval_every", "progress")},
        output_dir=Path(tree["output_dir"]).resolve(),
        tracking=tracking,
        report=typed(Report, tree["report"], "report"),
        norm=norm,
        init_from=init_from,
        source=None if init_from is None else identity(init_from),
        tree=tree,
        **{**groups, "neuron": neuron},
    )


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    try:
        tree = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def typed_group(values: dict[str, Any], group: str) -> Any:
    """The typed object of one config group, its class named by ``_target_``.

    Raises:
        ConfigError: when the class is missing or not of the group's kind, or a value does not fit.
    """
    target = values.get("_target_")
    base = pkgutil.resolve_name(BASES[group])
    try:
        cls = pkgutil.resolve_name(str(target))
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{group}._target_: cannot import {target!r} ({error})") from error
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ConfigError(f"{group}._target_: {target!r} is not a subclass of {BASES[group]}")
    require(not isabstract(cls), f"{group}._target_: {target!r} is abstract, name a subclass")
    return typed(cls, {k: v for k, v in values.items() if k != "_target_"}, group)


def typed(cls: type[T], values: dict[str, Any], where: str) -> T:
    """An instance of the dataclass ``cls`` from plain values, types checked.

    Raises:
        ConfigError: naming the full key; for an unknown one the nearest known key.
    """
    try:
        node = OmegaConf.merge(OmegaConf.structured(cls), values)
        return OmegaConf.to_object(node)  # type: ignore[return-value]  # structured of cls
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}") from error
    except OmegaConfBaseException as error:
        key = str(error.full_key or "")
        if isinstance(error, ConfigKeyError):
            names = [f.name for f in fields(error.object_type or cls)]  # type: ignore[arg-type]
            raise ConfigError(_unknown(f"{where}.{key}", "key", names)) from error
        raise ConfigError(f"{where}.{key}: {str(error).splitlines()[0]}") from error


@contextmanager
def composing(arguments: list[str]) -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise for a command line into one line.

    Raises:
        ConfigError: naming the argument, and the nearest name where one is unknown.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    except (TypeError, ValueError) as error:
        if not of_composition(error):
            raise
        raise ConfigError(explain_groups(arguments)) from error


def explain(error: HydraException | OmegaConfBaseException) -> str:
    """One line for what Hydra and OmegaConf say of a command line, with the nearest name."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return _unknown(f"{group}={option}", "option", list(error.options), name=option)
    inner = error.__cause__ or error
    if isinstance(inner, ConfigKeyError | ConfigAttributeError) and inner.parent_node is not None:
        return _unknown(
            str(inner.full_key), "key", list(_keys_below(OmegaConf.to_container(inner.parent_node)))
        )
    text = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if not isinstance(error, OverrideParseException):
        return text
    key, _, value = error.override.partition("=")
    if "LexerNoViableAlt" in text:  # outside its grammar, as all letters beyond ASCII are
        text = f"""the value needs quotes: '{key}="{value}"'"""
    return f"{error.override}: {text}"


def of_composition(error: Exception) -> bool:
    """Whether Hydra stumbled over the choice of an option, as for ``method=null``."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__") == "hydra._internal.defaults_list"


def explain_groups(arguments: list[str]) -> str:
    """One line for ``method=null`` or ``=3``, which Hydra refuses without naming the group."""
    for argument in arguments:
        group, _, option = argument.partition("=")
        options = [file.stem for file in sorted((CONF / group).glob("*.yaml"))]
        if group and options and not set(option.split(",")) <= {*options}:
            return _unknown(argument, "option", options, name=option)
    return f"{' '.join(arguments)}: a config group takes the name of an option"


def _keys_below(tree: Any, prefix: str = "") -> Iterator[str]:
    for key in tree if isinstance(tree, dict) else ():
        if not prefix and key in ("hydra", "_target_"):
            continue
        yield f"{prefix}{key}"
        yield from _keys_below(tree[key], f"{prefix}{key}.")


def _unknown(where: str, what: str, names: list[str], name: str | None = None) -> str:
    """Say that a name is unknown; ``lr`` is near ``method.optim.lr``."""
    deepest_first = sorted(names, key=lambda full: -full.count("."))
    by_leaf = {full.rpartition(".")[2]: full for full in deepest_first}
    near = difflib.get_close_matches(name or where.rpartition(".")[2], by_leaf, n=1)
    parent = where[: where.rfind(".") + 1]
    hint = f"; did you mean {parent}{by_leaf[near[0]]}?" if near else ""
    top = ", ".join(full for full in names if "." not in full)
    return f"{where}: no such {what}{hint} ({what}s: {top})"


def _check_keys(tree: dict[str, Any]) -> None:
    for key in sorted(tree.keys() - set(TOP)):
        raise ConfigError(_unknown(key, "key", list(TOP)))
    for key in TOP:
        require(key in tree, f"{key}: missing, every run needs it")
    for key in NODES:
        require(isinstance(tree[key], dict), f"{key}: {tree[key]!r} is not a group of keys")


def _check_sizes(tree: Any, where: str = "") -> None:
    """Refuse numbers that no tensor takes; the seed is looked at by itself."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        _check_sizes(value, f"{where}{key}.")
        fits = not isinstance(value, int) or abs(value) < 2**63
        require(fits or key == "seed", f"{where}{key}: {value} has more than 64 bits")


def _check_values(tree: dict[str, Any]) -> None:
    for key, least in (("seed", 0), ("epochs", 1), ("eval_every", 1)):
        value = tree[key]
        require(
            isinstance(value, int) and not isinstance(value, bool) and value >= least,
            f"{key}: {value!r} is not a whole number of at least {least}",
        )
    require(tree["seed"] < 2**64, f"seed: {tree['seed']} has more than 64 bits")
    folder = tree["output_dir"]
    require(isinstance(folder, str), f"output_dir: {folder!r} is not the name of a folder")
    source = tree["init_from"]
    require(
        source is None or isinstance(source, str),
        f"init_from: {source!r} is not null or the folder of a finished run",
    )
    choice("progress", str(tree["progress"]), ("auto", "plain", "off"))


def _fit(method: "Method", model: "Model") -> str:
    """Check that the method can train the model; the normalisation in effect."""
    for feature in sorted(method.needs - model.features):
        raise ConfigError(
            f"method={method.name} needs a model with {feature}, {model.name} has none"
        )
    norm = method.norms[0] if model.norm == "auto" else model.norm
    refusals = method.refusals()
    for feature in sorted(set(refusals) & (model.features | {norm})):
        raise ConfigError(
            f"method={method.name} cannot train a model with {feature}: {refusals[feature]}"
        )
    choice(f"model.norm (for method={method.name})", norm, method.norms)
    return norm
