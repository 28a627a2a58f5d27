"""Every experiment, at its full size: two updates on made-up data of its dataset's shape."""

import pytest
import torch
from bench_full_size import made_up

from snnrun.run import batches, build_net

CPU = torch.device("cpu")
BATCH = 2


@pytest.mark.full
def test_experiment_makes_two_updates(experiment, specified):
    torch.manual_seed(0)
    spec = specified(f"experiment={experiment}", "hardware=cpu", f"dataset.batch_size={BATCH}")
    net, _ = build_net(spec, CPU)
    update = spec.method.setup(net)
    x, y = next(batches(spec, made_up(spec, BATCH, CPU), training=True).epoch(0))
    net.train()
    for _ in range(2):
        assert spec.method.step(net, update, x, y).loss.isfinite()
