"""TTFS on real digits, and what its configuration refuses."""

import re

import pytest
import torch

from snnrun.errors import ConfigError
from snnrun.evaluation import run_through
from snnrun.run import batches, build_net

CPU = torch.device("cpu")


def test_digits_are_learned_and_answered_in_under_two_steps(specified):
    spec = specified("method=ttfs", "dataset=digits", "dataset.validation=0.0", "epochs=10")
    torch.manual_seed(0)
    net, plain = build_net(spec, CPU)
    update, splits = spec.method.setup(net), spec.dataset.load(0, CPU, spec.method.timesteps)
    train = batches(spec, splits.train, training=True)
    for epoch in range(spec.epochs):
        net.train()
        for i, (x, y) in enumerate(train.epoch(epoch)):
            update.progress = (epoch + i / len(train)) / spec.epochs
            spec.method.step(net, update, x, y)
    decided = []
    tally = run_through(
        plain,
        spec.method,
        batches(spec, splits.test, training=False),
        lambda outputs, *_: decided.append(spec.method.decision_steps(outputs)),
    )
    assert tally.metrics("test")["test/accuracy"] > 0.91
    assert torch.cat(decided).double().mean() < 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["neuron=lif"], "method=ttfs trains neuron=single_spike, not lif"),
        (["model=convnet", "model.pool=max"], "method.earliest_pool=true"),
        (["model.feedback=true"], "cannot change a unit that fires once"),
        (["model.norm=bn"], "model.norm (for method=ttfs)"),
        (["method.decoder_base=1.0"], "method.decoder_base: 1.0 is not above 1"),
        (["method.decoder=first"], "method.decoder: 'first' is not one of exponential, linear"),
        (["method.input_power=0.0"], "method.input_power: 0.0 is not above 0"),
        (["method.logit_scale=0.0"], "method.logit_scale"),
        (["method.potential_loss=-1.0"], "method.potential_loss"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(specified, overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        specified("method=ttfs", *overrides)


def test_earliest_pool_makes_max_pooling_acceptable(specified):
    spec = specified(
        "method=ttfs", "dataset=synthetic", "model=convnet", "model.pool=max",
        "method.earliest_pool=true",
    )  # fmt: skip
    net, plain = build_net(spec, CPU)
    x, y = torch.randn(spec.method.timesteps, 4, 1, 8, 8), torch.randint(10, (4,))
    assert spec.method.step(net, spec.method.setup(net), x, y).loss.isfinite()
    assert plain.eval()(x).shape == (spec.method.timesteps, 4, 10)


def test_continuous_time_has_one_step(specified):
    with pytest.raises(ConfigError, match=re.escape("method.timesteps: 4 must be 1")):
        specified("method=ttfs_relu", "method.timesteps=4")
