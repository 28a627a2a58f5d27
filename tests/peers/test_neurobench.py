"""NeuroBench's metrics of a run on a net of ours equal those of our meters."""

import pytest
import torch

from snnrun.export.program import Units, program
from snnrun.kits.folding import folded
from snnrun.measure.spikes import SpikeMeter
from snnrun.measure.synops import SynOpMeter

STEPS, BATCH = 3, 4


@pytest.fixture
def net(specified):
    torch.manual_seed(0)
    spec = specified("dataset=digits", "model=convnet", "model.channels=[4,6]", "model.norm=bn",
                     "model.hidden=[9]", "model.pool=max", "neuron.threshold=0.2")  # fmt: skip
    kit = spec.method.plain_kit(spec.neuron, spec.norm)
    return folded(spec.model.build(kit, (1, 8, 8), 10))


@torch.no_grad()
def test_activation_sparsity_and_operations_are_equal(neurobench, net):
    models, metrics = neurobench
    x = torch.rand(STEPS, BATCH, 1, 8, 8)
    with SpikeMeter(net) as spikes, SynOpMeter(net) as operations:
        net(x)
    ours = operations.metrics(BATCH, e_ac_pj=1.0, e_mac_pj=1.0)

    model = models.TorchModel(program(net, STEPS))  # it has the modules that NeuroBench watches
    model.add_activation_module(Units)
    model.register_hooks()
    labels = torch.zeros(BATCH)
    outputs = model(x)
    batch = (x.transpose(0, 1), labels)
    sparsity = metrics.ActivationSparsity()(model, outputs, batch)
    counted = metrics.SynapticOperations()(model, outputs, batch)

    assert sparsity == pytest.approx(1 - spikes.metrics(BATCH)["spikes/rate"], rel=1e-12)
    assert 0.1 < sparsity < 0.9
    names = {"Effective_ACs": "acs", "Effective_MACs": "macs", "Dense": "dense"}
    for theirs, name in names.items():
        assert counted[theirs] == ours[f"synops/{name}_per_sample"] > 0
