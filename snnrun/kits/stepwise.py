"""What the kits of online training share: firing, values that last a batch, state in bytes."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from snnrun.errors import choice
from snnrun.kernels.compiled.compiling import COMPILED_FROM, compiles
from snnrun.kernels.lif.parameters import LIFParameters
from snnrun.kits.step_op import StepOp
from snnrun.kits.synapse import Synapse
from snnrun.neurons.base import Neuron
from snnrun.neurons.lif import LIFNeuron
from snnrun.neurons.surrogate import Surrogate


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """Three gradients on which the formulas and the published code of OTTT disagree.

    Attributes:
        bias: gradient of a bias behind a trace: ``code`` g[t], ``theory`` Λ[t] g[t] with
            Λ[t] = Σ_{k<t} leak^k, the trace of a constant one.
        first_layer: gradient of the first weights: ``code`` on the input x[t], ``theory`` on its
            trace Σ leak^{t-k} x[k]; its bias follows.
        readout: gradient of the readout's weights: ``code`` on the trace, although the readout has
            no memory, ``theory`` on the spikes of the step.
    """

    bias: str
    first_layer: str
    readout: str

    def __post_init__(self) -> None:
        """Check the names."""
        for key in ("bias", "first_layer", "readout"):
            choice(key, getattr(self, key), ("code", "theory"))


def constants(neuron: Neuron) -> LIFParameters:
    """Constants of a LIF or IF neuron, the only ones these kits are made for."""
    unit = neuron.build()
    assert isinstance(unit, LIFNeuron), f"{neuron.name} is not a LIF neuron"
    return unit.constants


class Fire(torch.autograd.Function):
    """Spikes Θ(u - threshold), Θ(0) = 1, with the surrogate's derivative; keeps u only."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, threshold: float, surrogate: Surrogate) -> Tensor:
        """Spikes, 0 or 1, of the shape and type of ``u``."""
        _keep(ctx, u, u, threshold, surrogate)
        if compiles(u, torch.float32, torch.float64):
            from snnrun.kernels.step import fire  # imports the compiler

            return fire(u, threshold)
        return (u >= threshold).to(u.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
        """See `_back`."""
        return _back(ctx, grad), None, None


def _keep(ctx: Any, x: Tensor, u: Tensor, threshold: float, h: Surrogate) -> None:
    """Keep the membrane ``u`` that came of the argument ``x``, and ``x`` itself if it is a leaf."""
    ctx.save_for_backward(u)
    ctx.leaf = x if x.is_leaf and x.requires_grad else None
    ctx.threshold, ctx.surrogate = threshold, h


def _back(ctx: Any, grad: Tensor) -> Tensor | None:
    """Gradient times h(u - threshold).

    To that of a leaf which gathers them, as over the steps of a static input, it is added where
    that lies; there is none to return then.
    """
    (u,) = ctx.saved_tensors
    unit = (u, ctx.threshold, ctx.surrogate)
    if u.device.type != "cpu" or u.numel() < COMPILED_FROM:
        return grad * ctx.surrogate(u - ctx.threshold)
    from snnrun.kernels.step import add_through_spikes, through_spikes  # imports the compiler

    gathered = None if ctx.leaf is None else ctx.leaf.grad
    if gathered is None or not gathered.is_contiguous():
        return through_spikes(grad, *unit)
    add_through_spikes(grad, *unit, gathered)
    return None


class AccumulateAndFire(torch.autograd.Function):
    """A[t] of P[t] and A[t-1] in one pass; the gradient is that of `Fire` and goes to P[t]."""

    @staticmethod
    def forward(
        ctx: Any, potential: Tensor, before: Tensor, leak: float, threshold: float, h: Surrogate
    ) -> Tensor:
        """See `kernels.step.accumulate_and_fire`."""
        from snnrun.kernels.step import accumulate_and_fire  # imports the compiler

        u, after = accumulate_and_fire(potential, before, leak, threshold)
        _keep(ctx, potential, u, threshold, h)
        return after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        """See `_back`."""
        return _back(ctx, grad), None, None, None, None


class IntegrateAndFire(torch.autograd.Function):
    """s[t] and v[t] of I[t] and v[t-1] in one pass; the gradient is that of `Fire`, from s to I."""

    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        membrane: Tensor | None,
        leak: float,
        threshold: float,
        h: Surrogate,
    ) -> tuple[Tensor, Tensor]:
        """See `kernels.step.integrate_and_fire`."""
        from snnrun.kernels.step import integrate_and_fire  # imports the compiler

        u, spikes, after = integrate_and_fire(current, membrane, leak, threshold)
        _keep(ctx, current, u, threshold, h)
        ctx.mark_non_differentiable(after)
        return spikes, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        """See `_back`."""
        return _back(ctx, grad), None, None, None, None


