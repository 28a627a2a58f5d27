import measured_table as script
import pytest

from snnrun.ls import options
from snnrun.tracking_read import Record


@pytest.fixture(scope="module")
def rows():
    return script.lines()


def records(line, accuracies):
    tags = {"dataset": line.dataset, "method": line.method, "device": "cpu", "threads": "1"}
    tags |= {"jobs_per_device": "1", "precision": "fp32"}
    return [
        Record(one, "", 0, 86_400_000, {"test/accuracy": accuracy}, {}, tags | {"spec_hash": one})
        for one, accuracy in zip(sorted(line.hashes), accuracies, strict=False)
    ]


def test_every_method_of_the_tree_has_a_digits_row(rows):
    methods = [line.method for line in rows if line.dataset == "digits"]
    assert methods == list(options("method"))
    assert all(len(line.hashes) == len(line.seeds) for line in rows)


def test_table_shows_complete_rows_with_their_command(rows):
    bptt, dsr = (line for line in rows if line.name in ("digits/bptt", "digits/dsr"))
    done = [*records(bptt, (0.90, 0.92, 0.97)), *records(dsr, (0.5, 0.6))]

    text = script.sections(rows, done)["digits"]

    lines = text.splitlines()
    assert lines[0].startswith("**digits**, measured 1970-01-02 on cpu, threads 1, precision")
    (row,) = (line for line in lines if line.startswith("| bptt |"))
    assert "93.00% ±3.61%" in row  # sample deviation: sqrt(0.0026 / 2)
    assert "`snnrun train -m method=bptt dataset=digits seed=0,1,2`" in row
    assert "dsr" not in text


def test_a_table_of_a_part_of_a_set_says_so(rows):
    (line,) = (line for line in rows if line.name == "nmnist/bptt")
    done = records(line, (0.9, 0.9, 0.9))
    for record in done:
        record.metrics["progress/samples"] = 4500
        record.params.update({"epochs": "5", "dataset.allow_partial": "True"})

    text = script.sections(rows, done)["nmnist"]

    assert "Only a part of the set, 900 training samples an epoch" in text
    assert "dataset=nmnist dataset.allow_partial=true" in text
