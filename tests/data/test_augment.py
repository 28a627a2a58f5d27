import pytest
import torch

from snnrun.data.augment import Augment, crop_flip, cut_out, roll
from snnrun.data.seeds import generator
from snnrun.errors import ConfigError


def augment(**changes) -> Augment:
    off = {"crop": 0, "flip": False, "roll": 0, "auto": "none", "cutout": 0}
    return Augment(**(off | changes))


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, generator=generator("pixels"), dtype=torch.uint8)


def slow_crop_flip(planes, pad, top, left, mirrored):
    out = torch.empty_like(planes)
    height, width = planes.shape[-2:]
    for i, image in enumerate(planes):
        canvas = image.new_zeros(image.shape[0], height + 2 * pad, width + 2 * pad)
        canvas[:, pad : pad + height, pad : pad + width] = image
        window = canvas[:, top[i] : top[i] + height, left[i] : left[i] + width]
        out[i] = window.flip(-1) if mirrored[i] else window
    return out


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_one_gather_equals_cropping_and_flipping_sample_by_sample(pad):
    planes, draws = noise(16, 3, 6, 9), generator("draws")
    top, left = torch.randint(2 * pad + 1, (2, 16), generator=draws)
    mirrored = torch.randint(2, (16,), generator=draws).bool()
    fast = crop_flip(planes, pad, top, left, mirrored)
    assert torch.equal(fast, slow_crop_flip(planes, pad, top, left, mirrored))


def test_cutout_paints_a_square_clipped_at_the_border():
    planes = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    row, column = torch.tensor([0, 2]), torch.tensor([0, 2])
    painted = cut_out(planes, 2, row, column, torch.tensor([7], dtype=torch.uint8))
    assert painted[0, 0].nonzero().tolist() == [[0, 0]]
    assert painted[1, 0].nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert int(painted.max()) == 7


def test_every_frame_of_a_clip_moves_alike_and_samples_differ():
    frame = noise(1, 1, 2, 8, 8)
    clips = frame.expand(32, 5, 2, 8, 8).contiguous()
    fill = torch.zeros(2, dtype=torch.uint8)
    moved = augment(crop=2, flip=True, roll=1, cutout=3).apply(clips, fill, generator(1))
    assert moved.shape == clips.shape
    assert all(torch.equal(moved[:, 0], moved[:, t]) for t in range(5))
    assert len(moved[:, 0].flatten(1).unique(dim=0)) > 16


def test_flip_mirrors_about_half_and_crop_reaches_every_offset():
    draws = generator("many")
    ramp = torch.arange(1, 9, dtype=torch.uint8).expand(2000, 1, 8, 8)
    fill = torch.zeros(1, dtype=torch.uint8)
    flipped = augment(flip=True).apply(ramp, fill, draws)
    assert (flipped[:, 0, 0, 0] == 8).float().mean().item() == pytest.approx(0.5, abs=0.05)
    cropped = augment(crop=1).apply(ramp, fill, draws)
    assert sorted(cropped[:, 0, 4, 0].unique().tolist()) == [0, 1, 2]


def test_nothing_switched_on_is_not_active():
    assert not augment().active
    assert augment(cutout=1).active
    assert augment(roll=1).active
    assert augment(auto="cifar10").active


@pytest.mark.parametrize("key", ["crop", "cutout", "roll"])
def test_negative_sizes_are_refused(key):
    with pytest.raises(ConfigError, match=f"augment.{key}: -1 is not 0 or more"):
        augment(**{key: -1})


def test_roll_brings_back_what_leaves():
    planes = noise(3, 2, 4, 5)
    rolled = roll(planes, torch.tensor([1, 0, -2]), torch.tensor([0, -1, 2]))
    for i, shift in enumerate([(1, 0), (0, -1), (-2, 2)]):
        assert torch.equal(rolled[i], planes[i].roll(shift, (-2, -1)))


def test_learnt_policy_is_seeded_differs_between_images_and_leaves_the_global_state():
    image = noise(1, 3, 16, 16).expand(32, -1, -1, -1)
    fill = torch.zeros(3, dtype=torch.uint8)
    before = torch.get_rng_state()
    a, again, b = (
        augment(auto="cifar10").apply(image, fill, generator(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a, again)
    assert not torch.equal(a, b)
    assert len(a.flatten(1).unique(dim=0)) > 8


def test_unknown_policy_is_refused():
    with pytest.raises(ConfigError, match=r"augment.auto: 'mnist' is not one of none, cifar10"):
        augment(auto="mnist")
