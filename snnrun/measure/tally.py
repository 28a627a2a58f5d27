"""Loss and accuracy over many batches, without waiting for the device at each of them."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from snnrun import ranks


class NotFinite(ArithmeticError):
    """The loss became infinite or not a number."""


@dataclass
class Tally:
    """Running sums over batches, on the device; ``bad`` is the first step of non-finite loss."""

    loss: Tensor
    correct: Tensor
    bad: Tensor
    samples: int = 0
    extra: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def zero(cls, device: torch.device) -> "Tally":
        """Tally of nothing."""
        zero = torch.zeros((), dtype=torch.float64, device=device)
        return cls(zero, zero.clone(), torch.full_like(zero, float("inf")))

    def add(self, loss: Tensor, logits: Tensor, y: Tensor, step: int = 0) -> None:
        """Take in mean loss and logits [B, C] of one batch, without waiting for the device."""
        self.loss = self.loss + loss.double() * len(y)
        self.correct = self.correct + (logits.argmax(-1) == y).sum()
        self.bad = torch.where(loss.isfinite(), self.bad, self.bad.clamp(max=step))
        self.samples += len(y)

    def add_extra(self, figures: dict[str, Tensor], samples: int) -> None:
        """Take in a method's own figures, means over the batch."""
        for key, value in figures.items():
            self.extra[key] = self.extra.get(key, 0.0) + value.detach().double() * samples

    def over_ranks(self) -> "Tally":
        """The tally of all ranks."""
        return Tally(
            loss=ranks.total(self.loss),
            correct=ranks.total(self.correct),
            bad=ranks.least(self.bad),
            samples=int(ranks.total(torch.tensor(self.samples))),
            extra={key: ranks.total(value) for key, value in self.extra.items()},
        )

    def metrics(self, prefix: str) -> dict[str, float]:
        """Mean loss and accuracy.

        Raises:
            NotFinite: naming the first step at which the loss was not finite.
        """
        if self.bad.isfinite():
            raise NotFinite(
                f"loss is not finite at step {int(self.bad.item())}; lower method.optim.lr, "
                "set method.optim.clip_norm, or use hardware.precision=fp64 to look closer"
            )
        n = self.samples
        own = {key: value.item() / n for key, value in self.extra.items()}
        return {
            f"{prefix}/loss": self.loss.item() / n,
            f"{prefix}/accuracy": self.correct.item() / n,
            **own,
        }

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint in the middle of an epoch."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the sums; tensors go back to their device."""
        device = self.loss.device
        for key, value in state.items():
            setattr(self, key, value.to(device) if isinstance(value, Tensor) else value)