class StepNeuron(nn.Module):
    """A layer of LIF units that is run one step at a time and never keeps a graph across steps."""

    def __init__(self, unit: LIFParameters) -> None:
        super().__init__()
        self.leak, self.threshold, self.surrogate = unit.leak, unit.threshold, unit.surrogate

    def fire(self, u: Tensor) -> Tensor:
        """Spikes for the membrane ``u`` [1, B, ...] before the reset."""
        return Fire.apply(u, self.threshold, self.surrogate)


class StepSynapse(Synapse):
    """A synapse whose standardised weight can be held for the steps of a batch; knows the leak.

    Attributes:
        span: Λ[t], the trace of a constant one over the steps seen since the reset.
    """

    def __init__(self, op: Any, *, leak: float, **norms: Any) -> None:
        super().__init__(op, **norms)
        self.leak = leak
        self.span = 0.0
        self.held: Tensor | None = None

    def reset(self) -> None:
        """Begin a new sequence."""
        self.span = 0.0

    def lengthen(self) -> float:
        """Count one more step; Λ[t] then."""
        self.span = self.leak * self.span + 1
        return self.span

    def weights(self) -> tuple[Tensor, Tensor | None]:
        """See Synapse.weights."""
        return super().weights() if self.held is None else (self.held, self.op.bias)

    def current(
        self, x: Tensor, trace: Tensor | None = None, spans: tuple[float, float] = (1.0, 1.0)
    ) -> Tensor:
        """Current [1, B, ...] caused by ``x`` [1, B, ...]; see StepOp."""
        return StepOp.apply(x, trace, *self.weights(), self.op, spans)


class Once:
    """Values that are equal at all steps of a batch: computed once, their gradient collected.

    Weights that are standardised and the current of a static input do not change as long as the
    weights do not. Every step sees a leaf in their place; ``backward`` sends the sum of the steps'
    gradients through the one graph behind it.

        with Once(net) as once:
            current = once(net.stem(x[:1]))
            for _ in range(steps):
                loss(net.body(current)).backward()
            once.backward()
    """

    def __init__(self, net: nn.Module) -> None:
        self.parts = [part for part in net.modules() if isinstance(part, StepSynapse)]
        self.weights: list[tuple[Tensor, Tensor]] = []
        self.values: list[tuple[Tensor, Tensor]] = []

    def __enter__(self) -> Self:
        for part in self.parts:
            if part.weight_norm is not None:
                self.weights.append(_with_leaf(part.weights()[0]))
                part.held = self.weights[-1][1]
        return self

    def __exit__(self, *_: object) -> None:
        for part in self.parts:
            part.held = None

    def __call__(self, value: Tensor) -> Tensor:
        """A leaf in the place of ``value``."""
        self.values.append(_with_leaf(value))
        return self.values[-1][1]

    def backward(self) -> None:
        """Continue the backward passes of the steps to the parameters."""
        for pairs in (self.values, self.weights):
            for value, leaf in pairs:
                if leaf.grad is not None:
                    value.backward(leaf.grad)

    def tensors(self) -> list[Tensor]:
        """What is kept from step to step beside the weights: values and their gradients."""
        leaves = [leaf for _, leaf in self.values]
        return leaves + [leaf.grad for leaf in leaves if leaf.grad is not None]


def _with_leaf(value: Tensor) -> tuple[Tensor, Tensor]:
    return value, value.detach().requires_grad_(value.requires_grad)


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """``x`` as it is, with ``factor`` times its gradient."""
    return _ScaleGradient.apply(x, factor)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def state_bytes(net: nn.Module, more: list[Tensor]) -> int:
    """Bytes a net carries from step to step outside parameters, buffers and autograd.

    Every tensor attribute of a module is state: membranes, traces, masks, previous outputs. A
    storage counts once.

    Args:
        net: the net after the last step of a sequence.
        more: further tensors that were kept.
    """
    found = list(more)
    for part in net.modules():
        found += [value for value in vars(part).values() if isinstance(value, Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}
    return sum(storages.values())
