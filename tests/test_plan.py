import json

import pytest
import torch

from snnrun import planning as plans
from snnrun.errors import ConfigError, UserError
from snnrun.plan import CHOICES, Plan
from snnrun.planning import Planning
from snnrun.probe import LARGEST_ERROR, probe
from snnrun.run import build_net, execute

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plans._kept.cache_clear()
    yield
    plans._kept.cache_clear()


def planning(**keys):
    return Planning(**({"probe": True, "show": False} | dict.fromkeys(CHOICES) | keys))


@pytest.mark.parametrize("bf16", [False, True])
def test_probe_bounds_the_error_and_leaves_torch_as_it_was(bf16):
    precision, state = torch.get_float32_matmul_precision(), torch.get_rng_state()
    assert 0 < probe(bf16=bf16).error <= LARGEST_ERROR
    assert torch.get_float32_matmul_precision() == precision
    assert torch.equal(torch.get_rng_state(), state)


def test_a_machine_is_probed_once(tmp_path, monkeypatch):
    first = planning().plan(CPU, "fp32")
    monkeypatch.setattr("snnrun.probe.probe", lambda **_: pytest.fail("probed again"))
    plans._kept.cache_clear()
    assert planning().plan(CPU, "fp32") == first


def test_an_unreadable_cache_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr("snnrun.probe.probe", lambda **_: Plan(products="onednn"))
    planning().plan(CPU, "fp32")
    (file,) = (tmp_path / "snnrun" / "plans").iterdir()
    file.write_text("{")
    plans._kept.cache_clear()
    assert planning().plan(CPU, "fp32").products == "onednn"
    assert json.loads(file.read_text())["products"] == "onednn"


def test_fp64_keeps_the_products_and_layout_of_torch(monkeypatch):
    fast = Plan(products="onednn", layout="channels_last", allocator="keep")
    monkeypatch.setattr("snnrun.probe.probe", lambda **_: fast)
    assert planning().plan(CPU, "fp64") == Plan(allocator="keep")


def test_bf16_has_a_plan_of_its_own(monkeypatch):
    found = {False: Plan(zeros="skipped"), True: Plan(products="onednn")}
    monkeypatch.setattr("snnrun.probe.probe", lambda *, bf16: found[bf16])
    assert planning().plan(CPU, "fp32") == found[False]
    assert planning().plan(CPU, "bf16") == found[True]


def test_named_choices_win_over_the_probe(monkeypatch):
    monkeypatch.setattr("snnrun.probe.probe", lambda **_: Plan(products="onednn", error=1e-7))
    assert planning(products="plain").plan(CPU, "fp32") == Plan()
    assert planning(probe=False, layout="channels_last").plan(CPU, "fp32") == Plan(
        layout="channels_last"
    )


def test_a_run_of_an_earlier_version_need_not_name_every_choice():
    assert Planning(probe=False, show=False).plan(CPU, "fp32") == Plan()


def test_an_unknown_choice_names_the_key():
    with pytest.raises(ConfigError, match=r"plan\.layout: 'rows' is not one of"):
        planning(layout="rows")


def test_another_plan_is_refused_on_resume_with_the_key_to_add():
    begun = Plan(products="onednn").choices()
    Plan(products="onednn", error=1e-7).check_continues(begun)
    with pytest.raises(UserError, match=r"hardware\.plan\.products=onednn$"):
        Plan().check_continues(begun)


def test_a_run_begun_before_there_was_a_choice_goes_on_without_it():
    begun = Plan().choices()
    del begun["zeros"]
    Plan().check_continues(begun)
    with pytest.raises(UserError, match=r"hardware\.plan\.zeros=multiplied$"):
        Plan(zeros="skipped").check_continues(begun)


def test_a_plan_reads_as_its_choices_and_the_error_if_it_was_probed():
    text = "products onednn, zeros multiplied, layout contiguous, allocator keep, sequences whole"
    assert str(Plan(products="onednn", allocator="keep")) == text
    assert str(Plan(products="onednn", allocator="keep", error=2e-7)).startswith(text)
    assert str(Plan(error=2e-7)).endswith("error of products 2.0e-07")


@pytest.mark.parametrize("show", [True, False])
def test_a_run_shows_its_plan_if_asked_to(
    specified, quick_stores, tmp_path, monkeypatch, capsys, show
):
    monkeypatch.chdir(tmp_path)
    small = ("dataset=synthetic", "dataset.limit=32", "model.hidden=[8]", "epochs=1")
    plan = ("hardware=cpu", "hardware.plan.layout=channels_last", f"hardware.plan.show={show}")
    execute(specified(*small, *plan))
    assert ("layout channels_last" in capsys.readouterr().err) is show


@pytest.mark.parametrize(
    ("overrides", "in_chunks"),
    [
        (("method=bptt", "model.norm=sws"), True),
        (("method=tet", "model.norm=none"), True),
        (("method=bptt", "model.norm=bn"), False),
        (("method=tet", "model.norm=tdbn"), False),
        (("method=dsr", "model.norm=none"), False),
        (("method=bptt", "model.norm=sws", "hardware.plan.sequences=whole"), False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_sequences_are_cut_where_the_gradient_stays_the_same(specified, overrides, in_chunks):
    plan = ("hardware=cpu", "hardware.plan.sequences=chunks", "dataset=synthetic")
    net, _ = build_net(specified(*plan, *overrides), CPU)
    assert net.in_chunks is in_chunks
