"""NIR: chains of layers for neuromorphic toolchains and other simulators.

NIR (Pedersen et al., Nature Communications 2024) describes neurons in continuous time: a step of
length `DT` keeps 1 - DT / tau of a membrane, so tau = DT / (1 - leak). Its neurons reset to a value
and fire above their threshold; at it, which real-valued weights never reach, they stay silent.
"""

from collections.abc import Iterator
from itertools import pairwise
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnrun.errors import require
from snnrun.export.library import library
from snnrun.export.units import constants
from snnrun.kits.between import Between, Scale, SequenceDropout
from snnrun.kits.synapse import Synapse
from snnrun.models.network import Chain, Layer

DT = 1e-4  # seconds per step, as the readers of NIR in snnTorch and others assume


def write(net: nn.Module, x: Tensor, file: Path) -> Tensor:
    """Write ``net`` as NIR; outputs of what is read back for ``x`` [T, B, ...].

    Raises:
        ConfigError: for a part that NIR has no node for.
        UserError: nir is not installed.
    """
    nir = library("nir")
    parts = {str(number): part for number, part in enumerate(nodes(nir, net, x.shape[2:]))}
    graph = nir.NIRGraph(nodes=parts, edges=list(pairwise(parts)), metadata={"dt": DT})
    nir.write(str(file), graph)
    return simulate(nir, nir.read(str(file)), x)


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
    p = constants(neuron)
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
    require(
        p.leak_reset or p.rest == 0,
        "nir: the value after a reset leaks, too (neuron.leak_reset=false with neuron.rest not 0)",
    )
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
