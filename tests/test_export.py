"""What other programs read of a net."""

import sys

import pytest
import torch

from snnrun.errors import ConfigError, UserError
from snnrun.export.command import FORMATS, Format, command, export
from snnrun.export.nir import nodes
from snnrun.kits.folding import folded
from snnrun.run import execute

STEPS, BATCH = 4, 5
LOW = "neuron.threshold=0.3"
HARD = ("neuron.reset=hard", LOW)
CONV = ("model=convnet", "model.channels=[4,6]", "model.hidden=[8]")
RESIDUAL = ("model=resnet19", "model.channels=[4]", "model.blocks=[1]", "model.hidden=[]", LOW)
CHAINS = {
    "dense": ("model.hidden=[12,8]", *HARD),
    "convolutional": (*CONV, *HARD),
    "scaled": ("model=vgg_sws", "model.channels=[[4,6],[8]]", "model.norm=sws", *HARD),
    "scaled input": ("model.hidden=[12]", "neuron.decay_input=true", *HARD),
    "without leak": ("model.hidden=[12]", "neuron=if", *HARD),
    "trained leak": ("model.hidden=[12]", "neuron=plif", *HARD),
}
OTHERS = {
    "soft reset": ("model.hidden=[12]", LOW),
    "delayed": ("model.hidden=[12]", "neuron.delay=1", LOW),
    "leak after reset": ("model.hidden=[12]", "neuron.leak_reset=false", "neuron.rest=0.1", *HARD),
    "trained threshold": (
        "model.hidden=[12]", "neuron=plif", "neuron.train_threshold=true", LOW,
    ),
    "dropout": ("model.hidden=[12]", "model.dropout=0.5", LOW),
    "maxima": (*CONV, "model.pool=max", LOW),
    "residual": RESIDUAL,
    "pre-activation": ("model=preact_resnet18", "model.channels=[4]", "model.blocks=[1]", LOW),
    "norm-free": ("model=nf_resnet34", "model.channels=[4]", "model.blocks=[1]", LOW),
    "rectified": ("method=ann", *CONV),
}  # fmt: skip
LIBRARIES = {"nir": ("nir",), "onnx": ("onnx", "onnxscript", "onnxruntime"), "torchscript": ()}


def installed(name):
    for library in LIBRARIES[name]:
        pytest.importorskip(library, reason="extra export is not installed")


@pytest.fixture
def make(specified):
    def build(*overrides):
        torch.manual_seed(0)
        spec = specified("dataset=digits", *overrides)
        kit = spec.method.plain_kit(spec.neuron, spec.norm)
        net = spec.model.build(kit, (1, 8, 8), 10)
        with torch.no_grad():
            for p in net.parameters():  # some start at 0, which would hide what they do
                p.add_(0.1 * torch.randn_like(p))
        return folded(net)

    return build


@pytest.fixture
def x():
    torch.manual_seed(1)
    return 3 * torch.randn(STEPS, BATCH, 1, 8, 8)


def check(name, net, x, file):
    """Export, and make sure that there was something to compare."""
    installed(name)
    assert export(net, x, FORMATS[name], file) <= FORMATS[name].bound
    assert file.is_file()
    with torch.no_grad():
        assert net(x).std(1).max() > 0


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("name", ["nir", "torchscript"])
def test_chains_are_read_back_with_the_same_outputs(name, chain, make, x, tmp_path):
    net = make(*CHAINS[chain])
    if chain == "scaled":  # NIR has no global pool
        net.pool = torch.nn.Identity()
        net.readout.op = torch.nn.Linear(8 * 4 * 4, 10)
    check(name, net, x, tmp_path / "net")


@pytest.mark.parametrize("other", OTHERS)
def test_torchscript_gives_the_same_outputs(other, make, x, tmp_path):
    check("torchscript", make(*OTHERS[other]), x, tmp_path / "net")


@pytest.mark.parametrize("overrides", [(*CONV, LOW), RESIDUAL], ids=["chain", "residual"])
def test_onnx_gives_the_same_outputs(overrides, make, x, tmp_path):
    check("onnx", make(*overrides), x, tmp_path / "net")


