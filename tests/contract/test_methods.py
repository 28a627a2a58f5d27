"""Every method of the tree, on small nets: what the runner relies on, whatever the rule is."""

import pytest
import torch

from snnrun import checkpoint
from snnrun.config import RunSpec
from snnrun.run import batches, build_net

CPU = torch.device("cpu")
STEPS = 30  # updates in which a method must have learned something of 32 samples


class Training:
    """A run of a few updates on one batch, as the loop makes them."""

    def __init__(self, spec: RunSpec):
        torch.manual_seed(spec.seed)
        self.spec, self.method = spec, spec.method
        self.net, self.plain = build_net(spec, CPU)
        self.update = spec.method.setup(self.net)
        train = spec.dataset.load(spec.seed, CPU, spec.method.timesteps).train
        self.x, self.y = next(batches(spec, train, training=False).epoch(0))

    def step(self):
        self.net.train()
        return self.method.step(self.net, self.update, self.x, self.y)

    def losses(self, steps: int) -> list[float]:
        return [self.step().loss.item() for _ in range(steps)]


@pytest.fixture
def training(tiny):
    return Training(tiny())


def test_some_small_net_can_be_trained(method, fitting, small):
    fitting([(f"method={method}",)], small)


def test_loss_is_finite_and_falls(training):
    losses = torch.tensor(training.losses(STEPS))
    assert losses.isfinite().all()
    assert losses[-5:].mean() < losses[:5].mean()


def test_same_seed_gives_the_same_numbers(tiny):
    a, b = Training(tiny()), Training(tiny())
    assert a.losses(3) == b.losses(3)
    for name, value in a.net.state_dict().items():
        assert torch.equal(b.net.state_dict()[name], value), name


def test_another_seed_gives_other_weights(tiny):
    a, b = Training(tiny("seed=1")), Training(tiny("seed=2"))
    assert a.losses(1) != b.losses(1)


def test_step_returns_detached_loss_and_logits(training):
    out = training.step()
    assert out.loss.shape == ()
    assert out.logits.shape == (len(training.y), training.spec.dataset.classes)
    for tensor in (out.loss, out.logits, *out.extra.values()):
        assert not tensor.requires_grad
    assert out.kept_bytes >= 0


def test_nothing_that_lasts_keeps_a_graph(training):
    training.step()
    for name, tensor in [*training.net.named_parameters(), *training.net.named_buffers()]:
        assert tensor.is_leaf, name
        assert tensor.grad is None or not tensor.grad.requires_grad, name


def test_step_changes_weights(training):
    before = {name: p.detach().clone() for name, p in training.net.named_parameters()}
    training.losses(2)
    assert any(not torch.equal(p, before[name]) for name, p in training.net.named_parameters())
    assert training.update.steps >= 2


def test_trained_weights_are_those_of_the_plain_form(training):
    training.losses(2)
    spec = training.spec
    kit = spec.method.plain_kit(spec.neuron, spec.norm)
    plain = spec.model.build(kit, spec.dataset.shape, spec.dataset.classes)
    assert list(plain.state_dict()) == list(training.net.state_dict())
    plain.load_state_dict(training.net.state_dict())
    with torch.no_grad():
        assert torch.equal(plain.eval()(training.x), training.plain.eval()(training.x))


def test_plain_form_follows_the_training_form(training):
    training.losses(2)
    for name, tensor in training.net.state_dict().items():
        assert training.plain.state_dict()[name].data_ptr() == tensor.data_ptr(), name


def test_training_continues_from_saved_state_to_the_bit(tiny, tmp_path):
    run = Training(tiny())
    run.losses(2)
    state = {
        "net": run.net.state_dict(),
        "update": run.update.state_dict(),
        "rng": checkpoint.rng_state(torch.device("cpu")),
    }
    checkpoint.save(tmp_path / "last.pt", state)
    expected = run.losses(3)
    again = Training(tiny())
    loaded = checkpoint.load(tmp_path / "last.pt")
    again.net.load_state_dict(loaded["net"])
    again.update.load_state_dict(loaded["update"])
    checkpoint.restore_rng(loaded["rng"], torch.device("cpu"))
    assert again.losses(3) == expected


@torch.no_grad()
def test_plain_form_step_by_step_equals_the_whole_sequence(tiny):
    run = Training(tiny("hardware.precision=fp64"))
    with torch.enable_grad():
        run.losses(3)
    plain = run.plain.eval()
    whole = plain(run.x)
    plain.reset()
    parts = torch.cat([plain.advance(step) for step in run.x.split(1)])
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_outputs_decode_to_logits_and_a_time_of_decision(training):
    outputs = training.plain.eval()(training.x)
    steps, samples, classes = training.method.timesteps, len(training.y), 4
    assert outputs.shape == (steps, samples, classes)
    assert training.method.decode(outputs).shape == (samples, classes)
    decided = training.method.decision_steps(outputs)
    assert decided.shape == (samples,)
    assert decided.min() >= 1
    assert decided.max() <= steps
