"""The checks behind ``snnrun verify``; each gives one figure and the bound it must not exceed.

All but those of lower precision run in double precision on random inputs of the dataset's shape.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnrun.config import RunSpec
from snnrun.equilibrium.solvers import fixed_point
from snnrun.errors import ConfigError
from snnrun.kernels.compiled.compiling import COMPILED_FROM
from snnrun.kernels.lif import eager
from snnrun.kernels.lif.multistep import lif
from snnrun.kernels.lif.parameters import LIFParameters
from snnrun.methods.ide import IDE
from snnrun.methods.spide import SPIDE
from snnrun.models.network import Chain, Network
from snnrun.neurons.base import SpikingNeuron
from snnrun.neurons.lif import LIFNeuron
from snnrun.neurons.plif import PLIFNeuron
from snnrun.verify.gradients import (
    Trainer,
    apart,
    distance,
    gradients,
    trace_formula,
    watching,
)

BATCH = 4
EXACT = 1e-9  # relative, in double precision: rounding of sums in another order
FLIPPED = 1e-3  # share of spikes that single precision may flip
FLIPPED_BF16 = 1e-2  # share of spikes that weights and currents of 8 bits may flip
ROUNDED = 0.05  # relative error of a solution computed with LONG steps of spikes
LONG = 400
Specify = Callable[..., RunSpec]


@dataclass(frozen=True)
class Outcome:
    """What a check found: a figure that must not exceed its bound, both without unit."""

    figure: float
    bound: float

    @property
    def passed(self) -> bool:
        """Whether it holds."""
        return self.figure <= self.bound


@dataclass(frozen=True)
class Bench:
    """What checks are made of: specifications from overrides, and the device.

    ``specify(*more)`` is the user's choice with overrides added; those of ``method`` replace his.
    """

    specify: Specify
    device: torch.device

    def net(self, spec: RunSpec, weights: Network | None = None, *, plain: bool = False) -> Network:
        """A net in the method's coordinates or the plain form, with the weights of another."""
        kit = (spec.method.plain_kit if plain else spec.method.kit)(spec.neuron, spec.norm)
        torch.manual_seed(0)
        net = spec.model.build(kit, spec.dataset.shape, spec.dataset.classes)
        net = net.to(self.device, torch.float64)
        if weights is not None:
            net.load_state_dict(weights.state_dict())
        return net

    def batch(self, spec: RunSpec, *, binary: bool = False) -> tuple[Tensor, Tensor]:
        """Random input [T, B, ...], static where the dataset is, and labels [B]."""
        torch.manual_seed(0)
        steps, shape = spec.method.timesteps, spec.dataset.shape
        x = torch.randn(steps, BATCH, *shape, dtype=torch.float64)
        if binary:
            x = (x > 1.5).double()  # few enough ones for the event-driven form
        elif spec.dataset.static:
            x = x[:1].expand_as(x)
        return x.to(self.device), torch.arange(BATCH, device=self.device) % spec.dataset.classes


def training_form(bench: Bench) -> Outcome:
    """Logits of the training form = logits of the plain form."""
    spec = bench.specify("method.optim.lr=0")
    if isinstance(spec.method, IDE) and spec.norm == "bn":
        raise ConfigError("ide trains on the equilibrium's batch statistics; try model.norm=none")
    net = bench.net(spec).train()
    update = spec.method.setup(net)  # may choose the initial weights
    plain = bench.net(spec, net, plain=True).train()
    x, y = bench.batch(spec)
    torch.manual_seed(1)
    logits = spec.method.step(net, update, x, y).logits
    torch.manual_seed(1)
    with torch.no_grad():
        return Outcome(distance(logits, spec.method.decode(plain(x))), EXACT)


@torch.no_grad()
def step_by_step(bench: Bench) -> Outcome:
    """A whole sequence = its steps one by one."""
    spec = bench.specify()
    plain = bench.net(spec, plain=True).eval()
    x, _ = bench.batch(spec)
    whole = plain(x)
    plain.reset()
    return Outcome(distance(torch.cat([plain.advance(step) for step in x.split(1)]), whole), EXACT)


