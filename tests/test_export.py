"""What other programs read of a net."""

import sys

import pytest
import torch

from snnrun.errors import ConfigError, UserError
from snnrun.export import nodes, simulate, write_nir
from snnrun.kits.folding import folded

HARD = ("neuron.reset=hard", "dataset=digits")
NETS = {
    "dense": ("model=mlp", "model.hidden=[12,8]"),
    "convolutional": ("model=convnet", "model.channels=[4,6]", "model.hidden=[8]"),
    "scaled": ("model=vgg_sws", "model.channels=[[4,6],[8]]", "model.norm=sws"),
    "scaled input": ("model=mlp", "model.hidden=[12]", "neuron.decay_input=true"),
    "without leak": ("model=mlp", "model.hidden=[12]", "neuron=if"),
}


@pytest.fixture
def make(specified):
    def build(*overrides):
        torch.manual_seed(0)
        spec = specified(*overrides)
        kit = spec.method.plain_kit(spec.neuron, spec.norm)
        return folded(spec.model.build(kit, (1, 8, 8), 10))

    return build


@pytest.mark.parametrize("name", NETS)
def test_what_is_read_back_gives_the_same_outputs(name, make, tmp_path):
    nir = pytest.importorskip("nir", reason="extra export is not installed")
    net, file = make(*HARD, "neuron.threshold=0.3", *NETS[name]), tmp_path / "net.nir"
    if name == "scaled":  # NIR has no global pool
        net.pool = torch.nn.Identity()
        net.readout.op = torch.nn.Linear(8 * 4 * 4, 10)
    write_nir(net, (1, 8, 8), 6, file)
    x = 3 * torch.randn(6, 5, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        expected, found = net(x), simulate(nir, nir.read(str(file)), x)
    assert expected.std(0).max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("neuron.reset=soft",), "soft reset subtracts"),
        (("neuron=clif",), "CLIFNeuron has no node"),
        (("model.feedback=true",), "without feedback"),
        (("neuron.delay=1",), "delay"),
        (("neuron.leak=0",), "without memory"),
        (("model=resnet19", "model.channels=[4]", "model.blocks=[1]"), "not residual"),
        (("model=vgg_sws", "model.channels=[[4]]"), "AdaptiveAvgPool2d has no node"),
    ],
)
def test_what_cannot_be_exported_says_why(overrides, reason, make):
    nir = pytest.importorskip("nir", reason="extra export is not installed")
    reset = () if any("neuron=" in o for o in overrides) else ("neuron.reset=hard",)
    net = make("dataset=digits", *reset, *overrides)
    with pytest.raises(ConfigError, match=f"nir: .*{reason}"):
        list(nodes(nir, net, (1, 8, 8)))


def test_missing_library_is_named_with_its_extra(make, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(UserError, match=r"pip install snnrun\[export\]"):
        write_nir(make(*HARD), (1, 8, 8), 2, tmp_path / "x.nir")
