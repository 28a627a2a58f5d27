"""TTFS: networks of units that fire at most once, trained from scratch; the first spike answers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from snnrun.errors import ConfigError, choice, require
from snnrun.kits.plain import Kit
from snnrun.kits.single_spike import NO_MAX_POOL, STATISTICS, Potentials, SingleSpikeKit
from snnrun.methods.base import Method, StepOutput, Update, sequence_step
from snnrun.models.network import Chain, Network
from snnrun.neurons.base import Neuron
from snnrun.neurons.single_spike import SingleSpike

LEAD = 1e-3  # of the chosen class in the logits: enough for argmax, too little to change the loss


def exponential(steps: int, base: float) -> Tensor:
    """w[t] = base^(-t), [T]; base above 1."""
    return base ** -torch.arange(steps, dtype=torch.get_default_dtype())


def linear(steps: int, base: float) -> Tensor:
    """w[t] = base (T - t) / T, [T]; base above 0."""
    return base * (1 - torch.arange(steps, dtype=torch.get_default_dtype()) / steps)


DECODERS: dict[str, Callable[[int, float], Tensor]] = {f.__name__: f for f in (exponential, linear)}


def first_steps(distances: Tensor) -> Tensor:
    """Step of the first spike [B, C], T if silent, from the outputs V - θ [T, B, C]."""
    above = distances >= 0
    steps = torch.where(above.any(0), above.int().argmax(0), len(above))
    return steps


def winners(distances: Tensor) -> Tensor:
    """Class [B] that fires first; of several the one with the largest V then, in silence at T - 1.

    This rule is exact whenever the first spike is unique, whatever the decoder's weights.
    """
    steps = first_steps(distances)
    earliest = steps.amin(1, keepdim=True)
    at = earliest.clamp(max=len(distances) - 1).unsqueeze(0).expand(1, *steps.shape)
    potential = distances.gather(0, at).squeeze(0)
    return potential.masked_fill(steps > earliest, -torch.inf).argmax(1)


@dataclass(kw_only=True)
class TTFS(Method):
    """Surrogate-gradient BPTT on single-spike units, decoded with weights that fall with time.

    Che et al., ICML 2026, arXiv 2410.23619: initialisation and weight normalisation that know T
    (snnrun.kits.single_spike), the temporal weighting decoder Y = sum_t w[t] O[t] on the output
    spikes O, average pooling. Cross entropy on ``logit_scale * Y``, plus ``potential_loss`` times
    that on the outputs' mean membrane, which reaches outputs that do not fire.
    """

    norms: ClassVar[tuple[str, ...]] = ("wn", "none")
    needs: ClassVar[frozenset[str]] = frozenset({"chain"})
    refuses: ClassVar[dict[str, str]] = {
        "feedback": "what comes back later cannot change a unit that fires once",
        "max_pool": NO_MAX_POOL,
    }

    decoder: str
    decoder_base: float
    logit_scale: float
    potential_loss: float
    statistics: str
    input_power: float | None
    earliest_pool: bool

    def __post_init__(self) -> None:
        """Check names and ranges."""
        super().__post_init__()
        choice("decoder", self.decoder, tuple(DECODERS))
        choice("statistics", self.statistics, STATISTICS)
        least = 1 if self.decoder == "exponential" else 0
        require(
            self.decoder_base > least,
            f"decoder_base: {self.decoder_base} is not above {least} (decoder={self.decoder})",
        )
        require(self.logit_scale > 0, f"logit_scale: {self.logit_scale} is not above 0")
        require(self.potential_loss >= 0, f"potential_loss: {self.potential_loss} is negative")
        require(
            self.input_power is None or self.input_power > 0,
            f"input_power: {self.input_power} is not above 0 (null: one spike per input)",
        )

    def refusals(self) -> dict[str, str]:
        """No max pool, unless it is turned into one that keeps to one spike."""
        skip = {"max_pool"} if self.earliest_pool else set()
        return {feature: why for feature, why in self.refuses.items() if feature not in skip}

    def neuron(self, neuron: Neuron) -> Neuron:
        """Single-spike units only."""
        if not isinstance(neuron, SingleSpike):
            raise ConfigError(f"method={self.name} trains neuron=single_spike, not {neuron.name}")
        return neuron

    def kit(self, neuron: Neuron, norm: str) -> Kit:
        """See Method.kit."""
        return SingleSpikeKit(
            neuron,
            norm,
            timesteps=self.timesteps,
            statistics=self.statistics,
            input_power=self.input_power,
            earliest_pool=self.earliest_pool,
        )

    plain_kit = kit

    def step(self, net: Network, update: Update, x: Tensor, y: Tensor) -> StepOutput:
        """See Method.step."""
        assert isinstance(net, Chain)
        assert isinstance(net.readout, Potentials)
        distances = net(x)
        loss = F.cross_entropy(self.weighted(net.readout.neuron.read(distances)), y)
        if self.potential_loss:
            loss = loss + self.potential_loss * F.cross_entropy(distances.mean(0), y)
        return sequence_step(loss, update, self.decode(distances.detach()))

    def weighted(self, spikes: Tensor) -> Tensor:
        """Scaled Y [B, C] of the output spikes [T', B, C] of the first T' steps."""
        weights = DECODERS[self.decoder](self.timesteps, self.decoder_base).to(spikes)
        return self.logit_scale * torch.tensordot(weights[: len(spikes)], spikes, 1)

    def decode(self, outputs: Tensor) -> Tensor:
        """Logits [B, C] from V - θ [T, B, C]; the winner leads also in a tie and in silence."""
        steps = torch.arange(len(outputs), device=outputs.device).view(-1, 1, 1)
        logits = self.weighted((first_steps(outputs) == steps).to(outputs.dtype))
        lead = F.one_hot(winners(outputs), outputs.shape[-1]) * LEAD
        return logits + lead.to(logits.dtype)

    def decision_steps(self, outputs: Tensor) -> Tensor:
        """Steps [B] until the first output spike, which fixes the answer; T if there is none."""
        return (first_steps(outputs).amin(1) + 1).clamp(max=len(outputs))

    def figures(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Share of samples that end in silence or in a tie; accuracy without rules for them."""
        steps = first_steps(outputs)
        earliest = steps.amin(1, keepdim=True)
        silent = earliest.squeeze(1) == len(outputs)
        tied = ((steps == earliest).sum(1) > 1) & ~silent
        plain = torch.where(silent, 0, steps.argmin(1)) == y  # what argmax Y would say
        return {
            "ttfs/silent_rate": silent.double().mean(),
            "ttfs/tie_rate": tied.double().mean(),
            "ttfs/accuracy_without_rules": plain.double().mean(),
        }