def kernel(bench: Bench) -> Outcome:
    """Fused neuron kernel = reference kernel, spikes and gradients."""
    unit = bench.specify().neuron.build().to(bench.device)
    if not isinstance(unit, LIFNeuron | PLIFNeuron):
        raise ConfigError("the neuron runs as plain torch, there is no other kernel")
    p = unit.constants
    torch.manual_seed(0)
    x = torch.randn(8, COMPILED_FROM // 4, dtype=torch.float64, device=bench.device) + 0.5
    x.requires_grad_()
    spikes, state = lif(x, None, p)
    weight = torch.randn_like(spikes)
    trained = list(unit.parameters())
    found = torch.autograd.grad((spikes * weight).sum(), (x, *trained))
    start = torch.zeros_like(x[0])
    held = None if state.held is None else start
    expected, _, kept = eager.forward(x.detach(), start, p, keep=True, held=held)
    to_current, *_, to_constants = eager.backward(kept, weight, start, p)
    through = () if to_constants is None else chained(unit.constants, to_constants, trained)
    pairs = zip((spikes, *found), (expected, to_current, *through), strict=True)
    return Outcome(max(distance(*pair) for pair in pairs), EXACT)


def chained(p: LIFParameters, grads: Tensor, trained: list[nn.Parameter]) -> tuple[Tensor, ...]:
    """From the gradients [6] of the recursion's constants to those of the trained numbers."""
    graph = [(x, g) for x, g in zip(p.recursion, grads, strict=True) if isinstance(x, Tensor)]
    return torch.autograd.grad([x for x, _ in graph], trained, [g for _, g in graph])


def saf_is_ottt(bench: Bench) -> Outcome:
    """Gradient of SAF-E = gradient of OTTT_A."""
    specs = [bench.specify(f"method={name}") for name in ("saf", "ottt")]
    weights = bench.net(specs[0])
    saf, ottt = (
        gradients(Trainer(spec.method, bench.net(spec, weights)), *bench.batch(spec))
        for spec in specs
    )
    # The gain of a norm-free block multiplies a current: the papers' codes differ on its gradient.
    return Outcome(apart(saf, ottt, only=lambda name: not name.endswith("gain.gain")), EXACT)


def ottt_is_its_formula(bench: Bench) -> Outcome:
    """Gradient of OTTT_A = error of the step times trace, on two fully connected layers."""
    dense = ("model=mlp", "model.hidden=[24,16]", "model.norm=none", "model.dropout=0")
    spec = bench.specify("method=ottt", "method.alpha=0", *dense)
    net = bench.net(spec)
    plain = bench.net(spec, net, plain=True)
    assert isinstance(plain, Chain)
    x, y = bench.batch(spec)
    unit = spec.neuron.build()
    assert isinstance(unit, LIFNeuron)
    if unit.threshold != 1:
        raise ConfigError("the formula is written for threshold 1")
    p = unit.constants
    written = trace_formula(plain, x, y, leak=p.leak, surrogate=p.surrogate, trace_leak=p.leak)
    return Outcome(apart(gradients(Trainer(spec.method, net), x, y), written), EXACT)


def ssgd_is_truncated_bptt(bench: Bench) -> Outcome:
    """Event-driven gradient of SSGD = autograd of the dense net, surrogate cut to the window."""
    dense = ("model=mlp", "model.hidden=[24,16]", "model.norm=none", "model.dropout=0")
    free = ("method.count_above=0", "method.count_below=0", "method.init=uniform")
    spec = bench.specify("method=ssgd", "method.timesteps=20", *free, *dense)
    net = bench.net(spec)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(8)  # uniform weights alone hardly make a deep layer fire
    plain = bench.net(spec, net, plain=True)
    x, y = bench.batch(spec, binary=True)
    found = gradients(Trainer(spec.method, net), x, y)
    F.cross_entropy(spec.method.decode(plain(x)), y).backward()
    expected = {n: p.grad for n, p in plain.named_parameters() if p.grad is not None}
    return Outcome(apart(found, expected), EXACT)


def spide_is_the_exact_solve(bench: Bench) -> Outcome:
    """Output of SPIDE's second stage after many steps = solution of the implicit system."""
    steps = (f"method.timesteps={LONG}", f"method.backward_steps={LONG}")
    dense = ("model=mlp", "model.hidden=[24]", "model.feedback=true", "model.dropout=0")
    spec = bench.specify("method=spide", "model.norm=none", *steps, *dense)
    spide, net = spec.method, bench.net(spec).train()
    assert isinstance(spide, SPIDE) and isinstance(net, Chain)
    spide.setup(net)  # bounds the feedback
    _, _, g, loop = spide.linearised(net, *bench.batch(spec))
    drive = spide.scale(g) * g
    exact = fixed_point(loop.transposed, drive, rounds=LONG, tolerance=EXACT).value
    return Outcome(distance(spide.second_stage(loop, drive).betas[-1], exact), ROUNDED)


def single_precision(bench: Bench) -> Outcome:
    """Share of spikes that differ between single and double precision."""
    spec = bench.specify()
    plain = bench.net(spec, plain=True).eval()
    x, _ = bench.batch(spec)
    double = fired(plain, x)
    return Outcome(share_flipped(double, fired(plain.float(), x.float())), FLIPPED)


def lower_precision(bench: Bench) -> Outcome:
    """Share of spikes that differ with matrix products in bfloat16."""
    spec = bench.specify()
    if spec.hardware.precision != "bf16":
        raise ConfigError(f"hardware.precision={spec.hardware.precision} reduces no products")
    plain = bench.net(spec, plain=True).eval().float()
    x = bench.batch(spec)[0].float()
    single = fired(plain, x)
    with spec.hardware.products():
        return Outcome(share_flipped(single, fired(plain, x)), FLIPPED_BF16)


@torch.no_grad()
def fired(plain: Network, x: Tensor) -> Tensor:
    """Whether each unit of each layer fired at each step, flat."""
    with watching(plain, SpikingNeuron) as seen:
        plain(x)
    if not seen:
        raise ConfigError("the net has no spikes")
    return torch.cat([layer.outputs.flatten() != 0 for layer in seen.values()])


def share_flipped(a: Tensor, b: Tensor) -> float:
    """Of all chances to fire, the share that only one of two runs took."""
    return (a != b).double().mean().item()


CHECKS: tuple[Callable[[Bench], Outcome], ...] = (
    training_form,
    step_by_step,
    kernel,
    single_precision,
    lower_precision,
    saf_is_ottt,
    ottt_is_its_formula,
    ssgd_is_truncated_bptt,
    spide_is_the_exact_solve,
)
