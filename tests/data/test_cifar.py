import hashlib
import os
import pickle
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from snnrun.data.cifar import CIFAR10, CIFAR100
from snnrun.errors import DataError

CPU = torch.device("cpu")
FILES = {
    "cifar10": [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"],
    "cifar100": ["train", "test"],
}


def batch(name: str, count: int = 4, **changes) -> bytes:
    pixels = np.arange(count * 3072, dtype=np.uint32).reshape(count, 3072) % 251
    content = {
        "data": pixels.astype(np.uint8),
        "labels" if name == "cifar10" else "fine_labels": list(range(count)),
        "filenames": ["a.png"] * count,
    }
    return pickle.dumps(content | changes, protocol=2)


def write(root: Path, name: str, **changed: bytes) -> Path:
    folder = root / {"cifar10": CIFAR10, "cifar100": CIFAR100}[name].folder
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES[name]:
        (folder / file).write_bytes(changed.get(file, batch(name)))
    return folder


@pytest.fixture
def known(monkeypatch):
    """Takes the files as they are for the published ones."""

    def accept(folder: Path, cls: type[CIFAR10]) -> None:
        sums = {
            split: {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in names}
            for split, names in cls.files.items()
        }
        monkeypatch.setattr(cls, "files", sums)

    return accept


@pytest.fixture(autouse=True)
def no_other_data(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SNNRUN_DATA", raising=False)


@pytest.mark.parametrize(
    ("name", "cls", "samples"), [("cifar10", CIFAR10, 20), ("cifar100", CIFAR100, 4)]
)
def test_batches_are_read_in_order_with_planes_of_colour(
    dataset, tmp_path, known, name, cls, samples
):
    known(write(tmp_path, name), cls)
    splits = dataset(name, root=str(tmp_path), validation=0.0).load(0, CPU, 4)
    assert splits.train.images.shape == (samples, 3, 32, 32)
    assert splits.train.images[0].flatten().tolist() == [i % 251 for i in range(3072)]
    assert splits.train.labels[:4].tolist() == [0, 1, 2, 3]
    assert len(splits.test) == 4


def test_the_same_tensors_as_torchvision(dataset, tmp_path, known):
    known(write(tmp_path, "cifar10"), CIFAR10)
    from torchvision.datasets import CIFAR10 as Theirs

    sums = {split: [[n, m] for n, m in names.items()] for split, names in CIFAR10.files.items()}
    meta = pickle.dumps({"label_names": ["x"] * 10})
    (tmp_path / Theirs.base_folder / "batches.meta").write_bytes(meta)
    entry = {"filename": "batches.meta", "key": "label_names", "md5": hashlib.md5(meta).hexdigest()}
    members = {"train_list": sums["train"], "test_list": sums["test"], "meta": entry}
    theirs = type("CIFAR10", (Theirs,), members)(str(tmp_path), train=True)
    images, labels = dataset("cifar10", root=str(tmp_path)).read("train", 4)
    assert torch.equal(images.permute(0, 2, 3, 1), torch.from_numpy(theirs.data))
    assert labels.tolist() == theirs.targets


@pytest.mark.parametrize("inside", ["", "cifar10"])
def test_the_folder_is_found_in_the_root_and_below_its_name(dataset, tmp_path, known, inside):
    known(write(tmp_path / inside, "cifar10"), CIFAR10)
    dataset("cifar10", root=str(tmp_path)).find()


def test_the_folder_itself_may_be_the_root(dataset, tmp_path, known):
    folder = write(tmp_path, "cifar10")
    known(folder, CIFAR10)
    dataset("cifar10", root=str(folder)).find()


def test_nothing_found_lists_the_folders(dataset, tmp_path):
    with pytest.raises(
        DataError, match=r"cifar10 not found; looked in: .*download=true$"
    ) as caught:
        dataset("cifar10", root=str(tmp_path)).find()
    assert str(tmp_path / "cifar-10-batches-py") in str(caught.value)


def test_missing_files_are_named(dataset, tmp_path):
    folder = write(tmp_path, "cifar10")
    (folder / "data_batch_3").unlink()
    (folder / "test_batch").unlink()
    with pytest.raises(DataError, match=r"is incomplete: .* lacks data_batch_3, test_batch; fix"):
        dataset("cifar10", root=str(tmp_path)).find()


def test_every_wrong_file_is_named_with_both_sums(dataset, tmp_path):
    write(tmp_path, "cifar100")
    found = hashlib.md5(batch("cifar100")).hexdigest()
    with pytest.raises(DataError) as caught:
        dataset("cifar100", root=str(tmp_path)).find()
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 problems"
    assert f"md5 {found}, expected 16019d7e3df5f24257cddd939b257f8d" in lines[1]
    assert lines[1].lstrip().startswith("cifar100/train: ")
    assert lines[2].lstrip().startswith("cifar100/test: ")


def test_other_content_is_used_with_a_warning_when_verify_is_off(dataset, tmp_path, caplog):
    write(tmp_path, "cifar100")
    dataset("cifar100", root=str(tmp_path), verify=False).find()
    assert "not the published file" in caplog.text


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "train: empty file"),
        (b"<html>", "train: cannot be decoded"),
        (batch("cifar100")[:500], "train: cannot be decoded"),
        (pickle.dumps([1, 2]), "train: holds a list, expected a dictionary"),
        (pickle.dumps(Bomb()), r"train: cannot be decoded: posix.mkdir is not allowed"),
        (batch("cifar100", data=[1]), "train: no byte array 'data' with a list 'fine_labels'"),
        (batch("cifar100", data=np.zeros((4, 9), np.uint8)), r"'data' of shape \(4, 9\), expected"),
        (batch("cifar100", fine_labels=[1, 2]), "4 images but 2 whole-number labels"),
        (batch("cifar100", fine_labels=[0, 1, 2, 777]), "cifar100/train: label 777 at index 3"),
    ],
)
def test_damaged_batches_are_one_line_and_execute_nothing(
    dataset, tmp_path, monkeypatch, content, message
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "cifar100", train=content)
    with pytest.raises(DataError, match=message) as caught:
        dataset("cifar100", root=str(tmp_path), verify=False).find()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "exploded").exists()


