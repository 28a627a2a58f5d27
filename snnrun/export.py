"""``snnrun export``: a run's best weights for other programs.

NIR (Pedersen et al., Nature Communications 2024) describes neurons in continuous time: a step of
length `DT` keeps 1 - DT / tau of a membrane, so tau = DT / (1 - leak). Its neurons reset to a value
and fire above their threshold; at it, which real-valued weights never reach, they stay silent.
"""

import argparse
from collections.abc import Iterator
from itertools import pairwise
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from snnrun.errors import ConfigError, UserError, require
from snnrun.evaluate import load_spec
from snnrun.inheritance import load_best
from snnrun.kits.between import Between, Scale, SequenceDropout
from snnrun.kits.folding import folded
from snnrun.kits.synapse import Synapse
from snnrun.models.network import Chain, Layer
from snnrun.neurons.lif import LIFNeuron
from snnrun.run import build_net

DT = 1e-4  # seconds per step, as the readers of NIR in snnTorch and others assume
FORMATS = ("nir", "state_dict")
CPU = torch.device("cpu")


def command(arguments: list[str]) -> None:
    """Write the file and say what is in it.

    Raises:
        UserError: no run, a net that the format cannot hold, or nir is not installed.
    """
    parser = argparse.ArgumentParser(
        prog="snnrun export",
        description="Write the best weights of a run, norms folded in, to a file in its folder. "
        "nir: chains of layers of lif or if neurons with hard reset; the file is read back and "
        "must give the same outputs. state_dict: any net, as a dictionary of tensors.",
        epilog="example: snnrun export outputs/0123456789abcdef --to nir",
    )
    parser.add_argument("run", type=Path, help="the run's folder, as printed at its end")
    parser.add_argument("--to", choices=FORMATS, required=True, help="format of the file")
    chosen = parser.parse_args(arguments)
    spec = load_spec(chosen.run, ["hardware.device=cpu"])
    net, plain = build_net(spec, CPU)
    load_best(net, chosen.run)
    deployed = folded(plain)
    if chosen.to == "state_dict":
        file = chosen.run / "export.pt"
        torch.save(deployed.state_dict(), file)
    else:
        file = chosen.run / "export.nir"
        write_nir(deployed, spec.dataset.shape, spec.method.timesteps, file)
    Console(stderr=True).print(f"written: {file}", highlight=False, soft_wrap=True)


def write_nir(net: nn.Module, shape: tuple[int, ...], steps: int, file: Path) -> None:
    """Write ``net`` for inputs of ``shape`` as NIR, read it back, compare over ``steps`` steps.

    Raises:
        UserError: nir is not installed, the net does not fit, or what was read back differs.
    """
    nir = _nir()
    parts = {str(number): part for number, part in enumerate(nodes(nir, net, shape))}
    graph = nir.NIRGraph(nodes=parts, edges=list(pairwise(parts)), metadata={"dt": DT})
    nir.write(str(file), graph)
    torch.manual_seed(0)
    x = torch.randn(steps, 2, *shape, dtype=torch.float64)
    with torch.no_grad():
        expected, found = net.double()(x), simulate(nir, nir.read(str(file)), x)
    if not torch.allclose(found, expected, rtol=1e-6, atol=1e-6):
        raise UserError(f"{file} read back gives other outputs than the net")


def _nir() -> ModuleType:
    try:
        import nir
    except ImportError as error:
        raise UserError("nir is not installed: pip install snnrun[export]") from error
    return nir


def nodes(nir: ModuleType, net: nn.Module, shape: tuple[int, ...]) -> Iterator[Any]:
    """The nodes of a folded chain in order.

    Raises:
        ConfigError: for a part that NIR has no node for.
    """
    require(
        isinstance(net, Chain) and net.feedback is None,
        "nir: only chains without feedback are exported, not residual or recurrent nets; "
        "use --to state_dict",
    )
    assert isinstance(net, Chain)
    if isinstance(net.stem.op, nn.Linear):
        shape = (prod(shape),)  # whether Flatten counts the batch differs between readers
    yield nir.Input(input_type=np.array(shape))
    for layer in net.layers:
        assert isinstance(layer, Layer)
        yield from _weighted(nir, layer.synapse, shape)
        shape = _through(layer.synapse, shape)
        yield _neuron(nir, layer.neuron, shape)
        for part in layer.post:
            yield from _between(nir, part, shape)
            shape = _through(part, shape)
    yield from _between(nir, net.pool, shape)
    shape = _through(net.pool, shape)
    yield from _weighted(nir, net.readout, shape)
    yield nir.Output(output_type=np.array(_through(net.readout, shape)))


