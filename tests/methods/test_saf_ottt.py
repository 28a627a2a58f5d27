"""What SAF and OTTT refuse before training, and why."""

import pytest

from snnrun.errors import ConfigError

REFUSED = {
    "model=convnet model.pool=max": "max_pool: the maximum of leaky sums",
    "model=convnet model.norm=bn": "bn: its batch statistics are not linear",
    "model=convnet model.norm=tdbn": "tdbn: its batch statistics are not linear",
    "neuron.reset=hard": "set neuron.reset=soft",
    "neuron.rest=0.1": "set neuron.rest=0",
    "neuron.fires_at_threshold=false": "set neuron.fires_at_threshold=true",
    "neuron.decay_input=true": "set neuron.decay_input=false",
    "neuron.leak_reset=false": "set neuron.leak_reset=true",
    "neuron.delay=1": "set neuron.delay=0",
    "neuron.detach_reset=false": "set neuron.detach_reset=true",
    "neuron.reset=hard neuron.delay=1": "set neuron.reset=soft neuron.delay=0",
    "method.alpha=1.5": "method.alpha: 1.5 is not in",
    "method.bias=exact": "'exact' is not one of",
}


@pytest.mark.parametrize("method", ["saf", "ottt", "sltt"])
@pytest.mark.parametrize("overrides", REFUSED)
def test_what_breaks_the_identity_is_refused_with_the_reason(specified, method, overrides):
    with pytest.raises(ConfigError) as refusal:
        specified(f"method={method}", *overrides.split())
    assert REFUSED[overrides] in str(refusal.value)


@pytest.mark.parametrize(
    "overrides, reason",
    [
        ("method=saf method.variant=f method.update=online", "variant=f has one at the last"),
        ("method=saf method.variant=g", "'g' is not one of e, f"),
        ("method=saf method.online_form=open", "'open' is not one of recursion, closed"),
        ("method=ottt method.double_forward=true method.bias=theory", "is the published code"),
        ("method=sltt method.readout=theory", "has no trace to learn from"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(specified, overrides, reason):
    with pytest.raises(ConfigError, match=reason):
        specified(*overrides.split())


@pytest.mark.parametrize("method", ["saf", "ottt", "sltt"])
@pytest.mark.parametrize("neuron", ["lif", "if"])
def test_lif_and_if_are_trained(specified, method, neuron):
    assert specified(f"method={method}", f"neuron={neuron}").norm == "sws"


def test_conventions_of_each_variant(specified):
    code = specified("method=saf")
    theory = specified("method=saf", "method.variant=f")
    assert code.method._conventions().bias == "code"
    assert theory.method._conventions().first_layer == "theory"