def test_an_array_of_absurd_size_is_not_allocated(dataset, tmp_path):
    class Huge:
        def __reduce__(self):
            return np._core.multiarray._reconstruct, (np.ndarray, (10**14,), b"b")

    write(tmp_path, "cifar100", train=pickle.dumps({"data": Huge(), "fine_labels": []}))
    with pytest.raises(DataError, match="'data' of shape"):
        dataset("cifar100", root=str(tmp_path), verify=False).find()


def test_mutated_batches_are_refused_or_hold_valid_images(dataset, tmp_path):
    draws, whole = random.Random(0), batch("cifar100", count=2)
    folder = write(tmp_path, "cifar100", train=whole)
    data = dataset("cifar100", root=str(tmp_path), verify=False)
    for _ in range(300):
        mutated = bytearray(whole)
        for _ in range(draws.randint(1, 4)):
            mutated[draws.randrange(200)] = draws.randrange(256)
        (folder / "train").write_bytes(mutated)
        try:
            images, labels = data.read("train", 4)
        except DataError:
            continue
        assert images.shape == (len(labels), 3, 32, 32)


def test_download_lands_in_the_root(dataset, tmp_path, monkeypatch, known):
    known(write(tmp_path / "source", "cifar10"), CIFAR10)
    fetch = SimpleNamespace(CIFAR10=lambda root, download: write(Path(root), "cifar10"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", fetch)
    dataset("cifar10", root=str(tmp_path / "root"), download=True).find()
    assert [entry.name for entry in (tmp_path / "root").iterdir()] == ["cifar-10-batches-py"]


def test_failed_download_is_one_line_and_leaves_nothing(dataset, tmp_path, monkeypatch):
    def fetch(root, download):
        raise RuntimeError("no route\nto host")

    monkeypatch.setitem(sys.modules, "torchvision.datasets", SimpleNamespace(CIFAR10=fetch))
    with pytest.raises(DataError, match=r"cifar10: download to .* failed: no route; fix: "):
        dataset("cifar10", root=str(tmp_path), download=True).find()
    assert list(tmp_path.iterdir()) == []
