from statistics import fmean

import pytest

from snnrun.compare import compare, select
from snnrun.errors import UserError
from snnrun.tracking_read import Record

TAGS = {"dataset": "digits", "model": "mlp", "device": "cpu", "threads": "1"}
TAGS |= {"jobs_per_device": "1", "precision": "fp32"}


def record(method="bptt", seed=0, *, accuracy=0.9, step_ms=2.0, energy=1.0, params=None, **tags):
    metrics = {
        "test/accuracy": accuracy,
        "latency/train_step_ms_p50": step_ms,
        "energy/inference_uj": energy,
    }
    own = {"method": method, "seed": str(seed)}
    names = {"seed": str(seed), "method.name": method, "hardware.threads": str(seed)}
    return Record(
        f"{id(metrics)}", method, 0, 1, metrics, names | (params or {}), TAGS | own | tags
    )


def test_mean_spread_seeds_best_and_ratio_equal_a_hand_computation():
    records = [
        record("bptt", 0, accuracy=0.90, step_ms=2.0),
        record("bptt", 1, accuracy=0.92, step_ms=4.0),
        record("bptt", 2, accuracy=0.97, step_ms=3.0),
        record("tet", 0, accuracy=0.95, step_ms=6.0),
    ]

    (table,) = compare(records, baseline="bptt")

    bptt, tet = table.rows
    assert (table.dataset, table.keys) == ("digits", ("method",))
    assert (bptt.label, bptt.seeds, tet.label, tet.seeds) == ("bptt", 3, "tet", 1)
    accuracy, step = bptt.cells["test/accuracy"], bptt.cells["latency/train_step_ms_p50"]
    assert accuracy.mean == pytest.approx(0.93)
    # deviations -0.03, -0.01, 0.04: squares sum to 0.0026, over n - 1 = 2 is 0.0013
    assert accuracy.spread == pytest.approx(0.0013**0.5)
    assert (step.mean, step.spread, step.ratio, step.best) == (3.0, 1.0, 1.0, True)
    other = tet.cells["latency/train_step_ms_p50"]
    assert (other.mean, other.spread, other.ratio, other.best) == (6.0, None, 2.0, False)
    assert (accuracy.best, tet.cells["test/accuracy"].best) == (False, True)
    assert bptt.cells["energy/inference_uj"].best is tet.cells["energy/inference_uj"].best is False
    assert "memory/train_peak_mib" not in bptt.cells


@pytest.mark.parametrize(
    ("foreign", "unlike"),
    [
        ({"device": "cuda"}, {"latency/train_step_ms_p50"}),
        ({"threads": "2"}, {"latency/train_step_ms_p50"}),
        ({"precision": "fp64"}, {"latency/train_step_ms_p50"}),
        ({"params": {"hardware.energy.e_ac_pj": "5"}}, {"energy/inference_uj"}),
    ],
)
def test_runs_under_other_conditions_are_marked_and_not_mixed(foreign, unlike):
    usual = [record(seed=seed, step_ms=2.0) for seed in range(2)] + [record("tet", 0, step_ms=3.0)]
    other = record(seed=2, step_ms=0.1, energy=0.1, accuracy=0.99, **foreign)

    (table,) = compare([*usual, other])

    rows = {row.foreign: row for row in table.rows if row.label == "bptt"}
    assert rows[()].seeds == 2
    assert rows[()].cells["latency/train_step_ms_p50"].mean == 2.0
    (marked,) = (row for names, row in rows.items() if names)
    assert {key for key, cell in marked.cells.items() if not cell.comparable} == unlike
    assert not any(marked.cells[key].best for key in unlike)
    assert marked.cells["test/accuracy"].best


