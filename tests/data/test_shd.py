import random
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from snnrun.errors import DataError

CPU = torch.device("cpu")
SPIKES = [[(0.0, 5), (0.5, 699)], [(0.25, 7), (0.999, 0), (1.1, 3)], [(0.125, 1)]]


def write(root: Path, split: str = "train", samples=SPIKES, labels=(0, 19, 3), **changes) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    path = root / f"shd_{split}.h5"
    times = [np.array([t for t, _ in s], np.float16) for s in samples]
    units = [np.array([u for _, u in s], np.uint16) for s in samples]
    units = changes.get("units", units)
    with h5py.File(path, "w") as file:
        for key, values, kind in (("times", times, np.float16), ("units", units, np.uint16)):
            if key == changes.get("without"):
                continue
            whole = file.create_dataset(f"spikes/{key}", (len(values),), h5py.vlen_dtype(kind))
            for i, value in enumerate(values):
                whole[i] = value
        file["labels"] = np.array(labels, np.uint16)
    return path


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SNNRUN_DATA", raising=False)


@pytest.fixture
def shd(dataset, tmp_path):
    for split in ("train", "test"):
        write(tmp_path, split)
    return lambda **changes: dataset(
        "shd", **({"root": str(tmp_path), "validation": 0.0} | changes)
    )


def failure(data) -> str:
    with pytest.raises(DataError) as caught:
        data.find()
    return str(caught.value)


def test_spikes_land_in_their_unit_and_step(shd):
    data = shd()
    train = data.load(0, CPU, 100).train
    assert data.shape == (1, 1, 700)
    assert train.labels.tolist() == [0, 19, 3]
    at = [tuple(row) for row in train.images[:, :, 0, 0].nonzero().tolist()]
    assert at == [(0, 0, 5), (0, 50, 699), (1, 25, 7), (1, 99, 0), (1, 99, 3), (2, 12, 1)]


def test_the_papers_windows_round_and_drop_what_is_late(shd):
    how = {"by": "window", "window_ms": 2.0, "rounding": "round"}
    train = shd(binning=how).load(0, CPU, 500).train
    assert train.images[1, :, 0, 0].nonzero().tolist() == [[125, 7]]  # 0.999 s rounds to 500
    assert train.images[0, :, 0, 0].nonzero().tolist() == [[0, 5], [250, 699]]


def test_channels_can_be_joined(shd):
    train = shd(size=[1, 140]).load(0, CPU, 2).train
    assert train.images.shape == (3, 2, 1, 1, 140)
    assert train.images[0].sum((0, 1, 2)).nonzero().flatten().tolist() == [1, 139]


def test_archives_are_read_as_they_are(shd, tmp_path):
    expected = shd().load(0, CPU, 10).train.images
    for split in ("train", "test"):
        path = tmp_path / f"shd_{split}.h5"
        with zipfile.ZipFile(tmp_path / f"shd_{split}.h5.zip", "w") as archive:
            archive.write(path, path.name)
        path.unlink()
    assert torch.equal(shd().load(0, CPU, 10).train.images, expected)


def test_absent_files_are_told_with_the_manual_way(dataset, tmp_path):
    message = failure(dataset("shd", root=str(tmp_path)))
    assert "shd/train not found; looked in: " in message
    assert "shd_test.h5.zip (md5 1503a5064faa34311c398fb0a1ed0a6f) from https://" in message


def test_a_truncated_file_is_called_so_with_both_sizes(shd, tmp_path):
    path = tmp_path / "shd_train.h5"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2])
    message = failure(shd())
    assert f"shd/train: shd_train.h5 is truncated ({size // 2} of {size} bytes); file: " in message


def test_a_web_page_is_recognised(shd, tmp_path):
    (tmp_path / "shd_test.h5").write_bytes(b"<html>gone</html>")
    message = failure(shd())
    assert message.startswith("shd/test: shd_test.h5 is not readable as HDF5")
    assert "looks like an HTML page" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"without": "units"}, "has no spikes/units; fix: "),
        ({"units": [[5], [7, 0, 3], [1]]}, "sample 0: times 2, units 1"),
        ({"units": [[5, 6], [7, 0, 3]]}, "holds 3 times, 2 units, 3 labels"),
        ({"labels": (0, 20, 3)}, "shd/train: label 20 at index 1, classes 0-19"),
        ({"units": [[5, 700], [7, 0, 3], [1]]}, "sample 0: x=700 at event 1, sensor is 700 wide"),
        ({"samples": [[(np.inf, 5)], [(0.1, 7)], [(0.2, 1)]]}, "sample 0: time inf at event 0"),
        ({"samples": [[(-1.0, 5)], [(0.1, 7)], [(0.2, 1)]]}, "sample 0: time -1000000 us at event"),
    ],
)
def test_damage_is_one_line(shd, tmp_path, changes, message):
    write(tmp_path, **changes)
    text = failure(shd())
    assert message in text
    assert "\n" not in text


def test_mutated_files_are_refused_or_valid(shd, tmp_path):
    path, draws = tmp_path / "shd_train.h5", random.Random(2)
    whole = path.read_bytes()
    for _ in range(60):
        raw = bytearray(whole)
        for _ in range(3):
            raw[draws.randrange(len(raw))] = draws.randrange(256)
        path.write_bytes(raw)
        data = shd()
        try:
            data.find()
        except DataError:
            continue
        assert data.load(0, CPU, 5).train.images.shape[1:] == (5, 1, 1, 700)
