"""From a command line to a checked specification, or to one line that says what is wrong."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from hydra.errors import HydraException

from snnrun.config import CONF, build, explain
from snnrun.errors import ConfigError
from snnrun.methods.bptt import BPTT


@dataclass(kw_only=True)
class Choosy(BPTT):
    """A method of a user's own that can train one kind of net only."""

    needs: ClassVar[frozenset[str]] = frozenset({"feedback"})
    refuses: ClassVar[dict[str, str]] = {"dropout": "its fixed point would move"}
    norms: ClassVar[tuple[str, ...]] = ("sws", "none")


CHOOSY = f"method._target_={__name__}.Choosy"
FEEDBACK = "model.feedback=true"
NOT_TETS = ("~method.lamb", "~method.phi")


def test_configuration_in_use_is_that_of_the_checkout():
    assert Path(__file__).parents[1] / "conf" == CONF


def test_specification_is_typed_and_named(specified):
    spec = specified("method=bptt", "seed=3", "method.timesteps=7", "epochs=2")
    assert isinstance(spec.method, BPTT)
    assert (spec.seed, spec.epochs, spec.method.timesteps) == (3, 2, 7)
    assert spec.name == "bptt-mlp-T7-s3"


def test_interpolations_follow_what_they_point_to(specified):
    spec = specified("dataset=synthetic", "dataset.epochs=9")
    assert spec.epochs == 9
    assert spec.tracking.experiment == "synthetic"


def test_output_folder_is_absolute_and_holds_the_hash(specified, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = specified("output_dir=there")
    assert spec.folder == tmp_path / "there" / spec.hash[:16]


def test_building_creates_nothing(specified, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    specified("tracking.uri=sqlite:///here.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        # unknown keys
        (
            "+method.lambda=1",
            r"method\.lambda: no such key; did you mean method\.lamb\? \(keys: name,",
        ),
        ("+method.optim.beta=1", r"method\.optim\.beta: no such key .*keys: name, lr, momentum"),
        ("+tracking.url=x", r"tracking\.url: no such key; did you mean tracking\.uri\?"),
        ("+epoch=1", r"epoch: no such key; did you mean epochs\?"),
        ("+nonsense=1", r"nonsense: no such key \(keys: seed, epochs,"),
        # wrong types
        ("method.optim.lr=abc", r"method\.optim\.lr: Value 'abc' .* could not be converted to Fl"),
        ("method.timesteps=2.5", r"method\.timesteps: Value '2\.5' .* converted to Integer"),
        ("method.optim.lr=null", r"method\.optim\.lr: Incompatible value 'None'"),
        ("method.optim=3", r"method\.optim: Invalid type assigned"),
        ("model.hidden=8", r"model\.hidden: Invalid value assigned"),
        ("model.hidden=[8,a]", r"model\.hidden\[1\]: Value 'a'"),
        ("output_dir=null", r"output_dir: None is not the name of a folder"),
        ("tracking=null", r"tracking: None is not a group of keys"),
        # missing values
        ("~method", "method: missing, every run needs it"),
        ("~seed", "seed: missing, every run needs it"),
        ("~method.lamb", r"method\.lamb: .* missing mandatory value: lamb"),
        ("epochs=???", "epochs: Missing mandatory value"),
        ("epochs=${nope}", "epochs: Interpolation key 'nope' not found"),
        # values out of range
        ("seed=-1", "seed: -1 is not a whole number of at least 0"),
        ("seed=1.5", r"seed: 1\.5 is not a whole number of at least 0"),
        ("seed=true", "seed: True is not a whole number of at least 0"),
        ("epochs=0", "epochs: 0 is not a whole number of at least 1"),
        ("eval_every=0", "eval_every: 0 is not a whole number of at least 1"),
        ("progress=loud", "progress: 'loud' is not one of auto, plain, off"),
        ("method.timesteps=0", r"method\.timesteps: 0 must be at least 1"),
        ("method.segments=3", r"method\.segments: 3 does not cut timesteps: 4 into equal parts"),
        ("method.segments=0", r"method\.segments: 0 does not cut timesteps: 4 into equal parts"),
        ("method.segments=8", r"method\.segments: 8 does not cut timesteps: 4 into equal parts"),
        ("method.lamb=1.1", r"method\.lamb: 1\.1 is not in \[0, 1\]"),
        ("method.optim.name=lion", r"method\.optim\.name: 'lion' is not one of sgd, adam"),
        ("model.hidden=[]", r"model\.hidden: \[\] must list at least one"),
        ("neuron.leak=1.5", r"neuron\.leak: 1\.5 is not between 0 and 1"),
        ("neuron.surrogate.name=step", r"neuron\.surrogate\.name: 'step' is not one of triangle"),
        ("dataset.batch_size=0", r"dataset\.batch_size: 0 is not 1 or more"),
        ("hardware.precision=fp61", r"hardware\.precision: 'fp61' is not one of fp32"),
        ("hardware.threads=0", r"hardware\.threads: 0 is not null or a number from 1 to 1024"),
        # classes
        ("method._target_=null", r"method\._target_: cannot import None"),
        ("method._target_=nowhere.Rule", r"method\._target_: cannot import 'nowhere\.Rule'"),
        ("method._target_=snnrun.methods.tet.Tet", r"method\._target_: cannot import .*Tet"),
        (
            "method._target_=snnrun.methods.base.Optim",
            r"is not a subclass of snnrun\.methods\.base",
        ),
        ("method._target_=snnrun.methods.base", r"is not a subclass of snnrun\.methods\.base"),
        ("method._target_=snnrun.methods.base.Method", r"base\.Method' is abstract"),
        ("neuron._target_=snnrun.methods.tet.TET", r"is not a subclass of snnrun\.neurons\.base"),
    ],
)
def test_mistake_is_one_line_naming_the_key(composed, override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build(composed(override))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method=tett", r"method=tett: no such option; did you mean tet\? \(options: ann, bptt"),
        ("lr=1", r"lr: no such key; did you mean method\.optim\.lr\?"),
        (
            "method.optim.lrr=1",
            r"method\.optim\.lrr: no such key; did you mean method\.optim\.lr\?",
        ),
        ("optimizer=adam", r"optimizer"),
    ],
)
def test_mistake_that_hydra_finds_is_one_line_too(composed, override, message):
    with pytest.raises(HydraException) as caught:
        composed(override)
    with pytest.raises(ConfigError, match=message):
        raise ConfigError(explain(caught.value))
    assert "\n" not in explain(caught.value)


# What fits what


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), r"method=tet needs a model with feedback, mlp has none"),
        (
            (FEEDBACK, "model.dropout=0.5"),
            "cannot train a model with dropout: its fixed point would move",
        ),
        ((FEEDBACK, "model.norm=bn"), r"model\.norm .*'bn' is not one of sws, none"),
        ((FEEDBACK, "model.norm=batch"), r"model\.norm .*'batch' is not one of sws, none"),
    ],
)
def test_model_that_the_method_cannot_train_is_refused(composed, overrides, message):
    cfg = composed(CHOOSY, *NOT_TETS, *overrides)
    with pytest.raises(ConfigError, match=message):
        build(cfg)


