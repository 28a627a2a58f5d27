"""Recomputation in time: the gradients of the whole graph from the graph of a segment."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from snnrun.errors import ConfigError
from snnrun.measure.memory import MIB, saved_for_backward
from snnrun.neurons.base import SpikingNeuron
from snnrun.run import batches, build_net

CPU = torch.device("cpu")
DATA = (
    "dataset=synthetic",
    "dataset.train_samples=64",
    "dataset.batch_size=6",
    "method.timesteps=8",
    "method.optim.lr=0",
    "neuron.threshold=0.3",
    "hardware.precision=fp64",
)
NETS = {
    "mlp": ("model=mlp", "model.hidden=[24,20]", "model.norm=none"),
    "mlp feedback": ("model=mlp", "model.hidden=[20,20]", "model.norm=sws", "model.feedback=true"),
    "convnet": ("model=convnet", "model.channels=[6,8]", "model.norm=none"),
    "convnet sws": ("model=convnet", "model.channels=[6,8]", "model.norm=sws"),
    "vgg dropout": (
        "model=vggsnn",
        "model.channels=[[6,8],[8,8]]",
        "model.norm=sws",
        "model.dropout=0.3",
    ),
}
NEURONS = {
    "lif": ("neuron=lif",),
    "lif attached": ("neuron=lif", "neuron.detach_reset=false", "neuron.reset=hard"),
    "lif delayed": ("neuron=lif", "neuron.delay=1"),
    "if": ("neuron=if",),
    "plif": ("neuron=plif", "neuron.train_threshold=true"),
    "clif": ("neuron=clif",),
    "cuba_lif": ("neuron=cuba_lif",),
    "cuba_lif delayed": ("neuron=cuba_lif", "neuron.delay=1"),
    "single_spike": ("neuron=single_spike",),
    "single_spike attached": ("neuron=single_spike", "neuron.gradient=attached"),
}
INPUTS = {"static": (), "varying": ("dataset.encoding.name=poisson",)}


class Step(NamedTuple):
    loss: Tensor
    logits: Tensor
    gradients: dict[str, Tensor]
    spikes: list[float]  # of each layer


@pytest.fixture
def step(specified):
    """One training step on a fixed batch with fixed dropout masks."""

    def run(*overrides: str, segments: int) -> Step:
        spec = specified(*overrides, f"method.segments={segments}")
        torch.manual_seed(0)
        net, _ = build_net(spec, CPU)
        update = spec.method.setup(net.train())
        data = spec.dataset.load(spec.seed, CPU, spec.method.timesteps)
        x, y = next(batches(spec, data.train, training=True).epoch(0))
        layers = [part for part in net.modules() if isinstance(part, SpikingNeuron)]
        spikes = [0.0] * len(layers)

        def count(layer, _, out):
            spikes[layers.index(layer)] += out.sum().item()

        for layer in layers:
            layer.register_forward_hook(count)
        out = spec.method.step(net, update, x, y)
        gradients = {name: p.grad for name, p in net.named_parameters()}
        return Step(out.loss, out.logits, gradients, spikes)

    return run


def assert_equal_steps(ours: Step, whole: Step) -> None:
    assert min(whole.spikes) > 0
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(ours.loss, whole.loss, **close)
    torch.testing.assert_close(ours.logits, whole.logits, **close)
    for name, gradient in whole.gradients.items():
        assert gradient.abs().max() > 1e-9, name
        torch.testing.assert_close(ours.gradients[name], gradient, **close, msg=name)


@pytest.mark.parametrize("encoding", INPUTS)
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("method", ["bptt", "tet"])
def test_gradients_of_a_net_are_those_of_the_whole_graph(step, method, net, encoding):
    run = (f"method={method}", *DATA, *NETS[net], *INPUTS[encoding])
    whole = step(*run, segments=1)
    for segments in (2, 8):
        assert_equal_steps(step(*run, segments=segments), whole)


@pytest.mark.parametrize("encoding", INPUTS)
@pytest.mark.parametrize("neuron", NEURONS)
def test_gradients_of_a_neuron_are_those_of_the_whole_graph(step, neuron, encoding):
    run = ("method=bptt", *DATA, *NEURONS[neuron], *NETS["mlp"], *INPUTS[encoding])
    assert_equal_steps(step(*run, segments=4), step(*run, segments=1))


@pytest.mark.parametrize("encoding", INPUTS)
def test_gradients_of_compiled_kernels_are_those_of_the_whole_graph(step, encoding):
    large = ("dataset.batch_size=64", "model.hidden=[256,256]")  # also per segment
    run = ("method=bptt", *DATA, *NETS["mlp"], *large, *INPUTS[encoding])
    assert_equal_steps(step(*run, segments=4), step(*run, segments=1))


STEPS, BATCH, WIDTH, CLASSES = 64, 4, 60, 10


@pytest.fixture
def kept_bytes(specified):
    """Bytes that a step on a static input keeps, as the runner counts them."""

    def measure(segments: int, batch: int) -> float:
        spec = specified(
            "method=bptt",
            "dataset=synthetic",
            f"method.timesteps={STEPS}",
            f"method.segments={segments}",
            f"model.hidden=[{WIDTH},{WIDTH}]",
            "model.norm=none",
        )
        net, _ = build_net(spec, CPU)
        x = torch.rand(1, batch, 1, 8, 8).expand(STEPS, -1, -1, -1, -1)
        y = torch.arange(batch) % CLASSES
        with saved_for_backward(net, x) as saved:
            out = spec.method.step(net, spec.method.setup(net), x, y)
        return saved.metrics(out.kept_bytes)["memory/saved_for_backward_mib"] * MIB

    return measure


@pytest.mark.parametrize("segments", [2, 8, 64])
def test_memory_is_that_of_one_segment_and_the_borders(kept_bytes, segments):
    layer, outputs = 4 * BATCH * WIDTH, 4 * STEPS * BATCH * CLASSES
    graph = STEPS // segments * 2 * 2 * layer  # potentials and spikes of two layers
    borders = (segments - 1) * 2 * layer
    once = 2 * layer  # current of the static input and its gradient
    assert kept_bytes(segments, BATCH) == graph + borders + once + 2 * outputs


@pytest.mark.parametrize("batch", [BATCH, 256], ids=["eager", "compiled"])
def test_as_many_segments_as_the_root_of_the_steps_save_most_of_the_memory(kept_bytes, batch):
    assert kept_bytes(8, batch) < 0.35 * kept_bytes(1, batch)


@pytest.mark.parametrize("norm", ["auto", "bn", "tdbn"])
def test_statistics_over_all_steps_are_refused(specified, norm):
    with pytest.raises(ConfigError, match=r"over all steps.*; use model\.norm=sws or none$"):
        specified("method=bptt", "method.segments=2", f"model.norm={norm}")
