"""Properties of spike accumulation forwarding, numbered as in its specification's section 11."""

import pytest
import torch
from online_checks import (
    Frozen,
    Trainer,
    apart,
    bptt_gradients,
    counting_ops,
    distance,
    gradients,
    identities,
    mismatches,
    representation_gradients,
    trajectory,
    weighted_ops,
    with_clamp,
)
from online_nets import NormaliserFree, SkipFeedback

from snnrun.kits.stepwise import constants
from snnrun.methods.base import Optim

THEORY = {"bias": "theory", "first_layer": "theory", "readout": "theory"}
TOLERANCE = 1e-12


def sgd(lr: float) -> Optim:
    return Optim(
        name="sgd",
        lr=lr,
        momentum=0.9,
        weight_decay=0.0,
        schedule="constant",
        warmup_steps=0,
        clip_norm=None,
    )


def after_training(maker, sequence, labels, lr, *, batches=3, steps=6):
    """Distance of the total updates of two trainers on the same batches."""
    data = [(sequence(steps), labels.roll(i)) for i in range(batches)]

    def compare(one: Trainer, two: Trainer) -> float:
        a, b = (trajectory(t, data, sgd(lr)) for t in (one, two))
        flat = [torch.cat([t.flatten() for t in changes.values()]) for changes in (a, b)]
        return distance(*flat)

    return compare


@pytest.mark.parametrize("leak", [0.25, 0.5, 0.9])
def test_1_spikes_are_those_of_the_lif_net(maker, sequence, labels, leak):
    make = maker(leak)
    assert mismatches(make.trainer("saf"), make.plain, sequence(32), labels, leak) == 0


@pytest.mark.parametrize("threshold", [1.0, 0.7])
@pytest.mark.parametrize("conventions", [{}, THEORY], ids=["code", "theory"])
def test_2_potentials_and_rates_are_those_of_the_lif_net(
    maker, sequence, labels, threshold, conventions
):
    make = maker(0.5, threshold)
    saf = make.trainer("saf", **conventions)
    residuals = identities(saf, make.plain, sequence(12), labels, leak=0.5, threshold=threshold)
    assert max(residuals.values()) < TOLERANCE, residuals


@pytest.mark.parametrize("bias", ["code", "theory"])
@pytest.mark.parametrize("first_layer", ["code", "theory"])
@pytest.mark.parametrize("readout", ["code", "theory"])
def test_3_summed_gradient_is_that_of_ottt(maker, sequence, labels, bias, first_layer, readout):
    make, x = maker(), sequence(6)
    keys = {"bias": bias, "first_layer": first_layer, "readout": readout}
    saf, ottt = (gradients(make.trainer(name, **keys), x, labels) for name in ("saf", "ottt"))
    assert apart(saf, ottt) < TOLERANCE


def test_4_bias_convention_changes_biases_behind_accumulations_only(maker, sequence, labels):
    make, x = maker(), sequence(6)
    code = gradients(make.trainer("saf"), x, labels)
    theory = gradients(make.trainer("saf", bias="theory"), x, labels)

    def traced_bias(name: str) -> bool:
        return name.endswith("op.bias") and not name.startswith("layers.0.")

    assert apart(code, theory, lambda name: not traced_bias(name)) < TOLERANCE
    for name in filter(traced_bias, code):
        assert distance(theory[name], code[name]) > 0.1, name


def test_5_training_with_momentum_follows_ottt_a(maker, sequence, labels):
    make = maker()
    compare = after_training(make, sequence, labels, lr=0.1)
    assert compare(make.trainer("saf"), make.trainer("ottt")) < TOLERANCE


@pytest.mark.parametrize("conventions", [{}, THEORY], ids=["code", "theory"])
def test_6_online_recursion_follows_ottt_o(maker, sequence, labels, conventions):
    make = maker()
    compare = after_training(make, sequence, labels, lr=0.1)
    saf = make.trainer("saf", update="online", online_form="recursion", **conventions)
    assert compare(saf, make.trainer("ottt", online="true", **conventions)) < TOLERANCE


def test_7_online_closed_form_departs_from_ottt_o_with_the_learning_rate(maker, sequence, labels):
    make, found = maker(), {}
    for lr in (1e-1, 1e-5):
        torch.manual_seed(3)
        compare = after_training(make, sequence, labels, lr=lr)
        closed = make.trainer("saf", update="online", online_form="closed")
        found[lr] = compare(closed, make.trainer("ottt", online="true"))
    assert found[1e-1] > 1e-3
    assert found[1e-5] < 0.05 * found[1e-1]


@pytest.mark.parametrize("threshold", [1.0, 0.7])
def test_8_last_step_gradient_is_that_of_the_spike_representation(
    maker, sequence, labels, threshold
):
    make = maker(0.5, threshold)
    if make.plain.feedback is not None:
        pytest.skip("the spike representation of a chain is one pass without feedback")
    saf = make.trainer("saf", variant="f")
    unit = constants(make.specified(f"neuron.threshold={threshold}").neuron)
    theory, ours = representation_gradients(
        make.rates(), with_clamp(saf, unit), sequence(6), labels, leak=0.5
    )
    assert apart(ours, theory) < TOLERANCE


