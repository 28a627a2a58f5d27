"""One checkpoint under several settings."""

import csv

import pytest

from snnrun.errors import ConfigError
from snnrun.evaluate import evaluate, variants
from snnrun.run import execute

TINY = (
    "dataset=synthetic", "dataset.size=[1,4,4]", "dataset.train_samples=32", "epochs=1",
    "dataset.test_samples=8", "model.hidden=[8]", "hardware=cpu", "progress=off",
)  # fmt: skip


@pytest.fixture
def folder(specified, quick_stores, tmp_path, monkeypatch):
    """Of a finished run with four steps."""
    monkeypatch.chdir(tmp_path)
    spec = specified(*TINY)
    execute(spec)
    return spec.folder


def test_several_numbers_of_steps_make_one_table_a_csv_and_a_picture(folder, capsys):
    figures = evaluate(folder, ["method.timesteps=1,4", "seed=3"])
    (single,) = evaluate(folder, ["method.timesteps=4"])
    assert len(figures) == 2
    assert figures[1]["test/accuracy"] == single["test/accuracy"]
    assert figures[1]["spikes/per_sample"] == single["spikes/per_sample"]
    shown = capsys.readouterr().err
    assert "method.timesteps" in shown
    with (folder / "eval-method.timesteps.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method.timesteps"] for row in rows] == ["1", "4"]
    assert [float(row["test/accuracy"]) for row in rows] == [f["test/accuracy"] for f in figures]
    assert (folder / "eval-method.timesteps.png").read_bytes()[:4] == b"\x89PNG"


def test_values_that_are_no_numbers_are_drawn_as_categories(folder):
    evaluate(folder, ["neuron.reset=soft,hard"])
    assert (folder / "eval-neuron.reset.png").is_file()


def test_without_several_values_there_is_one_evaluation():
    assert variants(["seed=1"]) == ("", {"": ["seed=1"]})
    assert variants([]) == ("", {"": []})


def test_each_value_is_joined_by_the_other_overrides():
    assert variants(["seed=1", "a.b=2,3"]) == (
        "a.b",
        {"2": ["seed=1", "a.b=2"], "3": ["seed=1", "a.b=3"]},
    )


def test_two_keys_with_several_values_are_refused():
    with pytest.raises(ConfigError, match=r"only one key .* not a, b"):
        variants(["a=1,2", "b=3,4"])


def test_nothing_is_evaluated_before_all_values_are_valid(folder):
    with pytest.raises(ConfigError, match="timesteps"):
        evaluate(folder, ["method.timesteps=4,0"])
    assert not list(folder.glob("eval-*"))
