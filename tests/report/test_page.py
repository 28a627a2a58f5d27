import re

import pytest

from snnrun.compare import compare
from snnrun.report.page import page
from snnrun.report.plots import pictures, rates, svg, undominated
from snnrun.tracking_read import Record

HOSTILE = "<script>alert(1)</script> $x^2$"
LAYERS = {f"spikes/layers.{n}.neuron/rate": n / 100 for n in (0, 2, 10)}
METRICS = {
    "test/accuracy": 0.9,
    "energy/inference_uj": 1.0,
    "memory/saved_for_backward_mib": 2.0,
    "latency/inference_ms_per_sample": 0.1,
    **LAYERS,
}


def record(method, seed, steps):
    tags = {"dataset": "digits", "method": method, "seed": str(seed), "timesteps": str(steps)}
    return Record(f"{method}{seed}{steps}", "r", 0, 1, dict(METRICS), {}, tags)


@pytest.fixture(scope="module")
def table():
    records = [record(m, s, t) for m in ("bptt", HOSTILE) for s in (0, 1) for t in (4, 16)]
    (table,) = compare(records)
    return table


@pytest.fixture(scope="module")
def figures(table):
    points = [(1, 0.1), (2, 0.3)]
    runs = [record.run_id for row in table.rows for record in row.records]
    history = {(run, key): points for run in runs for key in ("val/accuracy", "train/loss")}
    return pictures(table, history)


def test_every_picture_is_drawn_and_has_the_axes_it_needs(figures):
    assert set(figures) == {
        *("pareto_energy", "pareto_memory", "pareto_latency", "firing_rates"),
        *("curve_val_accuracy", "curve_train_loss", "accuracy_over_steps"),
    }
    (axes,) = figures["accuracy_over_steps"].axes
    assert axes.get_xlabel() == "simulation steps T"
    lines = [container.lines[0] for container in axes.containers]
    assert [list(line.get_xdata()) for line in lines] == [[4, 16]] * 2
    for figure in figures.values():
        assert svg(figure).startswith(b"<?xml")


def test_curve_is_the_mean_over_seeds_of_epochs_that_all_have(table):
    row = table.rows[0]
    first, second = (record.run_id for record in row.records)
    history = {
        (first, "val/accuracy"): [(1, 0.2), (2, 0.4), (3, 0.9)],
        (second, "val/accuracy"): [(1, 0.4), (2, 0.8)],
    }
    (axes,) = pictures(table, history)["curve_val_accuracy"].axes
    line = axes.get_lines()[0]
    assert list(line.get_xdata()) == [1, 2]
    assert list(line.get_ydata()) == pytest.approx([0.3, 0.6])


def test_layers_are_in_the_order_of_the_net(table):
    assert list(rates(table.rows[0]).values()) == [0.0, 0.02, 0.1]


def test_front_holds_what_no_point_beats():
    points = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (3.0, 0.7), (4.0, 0.9), (1.0, 0.3)]
    assert undominated(points) == [(1.0, 0.5), (2.0, 0.7), (4.0, 0.9)]


def test_page_is_one_file_and_shows_names_as_text(table, figures):
    text = page([table], {"digits": figures}, HOSTILE)
    assert "<script" not in text and text.count("&lt;script&gt;") >= 3
    sources = re.findall(r'(?:src|href)="([^"]{,30})', text)
    assert len(sources) == len(figures)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