def test_8_with_a_surrogate_the_representation_has_its_slope(maker, sequence, labels):
    make = maker()
    if make.plain.feedback is not None:
        pytest.skip("the spike representation of a chain is one pass without feedback")
    surrogate = make.specified().neuron.surrogate
    theory, ours = representation_gradients(
        make.rates(),
        make.trainer("saf", variant="f"),
        sequence(6),
        labels,
        leak=0.5,
        surrogate=surrogate,
    )
    assert apart(ours, theory) < TOLERANCE


@pytest.fixture
def trainers(specified, fp64):
    """SAF-E, OTTT_A and their online forms on one net given by its class, with equal weights."""

    def make(cls, *args) -> dict[str, Trainer]:
        found, weights = {}, None
        for label, overrides in {
            "saf": ("method=saf",),
            "ottt": ("method=ottt",),
            "saf online": ("method=saf", "method.update=online"),
            "ottt online": ("method=ottt", "method.online=true"),
        }.items():
            spec = specified(*overrides, *(("method.alpha=1",) if cls is SkipFeedback else ()))
            kit = spec.method.kit(spec.neuron, "none" if cls is SkipFeedback else "sws")
            extra = (0.5 if label == "saf" else None,) if cls is SkipFeedback else ()
            net = cls(kit, *args, *extra)
            weights = weights or {k: v + 0.2 for k, v in net.state_dict().items()}
            net.load_state_dict(weights)
            found[label] = Trainer(spec.method, net)
        return found

    return make


def test_9_feedback_and_skip_with_spiking_output(trainers, sequence, labels):
    found = trainers(SkipFeedback, (64, 10, 4))
    x = sequence(6)
    saf, ottt = (gradients(found[name], x, labels) for name in ("saf", "ottt"))
    assert "feedback.synapse.op.weight" in saf
    assert apart(saf, ottt) < TOLERANCE
    compare = after_training(None, sequence, labels, lr=0.1)
    assert compare(found["saf online"], found["ottt online"]) < TOLERANCE


def test_10_residual_block_with_masks_agrees_but_for_the_skip_gain(trainers, sequence, labels):
    found = trainers(NormaliserFree, 5, 4)
    x = sequence(6)
    saf, ottt = (gradients(found[name], x, labels) for name in ("saf", "ottt"))
    assert apart(saf, ottt, lambda name: name != "gain") < TOLERANCE
    assert distance(saf["gain"], ottt["gain"]) > 1e-3


def test_11_top_layer_weights_have_the_gradient_of_bptt(maker, sequence, labels):
    make, x = maker(), sequence(6)
    saf = gradients(make.trainer("saf", alpha=0, bias="theory"), x, labels)
    bptt = bptt_gradients(make.plain, x, labels)
    top = f"layers.{len(make.plain.layers) - 1}.synapse.op"
    if make.plain.feedback is not None:  # the last layer acts on itself through the first
        assert distance(saf[f"{top}.weight"], bptt[f"{top}.weight"]) > 1e-3
        return
    for name in (f"{top}.weight", f"{top}.bias"):
        assert distance(saf[name], bptt[name]) < TOLERANCE, name


def test_12_single_precision_flips_hardly_a_spike(specified):
    torch.manual_seed(0)
    channels = "model.channels=[[8,16],[16,16],[32,32],[32,32]]"
    spec = specified("dataset=synthetic", "method=saf", "model=vgg_sws", channels)
    nets = [
        spec.model.build(kit(spec.neuron, spec.norm), (3, 16, 16), 10)
        for kit in (spec.method.kit, spec.method.plain_kit)
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    x, y = torch.randn(4, 3, 16, 16), torch.arange(4)
    saf = Trainer(spec.method, nets[0])
    assert mismatches(saf, nets[1], x.expand(6, *x.shape), y, 0.5) == 0
    long = x.expand(32, *x.shape)
    neurons = 4 * 32 * (8 * 256 + 16 * 256 + 2 * 16 * 64 + 2 * 32 * 16 + 2 * 32 * 4)
    assert mismatches(saf, nets[1], long, y, 0.5) <= 1e-3 * neurons


@pytest.mark.parametrize("variant", ["e", "f"])
def test_13_weighted_ops_run_once_per_step_and_the_first_once_per_static_sample(
    maker, sequence, labels, monkeypatch, variant
):
    make, steps = maker(), 5
    x = sequence(steps)
    saf = make.trainer("saf", variant=variant)
    with counting_ops(saf.net, monkeypatch) as counts:
        gradients(saf, x, labels)
    static = x.stride(0) == 0
    assert counts["first"] == (1 if static else steps)
    feedback = saf.net.feedback is not None  # silent at the first step
    others = (weighted_ops(saf.net) - 1) * steps - feedback
    assert counts["all"] == counts["first"] + others


def test_decoding_of_f_is_what_was_trained(maker, sequence, labels):
    make, x = maker(), sequence(6)
    saf = make.trainer("saf", variant="f")
    saf.net.eval()
    logits = saf.method.step(saf.net, Frozen(saf.net, saf.method.optim), x, labels).logits
    with torch.no_grad():
        decoded = saf.method.decode(make.plain.eval()(x))
    torch.testing.assert_close(decoded, logits, rtol=0, atol=TOLERANCE)