@torch.no_grad()
def _through(part: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(part(torch.zeros(1, 1, *shape)).shape[2:])


def _weighted(nir: ModuleType, synapse: Synapse, shape: tuple[int, ...]) -> Iterator[Any]:
    require(
        type(synapse) is Synapse and isinstance(synapse.op, nn.Linear | nn.Conv2d),
        f"nir: {type(synapse).__name__} with {type(synapse.op).__name__} has no node; "
        "use --to state_dict",
    )
    weight, bias = synapse.folded()
    bias = torch.zeros(len(weight)) if bias is None else bias
    arrays = {"weight": weight.detach().numpy(), "bias": bias.detach().numpy()}
    if isinstance(synapse.op, nn.Linear):
        if len(shape) > 1:
            yield nir.Flatten(input_type={"input": np.array(shape)}, start_dim=0, end_dim=-1)
        yield nir.Affine(**arrays)
        return
    op = synapse.op
    assert isinstance(op, nn.Conv2d)
    how = {"stride": op.stride, "padding": op.padding, "dilation": op.dilation}
    yield nir.Conv2d(input_shape=shape[1:], groups=op.groups, **how, **arrays)


def _neuron(nir: ModuleType, neuron: nn.Module, shape: tuple[int, ...]) -> Any:
    if not isinstance(neuron, LIFNeuron) or type(neuron) is not LIFNeuron:
        raise ConfigError(f"nir: {type(neuron).__name__} has no node; only lif and if are exported")
    p = neuron.constants
    require(
        p.hard,
        "nir: its neurons are reset to a value, a soft reset subtracts; train with "
        "neuron.reset=hard, or use --to state_dict",
    )
    require(p.delay == 0, "nir: its neurons have no delay (neuron.delay=1)")
    full = {"v_threshold": np.full(shape, p.threshold), "v_reset": np.full(shape, p.rest)}
    if p.leak == 1:
        return nir.IF(r=np.ones(shape), **full)
    require(p.leak > 0, "nir: a neuron without memory (neuron.leak=0) has no time constant")
    tau = DT / (1 - p.leak)
    r = np.full(shape, p.gain * tau / DT)
    return nir.LIF(tau=np.full(shape, tau), r=r, v_leak=np.zeros(shape), **full)


def _between(nir: ModuleType, part: nn.Module, shape: tuple[int, ...]) -> Iterator[Any]:
    op = part.op if isinstance(part, Between) else part
    if isinstance(op, nn.Identity | SequenceDropout):
        return
    if isinstance(op, Scale):
        yield nir.Scale(scale=np.full(shape, op.factor))
        return
    require(
        isinstance(op, nn.AvgPool2d),
        f"nir: {type(op).__name__} has no node; use --to state_dict",
    )
    sizes = (op.kernel_size, op.stride, op.padding)
    kernel, stride, padding = (np.array([s, s] if isinstance(s, int) else s) for s in sizes)
    yield nir.AvgPool2d(kernel_size=kernel, stride=stride, padding=padding)


def simulate(nir: ModuleType, graph: Any, x: Tensor) -> Tensor:
    """Outputs [T, B, classes] of a chain of NIR nodes for ``x`` [T, B, ...], steps of `DT`."""
    following = dict(graph.edges)
    name = next(n for n, node in graph.nodes.items() if isinstance(node, nir.Input))
    x = x.reshape(*x.shape[:2], *graph.nodes[name].input_type["input"])
    while (name := following.get(name, "")) and not isinstance(graph.nodes[name], nir.Output):
        node = graph.nodes[name]
        if isinstance(node, nir.LIF | nir.IF):
            x = _fire(nir, node, x)
        else:
            x = _apply(nir, node, x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return x


def _apply(nir: ModuleType, node: Any, x: Tensor) -> Tensor:
    def array(value: Any) -> Tensor:
        return torch.as_tensor(value, dtype=x.dtype)

    def pair(value: Any) -> list[int]:
        return [int(v) for v in np.broadcast_to(value, 2)]

    if isinstance(node, nir.Flatten):
        return x.flatten(1)
    if isinstance(node, nir.Affine):
        return F.linear(x, array(node.weight), array(node.bias))
    if isinstance(node, nir.Scale):
        return x * array(node.scale)
    if isinstance(node, nir.AvgPool2d):
        return F.avg_pool2d(x, pair(node.kernel_size), pair(node.stride), pair(node.padding))
    assert isinstance(node, nir.Conv2d)
    stride, padding, dilation = pair(node.stride), pair(node.padding), pair(node.dilation)
    weight, bias = array(node.weight), array(node.bias)
    return F.conv2d(x, weight, bias, stride, padding, dilation, int(node.groups))


def _fire(nir: ModuleType, node: Any, x: Tensor) -> Tensor:
    threshold, rest = (torch.as_tensor(a, dtype=x.dtype) for a in (node.v_threshold, node.v_reset))
    rate, gain = torch.zeros(()), torch.as_tensor(node.r, dtype=x.dtype)
    if isinstance(node, nir.LIF):
        rate = torch.as_tensor(DT / node.tau, dtype=x.dtype)
        gain = gain * rate
    v, spikes = torch.zeros_like(x[0]), []
    for current in x:
        v = v - rate * v + gain * current
        spikes.append((v > threshold).to(x.dtype))
        v = torch.where(v > threshold, rest, v)
    return torch.stack(spikes)
