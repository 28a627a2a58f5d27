"""Evaluation on the plain spiking form, the same for every method."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from snnrun.data.batcher import Batcher
from snnrun.hardware import Energy
from snnrun.kits.folding import folded
from snnrun.measure.health import Health
from snnrun.measure.latency import DecisionMeter, inference_ms
from snnrun.measure.memory import PeakMemory, parameters_mib
from snnrun.measure.spikes import SpikeMeter
from snnrun.measure.synops import SynOpMeter
from snnrun.measure.tally import Tally
from snnrun.methods.base import Method
from snnrun.models.network import Network


@torch.no_grad()
def run_through(
    plain: Network,
    method: Method,
    batches: Batcher,
    see: Callable[[Tensor, Tensor, Tally], None] | None = None,
) -> Tally:
    """Loss and accuracy over all batches; ``see`` gets outputs [T, B, C], labels and tally."""
    plain.eval()
    tally = Tally.zero(batches.store.labels.device)
    for x, y in batches.epoch(0):
        outputs = plain(x)
        logits = method.decode(outputs)
        tally.add(F.cross_entropy(logits, y), logits, y)
        if see is not None:
            see(outputs, y, tally)
    return tally


def validate(plain: Network, method: Method, batches: Batcher, health: Health) -> dict[str, float]:
    """Loss and accuracy on held-out data, empty without any; looks for ill layers."""
    if not len(batches):
        return {}
    with SpikeMeter(plain) as spikes:
        tally = run_through(plain, method, batches)
    health.check_spikes(spikes.rates())
    return tally.metrics("val")


def test(
    plain: Network,
    method: Method,
    batches: Batcher,
    energy: Energy,
    memory: PeakMemory,
    health: Health,
) -> dict[str, float]:
    """Everything that is measured on the plain form, over all batches; looks for ill layers.

    Inference latency and memory are taken on the first batch, with no meter attached; the latency
    is that of the net as it would be deployed, norms folded into its weights.
    """
    decisions = DecisionMeter(method.decision_steps)

    def see(outputs: Tensor, y: Tensor, tally: Tally) -> None:
        decisions.add(outputs)
        tally.add_extra(method.figures(outputs, y), len(y))

    with SpikeMeter(plain) as spikes, SynOpMeter(plain) as operations:
        tally = run_through(plain, method, batches, see)
    health.check_spikes(spikes.rates())
    x, _ = next(batches.epoch(0))
    memory.reset()
    with torch.no_grad():
        plain(x)
    peak = memory.metrics("inference")
    return {
        **tally.metrics("test"),
        "latency/inference_ms_per_sample": inference_ms(folded(plain), x),
        **peak,
        "memory/parameters_mib": parameters_mib(plain),
        **decisions.metrics(),
        **spikes.metrics(tally.samples),
        **operations.metrics(tally.samples, e_ac_pj=energy.e_ac_pj, e_mac_pj=energy.e_mac_pj),
    }