@pytest.mark.parametrize(("asked", "expected"), [("auto", "sws"), ("none", "none"), ("sws", "sws")])
def test_norm_in_effect_is_the_one_asked_for_or_the_first_of_the_method(specified, asked, expected):
    spec = specified(CHOOSY, *NOT_TETS, FEEDBACK, f"model.norm={asked}")
    assert spec.norm == expected


def test_neuron_that_the_method_cannot_train_is_refused(composed):
    with pytest.raises(ConfigError, match="reset: hard"):
        build(composed("method=ssgd", "neuron.reset=hard"))


# Identity


@pytest.mark.parametrize(
    "override",
    [
        "hardware=cpu",
        "hardware.threads=1",
        "hardware.energy.e_ac_pj=1",
        "tracking.uri=sqlite:///elsewhere.db",
        "tracking.experiment=mine",
        "output_dir=elsewhere",
        "progress=off",
        "dataset.root=/elsewhere",
        "dataset.download=true",
    ],
)
def test_same_numbers_same_hash(specified, override):
    assert specified(override).hash == specified().hash


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "epochs=3",
        "eval_every=2",
        "hardware.precision=fp64",
        "method=bptt",
        "method.timesteps=5",
        "method.optim.lr=0.5",
        "method.lamb=0.1",
        "neuron=if",
        "neuron.leak=0.25",
        "neuron.surrogate.width=3",
        "model=convnet",
        "model.hidden=[7]",
        "model.norm=none",
        "dataset=synthetic",
        "dataset.batch_size=3",
        "dataset.limit=50",
        "dataset.augment.flip=true",
        "dataset.encoding.name=poisson",
    ],
)
def test_other_numbers_other_hash(specified, override):
    assert specified(override).hash != specified().hash


def test_hash_does_not_depend_on_the_order_of_overrides(specified):
    assert specified("seed=1", "epochs=2").hash == specified("epochs=2", "seed=1").hash
