"""Operations as NeuroBench counts them, on what our layers receive."""

import pytest
import torch

from snnrun.kits.synapse import Synapse
from snnrun.measure.synops import SynOpMeter

STEPS, BATCH = 3, 4


@pytest.fixture
def net(specified):
    torch.manual_seed(0)
    spec = specified("dataset=digits", "model=convnet", "model.channels=[4,6]", "model.norm=none",
                     "model.hidden=[9]", "model.pool=max", "neuron.threshold=0.2")  # fmt: skip
    net = spec.model.build(spec.method.plain_kit(spec.neuron, spec.norm), (1, 8, 8), 10)
    return net.eval()


@torch.no_grad()
def test_effective_and_dense_operations_are_equal(neurobench_layers, net):
    received = []
    for part in net.modules():
        if isinstance(part, Synapse):
            part.register_forward_hook(lambda p, args, _: received.append((p, args[0])))
    with SynOpMeter(net) as meter:
        net(torch.rand(STEPS, BATCH, 1, 8, 8))
    acs = macs = dense = 0
    for part, x in received:
        for step in x:
            flat = part.flat(step[None])
            operations, spiking = neurobench_layers.single_layer_MACs(flat, part.op)
            dense += neurobench_layers.single_layer_MACs(flat, part.op, total=True)[0]
            acs, macs = (acs + operations, macs) if spiking else (acs, macs + operations)
    found = meter.metrics(BATCH, e_ac_pj=1.0, e_mac_pj=1.0)
    assert found["synops/acs_per_sample"] == pytest.approx(float(acs) / BATCH)
    assert found["synops/macs_per_sample"] == pytest.approx(float(macs) / BATCH)
    assert found["synops/dense_per_sample"] == pytest.approx(float(dense) / BATCH)
    assert acs > 0 and macs > 0
