from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from snnrun.data.batcher import Batcher
from snnrun.data.imagenet import random_part
from snnrun.errors import DataError

CPU = torch.device("cpu")
NAMES = ("n00000002", "n00000001", "n00000003")


def write(root: Path, names=NAMES, per_class: int = 4) -> Path:
    draws = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, name in enumerate(sorted(names)):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(per_class):
                noise = draws.integers(0, 60, (40 + 5 * i, 50, 3), dtype=np.uint8)
                path = root / split / name / f"{name}_{i}.JPEG"
                Image.fromarray(noise + np.uint8(60 * label)).save(path, "JPEG", quality=95)
    return root


@pytest.fixture
def imagenet(dataset, tmp_path):
    small = {"num_classes": 3, "image_size": 16, "workers": 0, "validation": 0.0}
    return lambda **changes: dataset("imagenet", **(small | {"root": str(tmp_path)} | changes))


def failure(data) -> str:
    with pytest.raises(DataError) as caught:
        data.find()
    return str(caught.value)


def batcher(data, seed: int = 0, augmented: bool = True) -> Batcher:
    return Batcher(
        data.load(0, CPU, 2).train, encoding=data.encoding,
        augment=data.augment if augmented else None, batch_size=5, timesteps=2, seed=seed,
        dtype=torch.float32, shuffle=augmented,
    )  # fmt: skip


def test_classes_are_in_order_of_their_names_and_take_turns(imagenet, tmp_path):
    write(tmp_path)
    images, labels = imagenet(limit=7).read("train", 2)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert images.shape == (7, 3, 16, 16)
    brightness = images.float().mean((1, 2, 3))
    assert (brightness - torch.tensor([30, 90, 150, 30, 90, 150, 30])).abs().max() < 8


def test_batches_depend_on_seed_epoch_and_position_not_on_workers(imagenet, tmp_path):
    write(tmp_path)
    alone = list(batcher(imagenet()).epoch(1))
    shared = list(batcher(imagenet(workers=2)).epoch(1))
    resumed = list(batcher(imagenet()).epoch(1, start=1))
    assert [len(y) for _, y in alone] == [5, 5, 2]
    for (x, y), (x_again, y_again) in zip(alone, shared, strict=True):
        assert torch.equal(x, x_again)
        assert torch.equal(y, y_again)
    assert torch.equal(resumed[0][0], alone[1][0])
    assert not torch.equal(alone[0][0], next(batcher(imagenet(), seed=1).epoch(1))[0])


def test_evaluation_takes_the_centre_as_torchvision_does(imagenet, tmp_path):
    from torchvision.transforms import functional as shape

    write(tmp_path)
    images, _ = imagenet().read("train", 2)
    with Image.open(tmp_path / "train/n00000001/n00000001_0.JPEG") as file:
        image = shape.center_crop(shape.resize(file.convert("RGB"), 18), [16, 16])
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), np.array(image))


def test_random_parts_lie_in_the_image():
    for i in range(200):
        top, left, height, width = random_part(40, 90, ("key", i))
        assert 0 < height <= 40 - top
        assert 0 < width <= 90 - left
    assert random_part(1, 1000, ("key", 0)) == (0, 0, 1, 1000)


def test_missing_folders_and_classes_are_named(imagenet, tmp_path):
    message = failure(imagenet())
    assert "imagenet/train not found; looked in: " in message
    assert "imagenet/test not found" in message
    write(tmp_path, NAMES[:2])
    (tmp_path / "val" / "n00000003").mkdir()
    lines = failure(imagenet()).splitlines()
    assert "imagenet/train: found 2 of 3 classes; fix: fetch the rest, or dataset.allow" in lines[1]
    assert "imagenet/test: class folder 'n00000003' is empty; found 2 of 3 classes" in lines[2]
    imagenet(allow_partial=True).find()


def test_unexpected_folders_are_named_and_hidden_ones_ignored(imagenet, tmp_path):
    write(tmp_path)
    (tmp_path / "train" / ".cache").mkdir()
    imagenet().find()
    (tmp_path / "train" / "zebra").mkdir()
    assert "imagenet/train: unexpected folder 'zebra'" in failure(imagenet())


def test_undecodable_images_stop_the_epoch_unless_allowed(imagenet, tmp_path):
    write(tmp_path)
    (tmp_path / "train/n00000001/n00000001_0.JPEG").write_bytes(b"<html>")
    with pytest.raises(
        DataError, match=r"imagenet/train: .*_0.JPEG \(sample 0\) cannot be decoded"
    ):
        imagenet().read("train", 2)
    images, _ = imagenet(skip_bad=1).read("train", 2)
    assert images[0].max() == 0
    assert images[1].max() > 0
