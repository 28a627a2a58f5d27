import gzip
import hashlib
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from snnrun.data import fashion_mnist
from snnrun.errors import DataError

CPU = torch.device("cpu")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"


def images(count: int, side: int = 28, magic: int = 0x803) -> bytes:
    pixels = bytes(i % 251 for i in range(count * side * side))
    return struct.pack(">4I", magic, count, side, side) + pixels


def labels(values: list[int]) -> bytes:
    return struct.pack(">2I", 0x801, len(values)) + bytes(values)


def write(folder: Path, zipped: bool = False, **changed: bytes) -> Path:
    """Four files, 20 training and 10 test samples; `changed` replaces content by file stem."""
    content = {
        "train_images": images(20), "train_labels": labels([i % 10 for i in range(20)]),
        "t10k_images": images(10), "t10k_labels": labels(list(range(10))),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for key, data in (content | changed).items():
        stem = key.replace("_images", "-images-idx3").replace("_labels", "-labels-idx1")
        end = "-ubyte.gz" if zipped else "-ubyte"
        (folder / (stem + end)).write_bytes(gzip.compress(data) if zipped else data)
    return folder


@pytest.fixture(autouse=True)
def no_other_data(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SNNRUN_DATA", raising=False)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("inside", ["", "raw", "mnist", "MNIST/raw"])
def test_files_are_found_in_every_layout_plain_and_gzipped(dataset, tmp_path, inside, zipped):
    write(tmp_path / inside, zipped)
    splits = dataset("mnist", root=str(tmp_path), validation=0.0).load(0, CPU, 4)
    assert splits.train.images.shape == (20, 1, 28, 28)
    assert splits.train.images.flatten()[:252].tolist() == [*range(251), 0]
    assert splits.test.labels.tolist() == list(range(10))


@pytest.mark.parametrize("place", ["variable", "cache"])
def test_the_environment_variable_and_the_cache_are_searched_unasked(
    dataset, tmp_path, monkeypatch, place
):
    home = tmp_path / "cache" / "snnrun"
    if place == "variable":
        home = tmp_path / "elsewhere"
        monkeypatch.setenv("SNNRUN_DATA", str(home))
    write(home / "MNIST" / "raw")
    dataset("mnist").find()


def test_nothing_found_lists_the_folders_and_the_ways_out(dataset, tmp_path):
    with pytest.raises(DataError) as caught:
        dataset("fashion_mnist", root=str(tmp_path / "none")).find()
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("fashion_mnist not found; looked in: ")
    assert str(tmp_path / "none" / "FashionMNIST" / "raw") in message
    assert "apt-get install dataset-fashion-mnist" in message
    assert "dataset.root=FOLDER" in message
    assert "dataset.download=true" in message


def test_a_named_root_is_the_only_place_searched(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("SNNRUN_DATA", str(write(tmp_path / "full" / "mnist").parent))
    dataset("mnist").find()
    with pytest.raises(DataError, match="mnist not found"):
        dataset("mnist", root=str(tmp_path / "empty")).find()


def test_missing_files_are_named(dataset, tmp_path):
    (write(tmp_path) / TRAIN_LABELS).unlink()
    with pytest.raises(DataError, match=f"mnist is incomplete: .* lacks {TRAIN_LABELS}; fix: "):
        dataset("mnist", root=str(tmp_path)).find()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_images": images(20)[:-1]}, f"{TRAIN_IMAGES}: holds 19 of 20 images; file: "),
        ({"train_labels": labels([0] * 20)[:-5]}, f"{TRAIN_LABELS}: holds 15 of 20 labels"),
        ({"train_images": images(20) + b"x"}, "longer than it states"),
        ({"train_images": images(20)[:9]}, "header cut off after 9 bytes"),
        ({"train_images": images(0)}, "states shape 0x28x28"),
        ({"train_images": b""}, "empty file"),
        ({"train_images": b"<html>"}, "bad magic 0x3c68746d, expected 0x803; looks like an HTML"),
        ({"train_images": labels([0] * 20)}, "bad magic 0x801, expected 0x803"),
        ({"train_images": images(20, side=8)}, "images of 8x8 pixels, expected 28x28"),
        ({"train_labels": labels([0] * 3)}, "mnist/train: 20 images but 3 labels"),
        ({"t10k_labels": labels([0] * 9 + [77])}, "mnist/test: label 77 at index 9, classes 0-9"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_content_is_one_line_saying_what(dataset, tmp_path, changed, message, zipped):
    write(tmp_path, zipped, **changed)
    with pytest.raises(DataError) as caught:
        dataset("mnist", root=str(tmp_path)).find()
    assert message.replace("ubyte:", "ubyte.gz:" if zipped else "ubyte:") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_gzip_is_called_truncated(dataset, tmp_path):
    path = write(tmp_path, zipped=True) / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"ubyte.gz: truncated \(100 bytes read\).*fix: delete"):
        dataset("mnist", root=str(tmp_path)).find()


def test_gzip_with_a_wrong_checksum_is_called_corrupt(dataset, tmp_path):
    path = write(tmp_path, zipped=True) / f"{TRAIN_IMAGES}.gz"
    raw = path.read_bytes()
    path.write_bytes(raw[:-8] + bytes(4) + raw[-4:])
    with pytest.raises(DataError, match="corrupt, its checksum does not match"):
        dataset("mnist", root=str(tmp_path)).find()


def test_gzip_with_garbage_inside_is_called_corrupt(dataset, tmp_path):
    path = write(tmp_path, zipped=True) / f"{TRAIN_IMAGES}.gz"
    raw = path.read_bytes()
    path.write_bytes(raw[:10] + b"\xff" * 50)
    with pytest.raises(DataError, match="corrupt, cannot be decompressed"):
        dataset("mnist", root=str(tmp_path)).find()


def test_a_web_page_named_gz_is_recognised(dataset, tmp_path):
    path = write(tmp_path, zipped=True) / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(DataError, match="not gzip; looks like an HTML page, the download prob"):
        dataset("mnist", root=str(tmp_path)).find()


def test_unknown_content_of_fashion_mnist_is_refused_with_both_sums(dataset, tmp_path):
    write(tmp_path)
    found = hashlib.md5(images(20)).hexdigest()
    with pytest.raises(DataError, match=f"md5 {found}, expected f4a8712d7a06.*verify=false"):
        dataset("fashion_mnist", root=str(tmp_path)).find()


def test_unknown_content_is_used_with_a_warning_when_verify_is_off(dataset, tmp_path, caplog):
    write(tmp_path)
    dataset("fashion_mnist", root=str(tmp_path), verify=False).find()
    assert "not the published file" in caplog.text


def test_known_content_passes_however_it_was_compressed(dataset, tmp_path, monkeypatch):
    write(tmp_path, zipped=True)
    known = {
        path.name.removesuffix(".gz"): hashlib.md5(gzip.decompress(path.read_bytes())).hexdigest()
        for path in tmp_path.glob("*.gz")
    }
    monkeypatch.setattr(fashion_mnist, "MD5", known)
    dataset("fashion_mnist", root=str(tmp_path)).find()


def test_download_lands_in_the_root_and_replaces_links(dataset, tmp_path, monkeypatch):
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / TRAIN_LABELS).symlink_to(precious)

    def fetch(root, download):
        write(Path(root) / "MNIST" / "raw")

    monkeypatch.setitem(sys.modules, "torchvision.datasets", SimpleNamespace(MNIST=fetch))
    dataset("mnist", root=str(tmp_path / "root"), download=True).find()
    assert precious.read_bytes() == b"mine"
    assert len(list(raw.iterdir())) == 4
    assert [entry.name for entry in (tmp_path / "root").iterdir()] == ["MNIST"]


def test_failed_download_is_one_line_and_leaves_nothing(dataset, tmp_path, monkeypatch):
    def fetch(root, download):
        raise RuntimeError("Error downloading train-images\nno route")

    monkeypatch.setitem(sys.modules, "torchvision.datasets", SimpleNamespace(MNIST=fetch))
    with pytest.raises(DataError, match=r"mnist: download to .* failed: Error downloading train-i"):
        dataset("mnist", root=str(tmp_path), download=True).find()
    assert list(tmp_path.iterdir()) == []


def test_sources_are_only_read(dataset, tmp_path):
    write(tmp_path, zipped=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    dataset("mnist", root=str(tmp_path)).load(0, CPU, 4)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.skipif(not DEBIAN.is_dir(), reason=f"{DEBIAN} absent: dataset-fashion-mnist")
def test_the_debian_package_is_found_and_is_the_published_data(dataset):
    splits = dataset("fashion_mnist").load(0, CPU, 4)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (54000, 6000, 10000)
    assert splits.validation.labels.bincount().tolist() == [600] * 10
    # Sum of all training pixels 3431114169 over 60000 * 784 pixels of at most 255.
    assert splits.train.mean.item() == pytest.approx(3431114169 / (60000 * 784 * 255))
    assert splits.train.std.item() == pytest.approx(0.3530, abs=1e-4)
