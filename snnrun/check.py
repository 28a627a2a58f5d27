"""``snnrun check``: what a run would be, without running it."""

import logging
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from snnrun.config import RunSpec
from snnrun.run import build_net
from snnrun.tracking_store import resolve_uri


def report(spec: RunSpec) -> None:
    """Look the data up, build the net, pass two samples through it, and print what would run.

    Raises:
        UserError: when store, data, device or net cannot be had.
    """
    resolve_uri(spec.tracking.uri, Path.cwd())
    device = spec.hardware.torch_device()
    spec.dataset.find()
    spec.hardware.prepare(spec.seed)
    net, plain = build_net(spec, device)
    steps, shape = spec.method.timesteps, spec.dataset.shape
    x = torch.rand(1, 2, *shape, device=device, dtype=spec.hardware.dtype).expand(steps, 2, *shape)
    with torch.no_grad():
        outputs = plain.eval()(x)
    logging.getLogger(__name__).debug("outputs %s", tuple(outputs.shape))
    table = Table(title=f"{spec.name} can run", title_justify="left", show_header=False)
    parameters = sum(p.numel() for p in net.parameters())
    optim = spec.method.optim
    rows = {
        "dataset": f"{spec.dataset.name} {shape}, {spec.dataset.classes} classes",
        "method": f"{spec.method.name}, T = {steps}, {optim.name} lr {optim.lr}",
        "model": f"{spec.model.name}, {parameters:,} parameters, norm {spec.norm}",
        "neuron": spec.neuron.name,
        "training": f"{spec.epochs} epochs, batch {spec.dataset.batch_size}, seed {spec.seed}",
        "device": f"{device}, {spec.hardware.precision}",
        "plan": str(spec.hardware.chosen()),
        "specification": spec.hash[:16],
    }
    for key, value in rows.items():
        table.add_row(key, value)
    Console().print(table)
