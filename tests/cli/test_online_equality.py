"""Two coordinate systems, one training run: SAF-E and OTTT log the same losses."""

import pytest

RUN = ("train", "hardware.precision=fp64", "hardware.threads=1", "epochs=1", "progress=off")


def first_loss(snnrun, *method):
    before = {run for run, _, _ in snnrun.runs()} if (snnrun.folder / "mlflow.db").exists() else ()
    snnrun(*RUN, *method)
    (run,) = (run for run, _, _ in snnrun.runs() if run not in before)
    return snnrun.metrics(run)[("train/loss", 1)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "saf, ottt",
    [
        ("method.update=accumulate", "method.online=false"),
        ("method.update=online", "method.online=true"),
    ],
    ids=["summed", "online"],
)
def test_saf_and_ottt_log_the_same_loss_over_an_epoch_of_digits(snnrun, saf, ottt):
    ours = first_loss(snnrun, "method=saf", "method.variant=e", saf)
    theirs = first_loss(snnrun, "method=ottt", ottt)
    assert ours == pytest.approx(theirs, abs=1e-9, rel=0)
