"""An exported net, run by another library that reads NIR, fires as often."""

import pytest
import torch

from snnrun.export.command import FORMATS, export
from snnrun.kits.folding import folded
from snnrun.neurons.base import SpikingNeuron

STEPS, BATCH = 8, 5
DENSE = ("model=mlp", "model.hidden=[20,12]", "model.norm=bn", "neuron.leak=0.75")
POOLED = ("model=convnet", "model.channels=[4,6]", "model.hidden=[12]", "model.norm=bn")
LEARNED = ("model=mlp", "model.hidden=[20,12]", "neuron=plif", "neuron.leak=0.6")


@pytest.fixture
def exported(nir, specified, tmp_path):
    """A net in double precision, the graph of its NIR file, and an input."""

    def make(*overrides):
        torch.manual_seed(0)
        spec = specified(
            "dataset=digits", "neuron.reset=hard", "neuron.threshold=0.4", *overrides
        )  # fmt: skip
        net = folded(spec.model.build(spec.method.plain_kit(spec.neuron, spec.norm), (1, 8, 8), 10))
        x = 2 * torch.randn(STEPS, BATCH, 1, 8, 8)
        export(net, x, FORMATS["nir"], tmp_path / "net.nir")
        return net, nir.read(str(tmp_path / "net.nir")), x

    return make


def counting(net, fires):
    """Spikes of every part that ``fires``, in order of use; filled as the net runs."""
    totals = {}

    def add(part, _, output):
        spikes = output[0] if isinstance(output, tuple) else output
        totals[id(part)] = totals.get(id(part), 0) + spikes.count_nonzero().item()

    for part in net.modules():
        if fires(part):
            part.register_forward_hook(add)
    return totals


@torch.no_grad()
def ours(net, x):
    totals = counting(net, lambda part: isinstance(part, SpikingNeuron))
    net(x)
    assert min(totals.values()) > 0
    return list(totals.values())


@torch.no_grad()
def theirs(net, x, fires):
    """The steps of ``x`` one by one, the returned state handed on."""
    totals, state = counting(net, fires), None
    for step in x:
        _, state = net(step, state)
    return list(totals.values())


def test_snntorch_fires_as_often(exported, snntorch_reader):
    import snntorch

    net, graph, x = exported(*DENSE)
    read = snntorch_reader.import_from_nir(graph)
    found = theirs(read, x.flatten(2), lambda part: isinstance(part, snntorch.Leaky))
    assert found == ours(net, x)


@pytest.mark.parametrize("overrides", [DENSE, POOLED, LEARNED], ids=["dense", "pooled", "plif"])
def test_spikingjelly_fires_as_often(exported, jelly, jelly_reader, overrides):
    neurons, _, _ = jelly
    net, graph, x = exported(*overrides)
    read = jelly_reader.import_from_nir(graph, dtype=torch.float64)

    def fires(part):  # a wrapper, which does not call its neuron as a module
        return isinstance(getattr(part, "module", None), neurons.LIFNode)

    x = x.double()
    found = theirs(read, x.flatten(2) if "model=mlp" in overrides else x, fires)
    assert found == ours(net.double(), x)
