"""Normalisations a synapse can carry, in activation space (batch norm) or in weight space."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnrun import ranks
from snnrun.kernels.compiled.compiling import compiles

NORMS = ("none", "bn", "tdbn", "sws")
OVER_STEPS = ("bn", "tdbn")  # whose statistics in training are over all steps


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel of ``x`` [N, C, ...], over the rows of all ranks."""
    others = (0, *range(2, x.dim()))
    mean = ranks.average(x.mean(others))
    centred = x - mean.view(-1, *[1] * (x.dim() - 2))
    return mean, ranks.average(centred.square().mean(others))  # torch.var takes five times as long


def normalised(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm of ``x`` [N, C, ...] by its own mean and variance per channel.

    Returns:
        What is normalised, the mean, and the unbiased variance, not a number of a single value.
    """
    if (
        compiles(x, torch.float32, torch.float64, torch.bfloat16)
        and x.is_contiguous()
        and x.shape[2:].numel() > 1  # torch reads maps in order whose channels are innermost
        and weight.dtype == torch.promote_types(x.dtype, torch.float32)
    ):
        from snnrun.kernels.batch_norm import batch_norm  # imports the compiler

        return batch_norm(x, weight, bias, eps)
    # Momentum 1 into fresh buffers yields the batch's own mean and unbiased variance.
    mean, var = torch.zeros_like(weight), torch.zeros_like(weight)
    # The functional form refuses one value per channel, as of a last batch of one image.
    cudnn = torch.backends.cudnn.enabled
    return torch.batch_norm(x, weight, bias, mean, var, True, 1.0, eps, cudnn), mean, var


class TimeBatchNorm(nn.Module):
    """Batch norm with statistics over time, batch and space jointly (tdBN).

    Computes ``y = weight * scale * (x - mean) / sqrt(var + eps) + bias`` per channel, weight and
    bias starting at 1 and 0. ``scale`` is alpha * V_th of Zheng et al. (AAAI 2021, arXiv
    2011.05280, eq. 5-7): 1 gives the plain BN over T*B that TET uses. The scale stays outside the
    trained weight, so the gradient of the weight is the paper's and not ``1 / scale`` times it.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, scale: float, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.scale, self.eps, self.momentum = scale, eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, repeats: int = 1) -> Tensor:
        """Normalise ``x`` [N, C, ...], each sample standing for ``repeats`` equal time steps."""
        weight = self.weight if self.scale == 1 else self.weight * self.scale
        if not self.training:
            return F.batch_norm(
                x, self.running_mean, self.running_var, weight, self.bias, False, 0.0, self.eps
            )
        if ranks.several():
            return self._over_ranks(x, weight, repeats)
        y, mean, var = normalised(x, weight, self.bias, self.eps)
        self._update_running(mean, var, x.numel() // x.shape[1], repeats)
        return y

    def _over_ranks(self, x: Tensor, weight: Tensor, repeats: int) -> Tensor:
        """Normalise by the statistics of the whole batch, of which ``x`` is this rank's part."""
        mean, var = moments(x.to(weight.dtype))
        n = ranks.in_batch(x.numel() // x.shape[1])
        self._update_running(mean, var * (n / max(n - 1, 1)), n, repeats)
        shape = (-1, *[1] * (x.dim() - 2))
        factor = weight * (var + self.eps).rsqrt()
        y = (x - mean.view(shape)) * factor.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, var: Tensor, n: int, repeats: int) -> None:
        """Move the running statistics; the variance is the unbiased one of ``n * repeats`` values.

        A single value has no variance and moves the mean only.
        """
        self.running_mean.lerp_(mean, self.momentum)
        total = n * repeats
        if total == 1:
            return
        unbiased = var * ((n - 1) / n * total / (total - 1)) if n > 1 else torch.zeros_like(var)
        self.running_var.lerp_(unbiased, self.momentum)

    def affine(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Per-channel factor and offset by the given statistics, to fold into weights before it."""
        factor = self.weight * self.scale / torch.sqrt(var + self.eps)
        return factor, self.bias - factor * mean


class StandardisedWeight(nn.Module):
    """Scaled weight standardisation (sWS) per output channel.

    Computes ``gain * (W - mean) / sqrt(var * fan_in + 1e-4)`` with the unbiased variance over the
    fan-in and a trainable gain starting at 1 (Xiao et al., OTTT, NeurIPS 2022, arXiv 2210.04195,
    section 4.4). Acts on weights only, so it is linear in whatever travels.
    """

    eps = 1e-4  # inside the root, after the variance was multiplied by the fan-in

    def __init__(self, channels: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, weight: Tensor) -> Tensor:
        """Standardise ``weight`` [out, ...]; same shape."""
        if compiles(weight, torch.float32, torch.float64):
            from snnrun.kernels.standardise import standardise  # imports the compiler

            return standardise(weight, self.gain, self.eps)
        fan_in = tuple(range(1, weight.dim()))  # not flattened: maps follow the weight's layout
        n = weight[0].numel()
        centred = weight - weight.mean(fan_in, keepdim=True)
        squares = centred.square().sum(fan_in, keepdim=True)
        var = squares / (n - 1)  # torch.var takes four times as long
        return centred * (self.gain.view_as(var) * torch.rsqrt(var * n + self.eps))