def test_times_of_several_jobs_on_one_device_win_nothing_even_among_themselves():
    crowded = [record("bptt", step_ms=1.0, jobs_per_device="2")]
    crowded += [record("tet", step_ms=2.0, energy=3.0, jobs_per_device="2")]

    (table,) = compare(crowded)

    steps = [row.cells["latency/train_step_ms_p50"] for row in table.rows]
    assert [(cell.comparable, cell.best) for cell in steps] == [(False, False)] * 2
    assert table.rows[0].cells["energy/inference_uj"].best


def test_times_are_those_of_the_runs_that_were_alone():
    records = [record(step_ms=2.0, accuracy=0.8)]
    records.append(record(seed=1, step_ms=9.0, accuracy=0.9, jobs_per_device="3"))
    records.append(record("tet", step_ms=3.0))

    (table,) = compare(records)

    bptt = table.rows[0]
    assert (bptt.seeds, bptt.cells["test/accuracy"].mean) == (2, pytest.approx(0.85))
    step = bptt.cells["latency/train_step_ms_p50"]
    assert (step.mean, step.runs, step.best, step.comparable) == (2.0, 1, True, True)


def test_only_keys_that_tell_groups_apart_are_shown():
    def settings(**own):
        return {"method.optim.lr": "0.1"} | {k.replace("_", ".", 1): v for k, v in own.items()}

    records = [
        record("bptt", params=settings(method_phi="1")),
        record("tet", params=settings(method_phi="2")),
    ]
    assert compare(records)[0].keys == ("method",)

    faster = settings(method_phi="1") | {"method.optim.lr": "0.2"}
    (table,) = compare([*records, record("bptt", params=faster)])
    assert table.keys == ("method", "method.optim.lr")
    assert [row.label for row in table.rows] == [
        "bptt, method.optim.lr=0.1",
        "bptt, method.optim.lr=0.2",
        "tet, method.optim.lr=0.1",
    ]


def test_grouping_by_a_key_says_what_it_averages_over():
    records = [
        record(accuracy=accuracy, timesteps=steps)
        for accuracy, steps in ((0.8, "4"), (0.9, "8"), (1.0, "16"))
    ]
    (table,) = compare(records, by=["method"])
    (row,) = table.rows
    assert row.mixed == ("timesteps",)
    assert row.cells["test/accuracy"].mean == pytest.approx(fmean([0.8, 0.9, 1.0]))

    (table,) = compare(records)
    assert [row.settings["timesteps"] for row in table.rows] == ["4", "8", "16"]  # by size


def test_each_dataset_has_its_own_table_and_baseline():
    records = [record(step_ms=2.0), record(step_ms=3.0, dataset="mnist")]
    records += [record("tet", step_ms=4.0, dataset="mnist")]
    digits, mnist = compare(records, baseline="bptt")
    assert (digits.dataset, mnist.dataset, digits.keys) == ("digits", "mnist", ())
    assert mnist.rows[1].cells["latency/train_step_ms_p50"].ratio == pytest.approx(4 / 3)


def test_filters_match_tags_and_settings():
    records = [record(m, s, params={"epochs": "4"}) for m in ("bptt", "tet") for s in range(2)]
    assert len(select(records, ["method=tet"])) == 2
    assert len(select(records, ["method=tet,bptt", "seed=1", "epochs=4"])) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda runs: select(runs, ["method=tat"]), "method=tat: no finished run; there are bptt"),
        (lambda runs: select(runs, ["epcohs=4"]), "epcohs: no such key.*did you mean epochs"),
        (lambda runs: select(runs, ["method"]), "'method' is not key=value"),
        (lambda runs: select([], []), "no finished runs"),
        (lambda runs: compare(runs, by=["methd"]), "methd: no such key.*did you mean method"),
        (lambda runs: compare(runs, baseline="saf"), "--baseline saf: no such group"),
        (lambda runs: compare(runs, baseline="tet"), "--baseline tet: several groups"),
    ],
)
def test_mistake_names_what_there_is(call, message):
    runs = [record(params={"epochs": "4"}), record("tet"), record("tet", threads="2")]
    with pytest.raises(UserError, match=message):
        call(runs)
