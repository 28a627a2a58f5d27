"""The contract of a training method, and the optimiser state every method updates through."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from snnrun import ranks
from snnrun.errors import choice, require
from snnrun.kits.plain import Kit
from snnrun.methods.optimisers import SGD, Adam
from snnrun.models.network import Network
from snnrun.neurons.base import Neuron


@dataclass(kw_only=True)
class Optim:
    """Optimiser and learning-rate schedule.

    ``milestones`` are fractions of training at each of which schedule ``drops`` divides by ten.
    """

    name: str
    lr: float
    momentum: float
    weight_decay: float
    schedule: str
    warmup_steps: int
    clip_norm: float | None
    milestones: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check names and ranges."""
        choice("optim.name", self.name, ("sgd", "adam"))
        choice("optim.schedule", self.schedule, ("constant", "cosine", "drops"))
        for key in ("lr", "weight_decay"):
            value = getattr(self, key)
            require(0 <= value < math.inf, f"optim.{key}: {value} is negative or not finite")
        require(
            self.name != "adam" or self.lr <= 1e30,
            f"optim.lr: {self.lr} is more than Adam can divide by its bias correction, 1e30",
        )
        require(0 <= self.momentum < 1, f"optim.momentum: {self.momentum} is not in [0, 1)")
        require(self.warmup_steps >= 0, f"optim.warmup_steps: {self.warmup_steps} is negative")
        require(
            self.clip_norm is None or self.clip_norm > 0,
            f"optim.clip_norm: {self.clip_norm} is not null or a positive number",
        )
        require(
            all(0 < m < 1 for m in self.milestones)
            and bool(self.milestones) == (self.schedule == "drops"),
            f"optim.milestones: {self.milestones} must be parts of training between 0 and 1 for "
            "schedule=drops, e.g. [0.3,0.6,0.9], and empty otherwise",
        )

    def optimiser(self, net: nn.Module, *, decay_all: bool = False) -> torch.optim.Optimizer:
        """The optimiser; unless ``decay_all`` decay spares biases, norms and neuron parameters."""
        parameters = [p for p in net.parameters() if p.requires_grad]
        decayed = [p for p in parameters if decay_all or p.dim() > 1]
        spared = [p for p in parameters if not decay_all and p.dim() <= 1]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": spared, "weight_decay": 0.0},
        ]
        if self.name == "adam":
            return Adam(groups, lr=self.lr, betas=(self.momentum, 0.999))
        return SGD(groups, lr=self.lr, momentum=self.momentum)

    def rate(self, progress: float, step: int) -> float:
        """Learning rate at a fraction ``progress`` of training, after ``step`` updates."""
        rate = self.lr
        if self.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        rate *= 0.1 ** sum(progress >= milestone for milestone in self.milestones)
        return rate * min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else rate


class Update:
    """What a method does to the weights: ``zero`` the gradients, ``step`` the optimiser.

    ``progress`` (fraction of training done) is set by the loop before every batch; ``steps``
    counts updates.
    """

    def __init__(self, net: nn.Module, optim: Optim, *, decay_all: bool = False):
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.optim = optim
        self.optimiser = optim.optimiser(net, decay_all=decay_all)
        self.progress = 0.0
        self.steps = 0

    def zero(self) -> None:
        """Forget all gradients."""
        self.optimiser.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Average over the ranks, clip, set the learning rate, update the weights once."""
        ranks.average_gradients(self.parameters)
        if self.optim.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.optim.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = self.optim.rate(self.progress, self.steps)
        self.optimiser.step()
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {"optimiser": self.optimiser.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps = state["steps"]


@dataclass(kw_only=True)
class StepOutput:
    """Result of one training step, detached.

    Mean loss, decoded logits [B, C], and under ``extra`` the method's own figures.
    ``kept_bytes`` is what the method itself keeps between forward and backward outside autograd.
    """

    loss: Tensor
    logits: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)
    kept_bytes: int = 0


@dataclass(kw_only=True)
class Method(ABC):
    """A training rule: owns forward, loss, backward and update of one batch.

    A method never logs, saves, measures, moves data between devices or reads the configuration.
    ``norms`` lists the normalisations it can train, the first is its ``auto`` choice; ``needs``
    and ``refuses`` name features of the model (see Model.features), ``refuses`` with the reason.
    ``channels_last`` says that its parts take maps in that memory layout without copying them,
    ``takes_bf16`` that it trains with matrix products in bfloat16, ``in_chunks`` that its gradient
    is the same where a sequence passes the net chunk by chunk.
    """

    norms: ClassVar[tuple[str, ...]] = ("none",)
    needs: ClassVar[frozenset[str]] = frozenset()
    refuses: ClassVar[dict[str, str]] = {}
    channels_last: ClassVar[bool] = False
    takes_bf16: ClassVar[bool] = False
    in_chunks: ClassVar[bool] = False

    name: str
    timesteps: int
    optim: Optim

    def __post_init__(self) -> None:
        """Check the number of steps."""
        require(self.timesteps >= 1, f"timesteps: {self.timesteps} must be at least 1")

    def neuron(self, neuron: Neuron) -> Neuron:
        """The neuron this method trains, given the one the user chose.

        Raises:
            ConfigError: when the method cannot train that neuron.
        """
        return neuron

    def refusals(self) -> dict[str, str]:
        """Features that it cannot train with these hyper-parameters, with the reason."""
        return self.refuses

    def kit(self, neuron: Neuron, norm: str) -> Kit:
        """Parts of the net in training; the plain kit unless something else than spikes travels."""
        return Kit(neuron, norm)

    def plain_kit(self, neuron: Neuron, norm: str) -> Kit:
        """Parts of the net while evaluating: the plain spiking form."""
        return Kit(neuron, norm)

    def setup(self, net: Network) -> Update:
        """Optimiser state for ``net``."""
        return Update(net, self.optim)

    @abstractmethod
    def step(self, net: Network, update: Update, x: Tensor, y: Tensor) -> StepOutput:
        """Train on one batch: ``x`` [T, B, ...], labels ``y`` [B]."""

    def decode(self, outputs: Tensor) -> Tensor:
        """Logits [B, C] from the plain form's outputs [T, B, C]: their mean over time."""
        return outputs.mean(0, dtype=torch.promote_types(outputs.dtype, torch.float32))

    def decision_steps(self, outputs: Tensor) -> Tensor:
        """Steps [B] until the answer is fixed: the first after which the class stays the same."""
        answers = torch.stack(
            [self.decode(outputs[: t + 1]).argmax(-1) for t in range(len(outputs))]
        )
        return settled(answers)

    def figures(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The method's own figures of a test batch, means over it, by metric name; none as a rule.

        Args:
            outputs: of the plain form, [T, B, C].
            y: labels [B].
        """
        return {}


def settled(answers: Tensor) -> Tensor:
    """Steps [B] after which the answers [T, B] stay what they are in the end."""
    return len(answers) + 1 - (answers == answers[-1]).flip(0).cumprod(0).sum(0)


def sequence_step(loss: Tensor, update: Update, logits: Tensor) -> StepOutput:
    """One backward over a whole sequence and one update, for methods that need nothing else."""
    update.zero()
    loss.backward()
    update.step()
    return StepOutput(loss=loss.detach(), logits=logits.detach())
