"""Every experiment, at its full size: two updates on made-up data of its dataset's shape."""

import pytest
import torch

from snnrun.data.store import Store
from snnrun.run import batches, build_net

CPU = torch.device("cpu")
BATCH = 2


def made_up(spec) -> Store:
    """As many random samples as one batch of the experiment's dataset."""
    data, steps = spec.dataset, spec.method.timesteps
    shape = data.shape if data.static else (steps, *data.shape)
    channels = data.shape[0]
    return Store(
        images=torch.randint(data.peak + 1, (BATCH, *shape), dtype=torch.uint8),
        labels=torch.arange(BATCH),
        peak=data.peak,
        mean=torch.zeros(channels),
        std=torch.ones(channels),
    )


@pytest.mark.full
def test_experiment_makes_two_updates(experiment, specified):
    torch.manual_seed(0)
    spec = specified(f"experiment={experiment}", "hardware=cpu", f"dataset.batch_size={BATCH}")
    net, _ = build_net(spec, CPU)
    update = spec.method.setup(net)
    x, y = next(batches(spec, made_up(spec), training=True).epoch(0))
    net.train()
    for _ in range(2):
        assert spec.method.step(net, update, x, y).loss.isfinite()
