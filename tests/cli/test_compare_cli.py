import csv

TINY = ("model.hidden=[16]", "dataset.limit=300", "hardware.threads=1", "epochs=1")


def test_sweep_is_compared_from_the_same_folder(snnrun, with_store):
    snnrun("train", "-m", "method=bptt,tet", "seed=0,1", *TINY)

    shown = snnrun("compare", "dataset=digits", "--baseline", "bptt", "--csv", "runs.csv").stdout

    assert "digits: mean" in shown and "×1" in shown
    with (snnrun.folder / "runs.csv").open() as file:
        bptt, tet = csv.DictReader(file)
    assert (bptt["method"], tet["method"], bptt["runs"], tet["seeds"]) == ("bptt", "tet", "2", "2")
    logged = snnrun.query(
        "select avg(latest_metrics.value) from latest_metrics join tags using (run_uuid) "
        "where latest_metrics.key = 'test/accuracy' and tags.value = 'bptt' and tags.key = 'method'"
    )
    assert [(float(bptt["test/accuracy mean"]),)] == logged
    assert float(bptt["energy/inference_uj ratio"]) == 1

    (report,) = snnrun.folder.glob("mlartifacts/**/artifacts/report.html")
    assert report.read_text().count("<figure>") >= 5
    snnrun("compare", "method=tet", "--html", "tet.html")
    assert "bptt" not in (snnrun.folder / "tet.html").read_text()


def test_mistakes_are_one_line(here):
    assert "no runs at" in here("compare", code=1).stderr
    assert not list(here.folder.iterdir())
    here("train", "method=tet", *TINY)
    for arguments, message in {
        ("method=tat",): "error: method=tat: no finished run; there are tet",
        ("--by", "methd"): "error: methd: no such key in any run; did you mean method?",
        ("--baseline", "saf"): "error: --baseline saf: no such group; there are: ",
        ("--csv", "no/where.csv"): "error: --csv: cannot write",
    }.items():
        error = here("compare", *arguments, code=1).stderr
        assert error.startswith(message) and error.count("\n") == 1