def test_torchscript_and_onnx_take_any_batch(make, x, tmp_path):
    installed("onnx")
    import onnxruntime

    net = make(*CHAINS["dense"])
    for name in ("onnx", "torchscript"):
        export(net, x, FORMATS[name], tmp_path / name)
    session = onnxruntime.InferenceSession(tmp_path / "onnx")
    with pytest.warns(FutureWarning, match="deprecated"):
        script = torch.jit.load(tmp_path / "torchscript")
    for batch in (1, 3):
        some = x[:, :batch]
        with torch.no_grad():
            expected = net(some)
        torch.testing.assert_close(script(some), expected)
        (found,) = session.run(["outputs"], {"input": some.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("neuron.reset=soft",), "nir: .*soft reset subtracts"),
        (("neuron=clif",), "CLIFNeuron cannot be exported"),
        (("model.feedback=true",), "nir: .*without feedback"),
        (("neuron.delay=1", "neuron.reset=hard"), "nir: .*delay"),
        (("neuron.leak=0", "neuron.reset=hard"), "nir: .*without memory"),
        (("neuron.leak_reset=false", "neuron.rest=0.1", "neuron.reset=hard"), "nir: .*leaks, too"),
        (RESIDUAL, "nir: .*not residual"),
        (("model=vgg_sws", "model.channels=[[4]]", *HARD), "nir: AdaptiveAvgPool2d has no node"),
    ],
)
def test_what_nir_cannot_hold_says_why(overrides, reason, make):
    installed("nir")
    import nir

    with pytest.raises(ConfigError, match=reason):
        list(nodes(nir, make(*overrides), (1, 8, 8)))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("neuron=clif",), "CLIFNeuron cannot be exported"),
        (("neuron=cuba_lif",), "CubaLIFNeuron cannot be exported"),
        (("method=ttfs",), "SingleSpikeNeuron cannot be exported"),
        (("method=dsr",), "RepresentationNeuron cannot be exported"),
        (("model.feedback=true",), "feedback cannot be exported"),
    ],
)
def test_what_cannot_be_recorded_says_why_and_leaves_nothing(overrides, reason, make, x, tmp_path):
    with pytest.raises(ConfigError, match=reason):
        export(make(*overrides), x, FORMATS["torchscript"], tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_a_file_that_gives_other_outputs_is_not_kept(make, x, tmp_path):
    def write(net, x, file):
        file.write_text("new")
        return net(x) + 1

    (tmp_path / "net").write_text("old")
    with pytest.raises(UserError, match="net gives other outputs than the net"):
        export(make(), x, Format("net", write, torch.float32, 1e-2), tmp_path / "net")
    assert [f.read_text() for f in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(("name", "missing"), [("nir", "nir"), ("onnx", "onnxscript")])
def test_a_missing_library_is_named_with_its_extra(name, missing, make, x, tmp_path, monkeypatch):
    installed(name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf"{missing} is not .*: pip install snnrun\[export\]"):
        export(make(*HARD), x, FORMATS[name], tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_a_finished_run_is_exported_on_its_own_data(
    specified, quick_stores, tmp_path, monkeypatch, capsys
):
    installed("nir")
    monkeypatch.chdir(tmp_path)
    spec = specified(
        "dataset=synthetic", "dataset.size=[1,4,4]", "dataset.train_samples=32", "epochs=1",
        "dataset.test_samples=8", "model.hidden=[8]", "hardware=cpu", "progress=off", *HARD,
    )  # fmt: skip
    execute(spec)
    capsys.readouterr()
    for name in ("nir", "torchscript"):
        command([str(spec.folder), "--to", name])
        assert "outputs for 8 test samples" in capsys.readouterr().err
        assert (spec.folder / f"export.{name}").is_file()
    command([str(spec.folder), "--to", "state_dict"])
    state = torch.load(spec.folder / "export.pt", weights_only=True)
    assert state["readout.op.weight"].shape == (spec.dataset.classes, 8)
