"""Two coordinate systems, one training run: SAF-E and OTTT log the same losses."""

import pytest

RUN = ("train", "hardware.precision=fp64", "hardware.threads=1", "epochs=1", "progress=off")


def first_loss(here, *method):
    before = here.runs()
    here(*RUN, *method)
    (run,) = (run for run in here.runs() if run not in before)
    return here.metrics(run[0])[("train/loss", 1)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "saf, ottt",
    [
        ("method.update=accumulate", "method.online=false"),
        ("method.update=online", "method.online=true"),
    ],
    ids=["summed", "online"],
)
def test_saf_and_ottt_log_the_same_loss_over_an_epoch_of_digits(here, with_store, saf, ottt):
    ours = first_loss(here, "method=saf", "method.variant=e", saf)
    theirs = first_loss(here, "method=ottt", ottt)
    assert ours == pytest.approx(theirs, abs=1e-9, rel=0)
