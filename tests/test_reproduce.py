"""Published rows: what their heads say, and what counts as a miss."""

import pytest

from snnrun.config import CONF
from snnrun.errors import ConfigError, UserError
from snnrun.ls import options
from snnrun.published import Published, published
from snnrun.reproduce import command, composed, judge, split_seeds


def row(**changes):
    keys = {"what": "X", "paper": "", "expected": 0.9, "tolerance": 0.005, "measured": ""}
    return Published(**keys | changes)


@pytest.mark.parametrize(
    ("paper", "expected", "tolerance"),
    [
        ("arXiv 2202.11946 0.9444 +- 0.0008", 0.9444, 0.005),
        ("arXiv 2205.00459 0.7503 +- .0039", 0.7503, 0.0078),
        ("arXiv 2109.14247 0.9007 (IF 0.9004)", 0.9007, 0.005),
        ("figures of the code, window 0.2: 0.828", 0.828, 0.005),
        ("none on this data (IDE: 0.9004)", None, 0.005),
        ("arXiv 2302.00232, tables not at hand", None, 0.005),
    ],
)
def test_head_gives_number_and_tolerance(tmp_path, paper, expected, tolerance):
    file = tmp_path / "x.yaml"
    file.write_text(f"# @package _global_\n# A on B | paper: {paper} | measured here: 0.9 (CPU)\n")
    read = published(file)
    assert (read.what, read.paper, read.measured) == ("A on B", paper, "0.9 (CPU)")
    assert read.expected == expected
    assert read.tolerance == pytest.approx(tolerance)


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_names_its_paper_and_what_was_measured(name):
    read = published(CONF / "experiment" / f"{name}.yaml")
    assert read.what and read.paper and read.measured


@pytest.mark.parametrize(
    ("overrides", "result"),
    [
        ([], (5, [])),
        (["seeds=3", "epochs=1"], (3, ["epochs=1"])),
    ],
)
def test_number_of_seeds(overrides, result):
    assert split_seeds(overrides) == result


@pytest.mark.parametrize("override", ["seeds=0", "seeds=two", "seed=1"])
def test_seeds_that_are_no_number_are_refused(override):
    with pytest.raises(UserError, match=r"^seeds?: "):
        split_seeds([override])


def test_mean_within_the_tolerance_is_no_miss(capsys):
    judge("x", row(), [0.90, 0.892])
    shown = capsys.readouterr().err
    assert "89.60% ± 0.57% (2 seeds)" in shown
    assert "90.00%" in shown


def test_mean_below_the_tolerance_is_a_miss():
    with pytest.raises(UserError, match=r"x: 89\.00% is 1\.00% below the paper's 90\.00%"):
        judge("x", row(), [0.90, 0.88])


def test_without_a_published_number_nothing_can_be_missed():
    judge("x", row(expected=None), [0.1])


def test_unknown_experiment_and_wrong_override_are_one_line_each():
    with pytest.raises(UserError, match="nothing: no such experiment"):
        command(["nothing"])
    with pytest.raises(ConfigError, match="epoch"):
        composed("ttfs_mnist", ["epoch=1"], 0)


def test_trains_every_seed_once(quick_stores, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = (
        "dataset=synthetic", "dataset.size=[1,8,8]", "dataset.train_samples=32", "epochs=1",
        "dataset.test_samples=8", "model.channels=[4]", "hardware=cpu", "progress=off",
    )  # fmt: skip
    with pytest.raises(UserError, match="below the paper's"):
        command(["ttfs_fashion_mnist", "seeds=2", *tiny])
    assert len(list((tmp_path / "outputs").glob("*/best.pt"))) == 2
