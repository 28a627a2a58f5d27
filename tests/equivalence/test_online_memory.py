"""What training keeps for backward and from step to step: constant in T."""

import pytest
import torch

from snnrun.measure.memory import saved_for_backward

# Scales stand between the layers, so that no state shares its storage with what autograd keeps.
MODEL = ("dataset=synthetic", "model=vgg_sws", "model.channels=[[8,16],[32,32]]", "model.norm=sws")
FORMS = {
    "ottt": ("method=ottt",),
    "ottt online": ("method=ottt", "method.online=true"),
    "ottt twice": ("method=ottt", "method.double_forward=true"),
    "sltt": ("method=sltt",),
    "saf e": ("method=saf",),
    "saf e online": ("method=saf", "method.update=online"),
    "saf f": ("method=saf", "method.variant=f"),
}


@pytest.fixture
def kept_mib(specified):
    """Memory of one training step in MiB, as the runner measures it."""

    def measure(*overrides: str, steps: int, batch: int = 16, static: bool = False) -> float:
        torch.manual_seed(0)
        spec = specified(*MODEL, *overrides, f"method.timesteps={steps}")
        net = spec.model.build(spec.method.kit(spec.neuron, spec.norm), (3, 16, 16), 10)
        x = torch.randn(1, batch, 3, 16, 16).expand(steps, -1, -1, -1, -1)
        x = x if static else x.contiguous()
        y = torch.arange(batch) % 10
        with saved_for_backward(net, x) as saved:
            out = spec.method.step(net, spec.method.setup(net), x, y)
        return saved.metrics(out.kept_bytes)["memory/saved_for_backward_mib"]

    return measure


@pytest.mark.parametrize("static", [True, False], ids=["static", "varying"])
@pytest.mark.parametrize("form", FORMS)
def test_memory_does_not_depend_on_the_number_of_steps(kept_mib, form, static):
    few, many = (kept_mib(*FORMS[form], steps=t, static=static) for t in (2, 64))
    assert many == pytest.approx(few, rel=0.02)


def test_memory_of_bptt_grows_with_the_number_of_steps(kept_mib):
    two, four, eight = (kept_mib("method=bptt", steps=t) for t in (2, 4, 8))
    assert eight - four == pytest.approx(2 * (four - two), rel=0.02)
    assert eight > 1.8 * four


UNITS = 8 * 256 + 16 * 256 + 2 * 32 * 64  # of the net per sample
ARRIVING = 8 * 256 + 16 * 64 + 32 * 64 + 32  # what reaches the next weights, behind scale and pool
CURRENT = 8 * 256  # of a static input, and its gradient
FLOAT = 4 / 2**20


@pytest.mark.parametrize("form", ["ottt", "sltt", "saf e", "saf f"])
def test_two_values_per_unit_are_kept_and_what_the_weights_learn_from(kept_mib, form):
    few, many = (kept_mib(*FORMS[form], steps=6, batch=n, static=True) for n in (16, 32))
    expected = 16 * (2 * UNITS + ARRIVING + 2 * CURRENT) * FLOAT
    assert many - few == pytest.approx(expected, rel=0.02)  # standardised weights are in both


def test_saf_keeps_the_potential_of_each_unit_for_weights_that_change(kept_mib):
    saf, ottt = (kept_mib(*FORMS[f"{name} online"], steps=6) for name in ("saf e", "ottt"))
    assert saf - ottt == pytest.approx(16 * UNITS * FLOAT, rel=0.02)


def test_double_forward_keeps_no_less(kept_mib):
    assert kept_mib(*FORMS["ottt"], steps=6) <= kept_mib(*FORMS["ottt twice"], steps=6)
