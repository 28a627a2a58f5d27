import math

import pytest
import torch

from snnrun.errors import ConfigError
from snnrun.neurons.surrogate import SURROGATES, Surrogate

PEAKS = {
    "triangle": lambda w: 1 / w,
    "rectangular": lambda w: 1 / w,
    "sigmoid": lambda w: w / 4,
    "arctan": lambda w: w / 2,
    "softsign": lambda w: w / 2,
    "fast_sigmoid": lambda w: 1.0,
    "piecewise_exponential": lambda w: w / 2,
    "gaussian": lambda w: 1 / (w * math.sqrt(2 * math.pi)),
}
GRID = torch.linspace(-400, 400, 1_600_001, dtype=torch.float64)


def test_the_table_names_every_surrogate():
    assert set(PEAKS) == set(SURROGATES)


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("width", [0.5, 1.0, 4.0])
def test_peak_is_at_the_threshold_and_the_function_is_even(name, width):
    h = Surrogate(name=name, width=width)
    x = torch.linspace(0, 5, 501, dtype=torch.float64)
    assert h(torch.zeros(1, dtype=torch.float64)).item() == pytest.approx(PEAKS[name](width))
    assert h(x).max() == h(x)[0]
    torch.testing.assert_close(h(-x), h(x), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "width", "integral"),
    [
        ("triangle", 0.5, 1.0),
        ("triangle", 1.0, 1.0),
        ("triangle", 2.0, 1.0),
        ("rectangular", 1.0, 1.0),
        ("sigmoid", 4.0, 1.0),
        ("arctan", 2.0, 1.0),
        ("softsign", 2.0, 1.0),
        ("fast_sigmoid", 10.0, 0.2),
        ("piecewise_exponential", 2.0, 1.0),
        ("gaussian", 0.5, 1.0),
    ],
)
def test_integral(name, width, integral):
    tolerance = 1e-3 if name == "triangle" else 2e-3  # the others' tails end at 400
    found = torch.trapezoid(Surrogate(name=name, width=width)(GRID), GRID).item()
    assert found == pytest.approx(integral, abs=tolerance)


@pytest.mark.parametrize(("name", "edge"), [("triangle", 0.8), ("rectangular", 0.4)])
def test_compact_support_ends_where_the_width_says(name, edge):
    h = Surrogate(name=name, width=0.8)
    x = torch.tensor([edge - 1e-9, edge, edge + 1, -edge], dtype=torch.float64)
    assert (h(x) > 0).tolist() == [True, False, False, False]


def test_cutoff_leaves_the_inside_and_zeroes_the_rest():
    x = torch.tensor([0.0, 0.1, 0.2, -0.3], dtype=torch.float64)
    cut = Surrogate(name="fast_sigmoid", width=100.0, cutoff=0.2)(x)
    whole = Surrogate(name="fast_sigmoid", width=100.0, cutoff=None)(x)
    assert torch.equal(cut[:2], whole[:2]) and not cut[2:].any()


@pytest.mark.parametrize("name", ["arctan", "softsign", "fast_sigmoid"])
def test_heavy_tails_still_reach_silent_units(name):
    assert Surrogate(name=name, width=2.0)(torch.tensor([-50.0])).item() > 0


def test_unknown_name_and_bad_width_are_refused():
    with pytest.raises(ConfigError, match=r"surrogate\.name: 'tri' is not one of triangle"):
        Surrogate(name="tri", width=1.0)
    for width in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match=r"surrogate\.width"):
            Surrogate(name="triangle", width=width)
