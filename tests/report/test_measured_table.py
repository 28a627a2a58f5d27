import sys

import measured_table as script
import pytest

from snnrun.ls import options
from snnrun.tracking_read import Record


@pytest.fixture(scope="module")
def rows():
    return script.lines()


def named(rows, name):
    return next(line for line in rows if line.name == name)


def records(line, accuracies, *, device="cpu", jobs="1"):
    tags = {"device": device, "threads": "1", "jobs_per_device": jobs, "precision": "fp32"}
    tags |= {"dataset": line.table, "command": line.command}
    return [
        Record(
            one,
            "",
            0,
            86_400_000,
            {"test/accuracy": accuracy, "latency/train_step_ms_p50": 1.5},
            {},
            tags | {"spec_hash": one},
        )
        for one, accuracy in zip(sorted(line.hashes), accuracies, strict=False)
    ]


def row_of(text, label):
    (row,) = (line for line in text.splitlines() if line.startswith(f"| {label} |"))
    return row


def test_every_method_of_the_tree_has_a_digits_row(rows):
    methods = [line.method for line in rows if line.table == "digits"]
    assert methods == list(options("method"))
    assert all(len(line.hashes) == len(line.seeds) for line in rows)
    assert len({line.command for line in rows}) == len(rows)


def test_a_row_is_complete_with_every_seed(rows):
    line = named(rows, "digits/dsr")
    assert len(script.complete(line, records(line, (0.4, 0.5, 0.6)))) == 3
    assert not script.complete(line, records(line, (0.4, 0.5)))


def test_table_shows_rows_that_have_runs_with_their_command(rows):
    line = named(rows, "digits/bptt")
    runs = {one.command: [] for one in rows} | {line.command: records(line, (0.90, 0.92, 0.97))}

    text = script.sections(rows, runs)["digits"]

    assert text.startswith("**digits**, on cpu, threads 1, precision")
    row = row_of(text, "bptt")
    assert "93.00% ±3.61%" in row  # sample deviation: sqrt(0.0026 / 2)
    assert "| 1970-01-02 | `snnrun train -m method=bptt dataset=digits seed=0,1,2` |" in row
    assert "dsr" not in text
    assert "†" not in text


def test_rows_of_another_machine_or_a_shared_one_say_so_and_do_not_compare(rows):
    bptt, dsr, tet = (named(rows, f"digits/{name}") for name in ("bptt", "dsr", "tet"))
    runs = {line.command: [] for line in rows}
    runs[bptt.command] = records(bptt, (0.9, 0.9, 0.9))
    runs[dsr.command] = records(dsr, (0.9, 0.9, 0.9), device="cpu of another kind")
    runs[tet.command] = records(tet, (0.9, 0.9, 0.9), jobs="2")

    text = script.sections(rows, runs)["digits"]

    assert "| 1.50 ±0.00 |" in row_of(text, "bptt")
    assert "| 1.50† ±0.00 |" in row_of(text, "dsr")
    assert "| 1970-01-02, on cpu of another kind |" in row_of(text, "dsr")
    assert "| 1.50† ±0.00 |" in row_of(text, "tet")
    assert "| 1970-01-02, beside other runs |" in row_of(text, "tet")
    assert "† not compared" in text


def test_a_table_of_a_part_of_a_set_says_so(rows):
    line = named(rows, "nmnist/bptt")
    done = records(line, (0.9, 0.9, 0.9))
    for record in done:
        record.metrics["progress/samples"] = 4500
        record.params.update({"epochs": "5", "dataset.allow_partial": "True"})

    text = script.sections([line], {line.command: done})["nmnist"]

    assert "Only a part of the set, 900 training samples an epoch" in text
    assert "dataset=nmnist dataset.allow_partial=true" in text


@pytest.fixture
def go(rows, tmp_path, monkeypatch):
    """A go over rows of digits that trains nothing; returns what it ran and its README."""
    readme, store = tmp_path / "README.md", []
    readme.write_text("<!-- measured digits -->\nold\n<!-- /measured digits -->\n")
    (tmp_path / "measured.jsonl").touch()
    monkeypatch.setattr(script, "README", readme)
    monkeypatch.setattr(script, "FIGURES", tmp_path / "measured.jsonl")
    monkeypatch.setattr(script, "lines", lambda: rows)
    monkeypatch.setattr(script, "done", lambda work: store)

    def go(*names, fresh=True, accuracies=(0.9, 0.9, 0.9), device="cpu"):
        ran = []

        def run(line, work, threads):
            ran.append(line.name)
            store.extend(records(line, accuracies, device=device))

        if fresh:
            store.clear()
        monkeypatch.setattr(script, "run", run)
        monkeypatch.setattr(sys, "argv", ["", "--work", "work", "--only", *names])
        script.main()
        return ran, readme.read_text()

    return go


def test_a_go_over_some_rows_leaves_the_others_as_they_are(go):
    go("digits/bptt", "digits/dsr")

    ran, text = go("digits/dsr", accuracies=(0.8, 0.8, 0.8), device="gpu")

    assert ran == ["digits/dsr"]
    assert "90.00%" in row_of(text, "bptt")
    assert "80.00%" in row_of(text, "dsr")
    assert "on gpu" in row_of(text, "dsr")


def test_a_go_takes_no_runs_of_rows_it_was_not_asked_for(go):
    go("digits/bptt")
    script.FIGURES.write_text("")
    _, text = go("digits/dsr", fresh=False)
    assert "| bptt |" not in text


def test_what_is_finished_in_the_work_folder_is_not_run_again(go):
    go("digits/bptt")
    ran, text = go("digits/bptt", "digits/dsr", fresh=False)
    assert ran == ["digits/dsr"]
    assert row_of(text, "bptt") and row_of(text, "dsr")


def test_a_row_that_does_not_finish_stays_as_it_is_and_is_named(go, capsys):
    go("digits/bptt")
    _, text = go("digits/bptt", accuracies=(0.8,))
    assert "90.00%" in row_of(text, "bptt")
    assert "digits/bptt" in capsys.readouterr().err


def test_the_tables_of_the_readme_are_those_of_the_kept_runs(rows):
    readme = script.README.read_text()
    for table, text in script.sections(rows, script.kept()).items():
        assert f"<!-- measured {table} -->\n{text}\n<!-- /measured {table} -->" in readme
    assert all(f"<!-- measured {table} -->" in readme for table in script.TABLES)
