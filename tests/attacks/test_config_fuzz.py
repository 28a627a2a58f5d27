"""Values nobody meant: every one trains a few steps, or is refused in one line naming its key."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException

from snnrun.config import CONF, build, explain, explain_groups, of_composition
from snnrun.data.seeds import generator
from snnrun.errors import UserError
from snnrun.measure.tally import NotFinite, Tally
from snnrun.run import batches, build_net

TINY = (
    "dataset=synthetic", "dataset.size=[1,4,4]", "dataset.num_classes=3", "dataset.train_samples=5",
    "dataset.test_samples=3", "dataset.batch_size=2", "model.hidden=[4]", "hardware=cpu",
    "method.timesteps=2", "hardware.threads=1",
)  # fmt: skip
NUMBERS = ("0", "1", "-1", "2", "0.5", "1e-45", "1e38", "1e400", "nan", "inf", "-inf", "1e3")
ODD = (*NUMBERS, "null", "true", "''", "some", "[]", "[1]", "[null]", "{}", "{a:1}", "${seed}")
SCALARS = (
    "method.timesteps", "method.optim.lr", "method.optim.momentum", "method.optim.weight_decay",
    "method.optim.warmup_steps", "method.optim.clip_norm", "neuron.leak", "neuron.threshold",
    "neuron.rest", "neuron.surrogate.width", "neuron.surrogate.cutoff", "neuron.delay",
    "dataset.batch_size", "dataset.validation", "dataset.limit", "dataset.noise",
    "dataset.encoding.gain", "dataset.encoding.threshold", "dataset.encoding.tau",
    "dataset.augment.crop", "dataset.augment.roll", "dataset.augment.cutout", "model.dropout",
    "dataset.train_samples", "dataset.test_samples", "dataset.num_classes", "hardware.threads",
    "hardware.energy.e_ac_pj", "seed", "epochs", "eval_every",
)  # fmt: skip
OTHERS = (
    "method", "neuron", "model", "dataset", "hardware", "method.optim", "method.optim.name",
    "method.optim.schedule", "method.name", "neuron.reset", "neuron.surrogate",
    "neuron.surrogate.name", "neuron.detach_reset", "dataset.size", "dataset.frames",
    "dataset.encoding", "dataset.encoding.name", "dataset.augment.auto", "model.hidden",
    "model.norm", "model.feedback", "hardware.device", "hardware.precision", "init_from",
    "tracking", "tracking.uri", "report.raster", "output_dir", "progress",
)  # fmt: skip
COMBINED = {
    "method.timesteps": ("1", "2"),
    "dataset.batch_size": ("1", "2", "100"),
    "dataset.num_classes": ("1", "2"),
    "dataset.train_samples": ("1", "2"),
    "dataset.test_samples": ("1", "3"),
    "dataset.validation": ("0", "0.1", "0.9"),
    "dataset.limit": ("null", "1", "2"),
    "dataset.frames": ("true", "false"),
    "dataset.encoding.name": ("direct", "poisson", "latency"),
    "model.hidden": ("[1]", "[1,1,1]"),
    "model.norm": ("auto", "none"),
    "model.dropout": ("0", "0.99"),
    "neuron.leak": ("0", "1"),
    "neuron.threshold": ("1e-6", "1", "1e6"),
    "neuron.surrogate.width": ("1e-6", "1e6"),
    "method.optim.lr": ("0", "1e30"),
    "hardware.precision": ("fp32", "fp64"),
}


def attempt(*overrides: str) -> str | None:
    """Train two epochs and evaluate; what the user reads if that is refused."""
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            cfg = compose("config", overrides=[*TINY, *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        return explain(error)
    except (TypeError, ValueError) as error:
        assert of_composition(error)
        return explain_groups(list(overrides))
    try:
        spec = build(cfg)
        train(spec)
    except (UserError, NotFinite) as error:
        return str(error)
    return None


def train(spec):
    device = spec.hardware.torch_device()
    spec.hardware.prepare(spec.seed)
    net, plain = build_net(spec, device)
    spec.dataset.find()
    splits = spec.dataset.load(spec.seed, device, spec.method.timesteps)
    update, tally = spec.method.setup(net), Tally.zero(device)
    data = batches(spec, splits.train, training=True)
    for epoch in range(2):
        for x, y in data.epoch(epoch):
            out = spec.method.step(net, update, x, y)
            tally.add(out.loss, out.logits, y)
    tally.metrics("train")
    plain.eval()
    for part in (splits.validation, splits.test):
        for x, _ in batches(spec, part, training=False).epoch(0):
            with torch.no_grad():
                assert spec.method.decode(plain(x)).shape == (x.shape[1], spec.dataset.classes)


def check(said, *keys):
    if said is not None and not said.startswith("loss is not finite"):
        assert "\n" not in said
        assert any(key.rpartition(".")[2] in said or key in said for key in keys), said


@settings(derandomize=True, max_examples=70, deadline=None)
@given(st.sampled_from(SCALARS), st.sampled_from(ODD))
def test_odd_number(key, value):
    check(attempt(f"{key}={value}"), key)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.sampled_from(OTHERS), st.sampled_from(ODD))
def test_odd_value_of_a_group_name_or_switch(key, value):
    check(attempt(f"{key}={value}"), key)


@settings(derandomize=True, max_examples=30, deadline=None)
@given(
    st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in COMBINED.items()}),
    st.sampled_from(["bptt", "tet", "saf", "ottt", "dsr"]),
)
def test_smallest_and_largest_values_together(values, method):
    overrides = [f"{key}={value}" for key, value in values.items()]
    check(attempt(f"method={method}", *overrides), "method", *values)


@settings(derandomize=True, max_examples=20, deadline=None)
@given(st.text(max_size=12), st.text(max_size=8))
def test_any_text_as_key_and_value(key, value):
    said = attempt(f"{key}={value}")
    assert said is None or "\n" not in said


@pytest.mark.parametrize("group", ["method", "neuron", "model", "dataset", "hardware"])
@pytest.mark.parametrize("value", ["null", "3", "true", "[1]"])
def test_group_without_a_name_is_explained(group, value):
    said = attempt(f"{group}={value}")
    assert said is not None and said.startswith(f"{group}={value}: no such option")


@pytest.mark.parametrize("seed", [2**32, 2**63, 2**64 - 1])
def test_large_seeds_train(seed):
    assert attempt(f"seed={seed}") is None
    generator(seed)


@pytest.mark.parametrize("seed", [2**64, 10**40])
def test_seed_beyond_64_bits_is_refused(seed):
    assert attempt(f"seed={seed}") == f"seed: {seed} has more than 64 bits"


def test_one_training_sample_that_validation_would_take_is_refused():
    said = attempt("dataset.train_samples=1", "dataset.validation=0.5")
    assert said is not None and "validation" in said
