"""Sizes of the published networks: parameters, maps, multiply-accumulates, nothing computed."""

from itertools import groupby
from math import prod

import pytest
import torch

from snnrun.kits.synapse import Synapse, fan_in
from snnrun.models.network import Network
from snnrun.neurons.base import SpikingNeuron

CIFAR, IMAGENET = "dataset=cifar10", "dataset=imagenet"
EVENTS = ("dataset=synthetic", "dataset.size=[2,48,48]", "dataset.frames=true")

# Overrides, parameters, and the paper's figure in millions.
PARAMETERS = {
    "resnet19": (("model=resnet19", CIFAR), 12_631_370, 12.63),
    "spiking_resnet34": (("model=spiking_resnet34", IMAGENET), 21_797_672, 21.8),
    "sew_resnet34": (("model=sew_resnet34", IMAGENET), 21_797_672, 21.8),
    "preact_resnet18": (("model=preact_resnet18", CIFAR, "method=dsr"), 11_172_209, 11.17),
    "nf_resnet34": (("model=nf_resnet34", IMAGENET, "method=ottt"), 21_797_688, 21.8),
    "vgg_sws": (("model=vgg_sws", CIFAR, "method=ottt"), 9_228_362, 9.2),
    "alexnet_f": (("model=alexnet_f", CIFAR, "method=ide"), 3_709_514, 3.7),
    "cifarnet_f": (("model=cifarnet_f", CIFAR, "method=ide"), 11_840_010, 11.8),
    "vggsnn": (("model=vggsnn", *EVENTS), 9_271_498, 9.27),
    "vggsnn without pools": (("model=vggsnn", "model.pool=stride", *EVENTS), 9_271_498, 9.27),
}

# Layers of neurons in order of use, as number * channels x height x width.
MAPS = {
    "resnet19": "1*64x32x32 6*128x32x32 6*256x16x16 4*512x8x8 1*256",
    "spiking_resnet34": "1*64x112x112 6*64x56x56 8*128x28x28 12*256x14x14 6*512x7x7",
    # The shortcuts of SEW-ResNet have neurons of their own.
    "sew_resnet34": "1*64x112x112 6*64x56x56 9*128x28x28 13*256x14x14 7*512x7x7",
    "preact_resnet18": "5*64x32x32 4*128x16x16 4*256x8x8 4*512x4x4 1*512x1x1 1*10",
    # Pre-activation: the first layer of a stage still has the map and channels of the one before.
    "nf_resnet34": "7*64x56x56 8*128x28x28 12*256x14x14 5*512x7x7",
    "vgg_sws": "1*64x32x32 1*128x32x32 2*256x16x16 2*512x8x8 2*512x4x4",
    "alexnet_f": "1*96x16x16 1*256x16x16 2*384x8x8 1*256x8x8",
    "cifarnet_f": "1*128x16x16 1*256x16x16 1*512x8x8 1*1024x8x8 1*512x8x8",
    "vggsnn": "1*64x48x48 1*128x48x48 2*256x24x24 2*512x12x12 2*512x6x6",
    "vggsnn without pools": "1*64x48x48 1*128x24x24 1*256x24x24 1*256x12x12 1*512x12x12 "
    "2*512x6x6 1*512x3x3",
}

# Multiply-accumulates of one dense step, padding included as in the tables of the literature:
# ResNet-34 3.66 G and ResNet-18 for CIFAR 0.56 G; 0.61 G is the sum over the layers of VGG (sWS).
MACS = {
    "spiking_resnet34": 3.664e9,
    "sew_resnet34": 3.664e9,
    "nf_resnet34": 3.664e9,
    "preact_resnet18": 0.5554e9,
    "vgg_sws": 0.6058e9,
}


@pytest.fixture(scope="module")
def built(specified):
    """The plain net of some overrides without memory for it, and the shape of its input."""

    def make(*overrides: str) -> tuple[Network, tuple[int, int, int]]:
        spec = specified(*overrides)
        with torch.device("meta"):
            kit = spec.method.plain_kit(spec.neuron, spec.norm)
            net = spec.model.build(kit, spec.dataset.shape, spec.dataset.classes)
        return net.eval(), spec.dataset.shape

    return make


def outputs(net: Network, shape: tuple[int, int, int], kind: type) -> list[tuple[object, tuple]]:
    """Every part of a kind with the shape of its output for one sample, in order of use."""
    seen = []
    for part in net.modules():
        if isinstance(part, kind):
            part.register_forward_hook(lambda p, _, y: seen.append((p, tuple(y.shape[2:]))))
    with torch.no_grad():
        net(torch.empty(1, 1, *shape, device="meta"))
    return seen


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name, built):
    overrides, count, millions = PARAMETERS[name]
    net, _ = built(*overrides)
    assert sum(p.numel() for p in net.parameters()) == count
    assert count / 1e6 == pytest.approx(millions, rel=0.005)


def test_parameters_of_the_feedback_of_vgg(built):
    """9.5 M; the paper writes 9.6 M, which its structure does not give."""
    net, _ = built("model=vgg_sws", "model.feedback=true", CIFAR, "method=ottt")
    feedback = 512 * 64 * 9 + 64
    assert sum(p.numel() for p in net.parameters()) == 9_228_362 + feedback == 9_523_338


@pytest.mark.parametrize("name", MAPS)
def test_maps_of_every_layer(name, built):
    shapes = [shape for _, shape in outputs(*built(*PARAMETERS[name][0]), SpikingNeuron)]
    found = [f"{len(list(same))}*{'x'.join(map(str, shape))}" for shape, same in groupby(shapes)]
    assert " ".join(found) == MAPS[name]


@pytest.mark.parametrize("name", MACS)
def test_dense_multiply_accumulates(name, built):
    seen = outputs(*built(*PARAMETERS[name][0]), Synapse)
    assert sum(prod(shape) * fan_in(part.op) for part, shape in seen) == pytest.approx(
        MACS[name], rel=5e-4
    )


def test_resnet19_has_nineteen_weighted_layers_beside_its_shortcuts(built):
    net, _ = built(*PARAMETERS["resnet19"][0])
    names = [name for name, part in net.named_modules() if isinstance(part, Synapse)]
    assert sum("shortcut" not in name for name in names) == 19
    assert sum("shortcut" in name for name in names) == 3
