"""What a careless loop would get wrong without anyone noticing: each test fails on one mistake."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from snnrun import evaluation, run
from snnrun.data.store import Store
from snnrun.measure.tally import Tally
from snnrun.run import batches, build_net, execute
from snnrun.terminal import Display

CPU = torch.device("cpu")
TINY = (
    "dataset=synthetic", "dataset.size=[1,4,4]", "dataset.num_classes=3", "dataset.noise=0.9",
    "dataset.train_samples=23", "dataset.test_samples=11", "dataset.batch_size=4",
    "dataset.validation=0.2", "model.hidden=[8]", "hardware=cpu", "hardware.threads=1",
    "progress=off",
)  # fmt: skip


@pytest.fixture
def built(specified):
    """Spec, net, plain form and splits of a tiny run."""

    def make(*overrides):
        spec = specified(*TINY, "method=bptt", *overrides)
        spec.hardware.prepare(spec.seed)
        net, plain = build_net(spec, CPU)
        return spec, net, plain, spec.dataset.load(spec.seed, CPU, spec.method.timesteps)

    return make


def outputs(plain, spec, data):
    """Outputs [N, C] of the plain form and its loss and accuracy."""
    seen = []
    tally = evaluation.run_through(
        plain, spec.method, data, lambda out, y, tally: seen.append(spec.method.decode(out))
    )
    return torch.cat(seen), tally


# Evaluation


@pytest.mark.parametrize("norm", ["none", "bn", "tdbn"])
def test_evaluation_drops_nothing_and_moves_no_running_statistic(built, norm):
    spec, net, plain, splits = built("model.dropout=0.9", f"model.norm={norm}")
    net.train(), plain.train()  # as the loop leaves them
    test = batches(spec, splits.test, training=False)
    before = {name: value.clone() for name, value in plain.state_dict().items()}

    first, _ = outputs(plain, spec, test)
    second, _ = outputs(plain, spec, test)

    assert torch.equal(first, second)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("neuron", ["lif", "if"])
@pytest.mark.parametrize("size", [1, 4, 11, 50])
def test_outputs_do_not_depend_on_the_batch_before(built, neuron, size):
    spec, _, plain, splits = built(
        "model.norm=bn", f"neuron={neuron}", f"dataset.batch_size={size}"
    )
    untouched = deepcopy(plain)
    got, tally = outputs(plain, spec, batches(spec, splits.test, training=False))

    alone = []
    for image, label in zip(splits.test.images, splits.test.labels, strict=True):
        fresh = deepcopy(untouched)
        one = Store(
            **vars(splits.test) | {"images": image.unsqueeze(0), "labels": label.unsqueeze(0)}
        )
        alone.append(outputs(fresh, spec, batches(spec, one, training=False))[0])
    expected = torch.cat(alone)
    torch.testing.assert_close(got, expected)
    loss = nn.functional.cross_entropy(expected, splits.test.labels).item()
    right = (expected.argmax(-1) == splits.test.labels).double().mean().item()
    metrics = tally.metrics("test")
    assert metrics["test/accuracy"] == pytest.approx(right)
    assert metrics["test/loss"] == pytest.approx(loss, rel=1e-5)
    assert tally.samples == 11


def test_evaluation_follows_the_weights_of_the_last_update(built):
    spec, net, plain, splits = built("method.optim.lr=0.1")
    update = spec.method.setup(net)
    x, y = next(batches(spec, splits.train, training=True).epoch(0))
    spec.method.step(net, update, x, y)
    assert all(a is b or torch.equal(a, b) for a, b in zip(
        net.state_dict().values(), plain.state_dict().values(), strict=True))  # fmt: skip


# Which samples are seen


def test_no_validation_sample_is_trained_on_and_none_is_lost(built):
    spec, _, _, splits = built("dataset.validation=0.3")
    whole = spec.dataset.store("train", spec.method.timesteps)
    key = lambda images: sorted(bytes(image.flatten().tolist()) for image in images)  # noqa: E731
    assert key(torch.cat([splits.train.images, splits.validation.images])) == key(whole.images)
    assert not {*key(splits.train.images)} & {*key(splits.validation.images)}
    assert not {*key(splits.train.images)} & {*key(splits.test.images)}


@pytest.mark.parametrize("size", [1, 4, 18, 100])
def test_training_counts_each_sample_once_per_epoch(built, size):
    spec, _, _, splits = built(f"dataset.batch_size={size}")
    data = batches(spec, splits.train, training=True)
    tally = Tally.zero(CPU)
    labels = []
    for x, y in data.epoch(1):
        assert x.shape[1] == len(y)
        labels.append(y)
        tally.add(torch.tensor(1.0 * len(y)), nn.functional.one_hot(y, 3), y)
    assert torch.cat(labels).sort().values.equal(splits.train.labels.sort().values)
    assert tally.samples == len(splits.train) == 18
    mean = sum(len(y) ** 2 for y in labels) / 18  # weighted by samples, not by batches
    assert tally.metrics("train") == {"train/loss": pytest.approx(mean), "train/accuracy": 1.0}


def test_test_set_is_normalised_by_the_training_set(built):
    spec, _, _, splits = built()
    train = spec.dataset.store("train", 1)
    assert torch.equal(splits.test.mean, train.mean) and torch.equal(splits.test.std, train.std)
    assert not torch.equal(spec.dataset.store("test", 1).mean, train.mean)


def test_best_epoch_is_the_first_best_on_validation_and_the_test_set_comes_last(
    specified, quick_stores, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    spec = specified(*TINY, "method=bptt", "epochs=4", f"output_dir={tmp_path}/out")
    accuracies = iter([0.2, 0.7, 0.7, 0.3])
    seen, weights = [], []

    def validate(plain, method, data, health):
        seen.append(("validation", len(data.store)))
        weights.append([p.clone() for p in plain.parameters()])
        return {"val/accuracy": next(accuracies), "val/loss": 1.0}

    def test(plain, method, data, energy, memory, health):
        seen.append(("test", len(data.store)))
        weights.append([p.clone() for p in plain.parameters()])
        return {"test/accuracy": 0.9, "test/loss": 1.0}

    monkeypatch.setattr(run.evaluation, "validate", validate)
    monkeypatch.setattr(run.evaluation, "test", test)

    assert execute(spec) == 0.7  # what a sweeper gets: never the test accuracy

    assert seen == [("validation", 5)] * 4 + [("test", 11)]
    *epochs, tested = weights
    same = [all(map(torch.equal, tested, epoch)) for epoch in epochs]
    assert same == [False, True, False, False]


# Times


def test_slow_batch_is_waiting_and_no_part_of_the_step(
    specified, quick_stores, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    from snnrun.measure import latency

    now = [0.0]
    monkeypatch.setattr(latency, "perf_counter", lambda: now[0])
    spec = specified(*TINY, "method=bptt", "epochs=2", "dataset.batch_size=1")
    made, step = run.Batcher.epoch, type(spec.method).step

    def slow(self, *arguments):
        for batch in made(self, *arguments):
            now[0] += 100.0
            yield batch

    def timed(self, *arguments):
        now[0] += 0.003
        return step(self, *arguments)

    monkeypatch.setattr(run.Batcher, "epoch", slow)
    monkeypatch.setattr(type(spec.method), "step", timed)
    logged = {}
    monkeypatch.setattr(
        Display, "summary", lambda self, name, metrics, hints: logged.update(metrics)
    )
    execute(spec)
    assert logged["latency/train_step_ms_p50"] == pytest.approx(3)
    assert logged["data/wait_fraction"] == pytest.approx(100 / 100.003)
