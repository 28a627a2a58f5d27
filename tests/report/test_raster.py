import torch

from snnrun.report.raster import NEURONS, raster, rates


def test_marks_are_the_spikes_of_the_first_sample():
    spikes = torch.zeros(3, 2, 4, dtype=torch.bool)  # [T, B, N]
    spikes[0, 0, 1] = spikes[2, 0, 3] = spikes[1, 1, 0] = True

    (axes,) = raster({"layer": spikes}).axes

    assert axes.collections[0].get_offsets().tolist() == [[1, 1], [3, 3]]


def test_wide_layers_are_thinned_out_evenly():
    spikes = torch.ones(1, 1, 3 * NEURONS, dtype=torch.bool)
    (axes,) = raster({"layer": spikes}).axes
    marks = axes.collections[0].get_offsets()
    assert [y for _, y in marks.tolist()] == list(range(0, 3 * NEURONS, 3))


def test_histogram_counts_neurons_by_rate():
    spikes = torch.zeros(2, 2, 4, dtype=torch.bool)
    spikes[:, :, 0] = True
    (axes,) = rates({"layer": spikes}).axes
    heights = [bar.get_height() for bar in axes.patches]
    assert (heights[0], heights[-1], sum(heights)) == (3, 1, 4)
    assert axes.get_title(loc="left") == "layer: mean 0.250, 75% silent"
