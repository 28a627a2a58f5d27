"""An exported net, run by another library that reads NIR, fires as often."""

import torch

from snnrun.export import write_nir
from snnrun.kits.folding import folded
from snnrun.neurons.base import SpikingNeuron

STEPS, BATCH = 8, 5


def counts(net, x, kind):
    """Spikes of every layer of a kind, in order of use, for the steps of ``x`` one by one."""
    totals = {}

    def add(part, _, output):
        spikes = output[0] if isinstance(output, tuple) else output
        totals[id(part)] = totals.get(id(part), 0) + spikes.count_nonzero().item()

    hooks = [p.register_forward_hook(add) for p in net.modules() if isinstance(p, kind)]
    return totals, hooks


def test_snntorch_fires_as_often(nir, snntorch_reader, specified, tmp_path):
    torch.manual_seed(0)
    spec = specified(
        "dataset=digits", "model=mlp", "model.hidden=[20,12]", "model.norm=bn",
        "neuron.reset=hard", "neuron.threshold=0.4", "neuron.leak=0.75",
    )  # fmt: skip
    net = folded(spec.model.build(spec.method.plain_kit(spec.neuron, spec.norm), (1, 8, 8), 10))
    write_nir(net, (1, 8, 8), STEPS, tmp_path / "net.nir")
    graph = nir.read(str(tmp_path / "net.nir"))
    theirs = snntorch_reader.import_from_nir(graph)
    x = 2 * torch.randn(STEPS, BATCH, 1, 8, 8)

    ours, _ = counts(net, x, SpikingNeuron)
    with torch.no_grad():
        net.float()(x)
    import snntorch

    found, _ = counts(theirs, x, snntorch.Leaky)
    state = None
    with torch.no_grad():
        for step in x:
            _, state = theirs(step.flatten(1), state)

    assert min(ours.values()) > 0
    assert list(found.values()) == list(ours.values())
