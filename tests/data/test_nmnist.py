import json
import os
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from snnrun.data.nmnist import NMNIST
from snnrun.errors import DataError

CPU = torch.device("cpu")
SHARED = Path(os.environ.get("SNNRUN_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data")
REAL = SHARED / "nmnist-1100.zip"
needs_real = pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} absent: real recordings")


def encoded(events: list[tuple[int, int, int, int]]) -> bytes:
    """Events (x, y, t, p) as N-MNIST bytes."""
    rows = [(x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255) for x, y, t, p in events]
    return np.array(rows, np.uint8).tobytes()


def recording(i: int) -> bytes:
    return encoded([(i % 34, (2 * i) % 34, 1000 * k + i, k % 2) for k in range(20)])


def files(count: int = 20) -> dict[str, bytes]:
    names = {"Train": range(count), "Test": range(count // 2)}
    return {
        f"{folder}/{i % 10}/{i:05}.bin": recording(i) for folder in names for i in names[folder]
    }


def write(root: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def zipped(path: Path, content: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SNNRUN_DATA", raising=False)


@pytest.fixture
def complete(monkeypatch):
    monkeypatch.setattr(NMNIST, "published", {"train": 20, "test": 10})


@pytest.fixture
def nmnist(dataset, tmp_path):
    return lambda **changes: dataset("nmnist", **({"root": str(tmp_path / "data")} | changes))


def failure(data) -> list[str]:
    with pytest.raises(DataError) as caught:
        data.find()
    return str(caught.value).splitlines()


def test_bytes_are_decoded_in_full():
    events = [(33, 1, 8_388_606, 1), (0, 33, 3, 0)]
    raw = NMNIST.decode(None, encoded(events), None, "x")
    assert list(zip(*(column.tolist() for column in raw), strict=True)) == events


def test_overflow_markers_shift_what_follows():
    raw = NMNIST.decode(None, encoded([(1, 1, 5, 0), (0, 240, 0, 0), (2, 2, 7, 1)]), None, "x")
    assert raw.x.tolist() == [1, 2]
    assert raw.t.tolist() == [5, 8199]


@pytest.mark.parametrize("layout", ["folder", "nested", "one zip", "two zips", "zip in folder"])
def test_every_layout_gives_the_same_frames_in_order_of_the_file_names(
    nmnist, complete, tmp_path, layout
):
    root, content = tmp_path / "data", files()
    if layout == "folder":
        write(root, content)
    elif layout == "nested":
        write(root / "NMNIST", content)
    elif layout == "one zip":
        root = zipped(root / "any.zip", content)
    else:
        name = root / "nmnist" if layout == "zip in folder" else root
        for split in ("Train", "Test"):
            part = {k: v for k, v in content.items() if k.startswith(split)}
            zipped(name / f"{split.lower()}.zip", part)
    splits = nmnist(root=str(root), validation=0.0).load(0, CPU, 4)
    assert splits.train.labels.tolist() == [i % 10 for i in range(20)]
    assert splits.train.images.shape == (20, 4, 2, 34, 34)
    for i in (0, 13):
        assert splits.train.images[i].sum() == 20
        assert splits.train.images[i, :, :, (2 * i) % 34, i % 34].sum() == 20
    assert len(splits.test) == 10


def test_hidden_files_and_leftovers_of_archivers_are_ignored(nmnist, complete, tmp_path):
    extra = {"__MACOSX/Train/0/._00000.bin": b"x", ".Trash/Train/0/1.bin": b"x"}
    write(tmp_path / "data", files() | extra)
    nmnist().find()


def test_a_limit_leaves_every_class(nmnist, complete, tmp_path):
    write(tmp_path / "data", files())
    splits = nmnist(limit=10, validation=0.0).load(0, CPU, 2)
    assert splits.train.labels.tolist() == list(range(10))


def test_fewer_recordings_than_published_need_permission_and_are_noted(nmnist, tmp_path, caplog):
    write(tmp_path / "data", files())
    lines = failure(nmnist())
    assert lines[0] == "2 problems"
    assert "nmnist/train: 20 of 60000 recordings; fix: fetch the rest, or dataset.allow" in lines[1]
    assert "nmnist/test: 10 of 10000 recordings" in lines[2]
    nmnist(allow_partial=True).find()
    assert "nmnist/train: 20 of 60000 recordings" in caplog.text


def test_nothing_found_lists_the_folders_and_the_manual_way(nmnist, tmp_path):
    lines = failure(nmnist())
    assert "nmnist/train not found; looked in: " in lines[1]
    assert str(tmp_path / "data" / "NMNIST") in lines[1]
    assert "train.zip (md5 20959b8e626244a1b502305a9e6e2031) from https://" in lines[1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("Train/3/00003.bin", recording(3)[:-2], "98 bytes, not a whole number of 5-byte events"),
        ("Train/3/00003.bin", encoded([(99, 0, 0, 0)]), "x=99 at event 0, sensor is 34 wide"),
        (
            "Train/3/00003.bin",
            encoded([(0, 0, 8_388_607, 0), (0, 0, 0, 0)]),
            "time goes back by 8388 ms at event 1: counter wrap?",
        ),
        ("Train/zebra/1.bin", b"", "nmnist: unexpected folder 'zebra', classes are folders 0 to 9"),
        ("Train/3/00003.bin", b"", "nmnist/train: 1 of 20 recordings are empty"),
    ],
)
def test_damage_is_one_line_naming_the_file(nmnist, complete, tmp_path, name, content, message):
    write(tmp_path / "data", files() | {name: content})
    (line,) = failure(nmnist())
    assert message in line
    assert not (tmp_path / "cache" / "snnrun" / "converted").exists() or "zebra" not in line


def test_all_problems_are_told_at_once(nmnist, complete, tmp_path):
    bad = {f"Train/{i}/0000{i}.bin": b"123" for i in range(3)} | {"Test/1/00001.bin": b"1"}
    write(tmp_path / "data", files() | bad)
    lines = failure(nmnist())
    assert lines[0] == "4 problems"
    assert [name for name in bad if any(name in line for line in lines)] == list(bad)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "train.zip: archive is 0 bytes (the host refused the download)"),
        (b"<html>no</html>", "looks like an HTML page, the download probably failed"),
        (None, "train.zip: not a zip archive, or cut off, at "),
    ],
)
def test_archives_that_are_none_are_called_so(nmnist, tmp_path, content, message):
    path = zipped(tmp_path / "data" / "train.zip", files())
    path.write_bytes(path.read_bytes()[:500] if content is None else content)
    assert message in "\n".join(failure(nmnist()))


def test_a_corrupt_member_of_an_archive_is_named(nmnist, complete, tmp_path):
    path = zipped(tmp_path / "data" / "any.zip", files())
    raw = bytearray(path.read_bytes())
    raw[60] ^= 255
    path.write_bytes(raw)
    assert "any.zip:Train/0/00000.bin: corrupt" in "\n".join(failure(nmnist(root=str(path))))


def test_mutated_recordings_are_refused_or_valid(nmnist, complete, tmp_path):
    root, draws = write(tmp_path / "data", files()), random.Random(1)
    for _ in range(40):
        raw = bytearray(recording(5))
        for _ in range(3):
            raw[draws.randrange(len(raw))] = draws.randrange(256)
        (root / "Train/5/00005.bin").write_bytes(raw[: draws.choice([100, 100, 95, 93])])
        data = nmnist(validation=0.0)
        try:
            data.find()
        except DataError as error:
            assert "00005.bin" in str(error)
            continue
        assert data.load(0, CPU, 3).train.images[5].sum() in (18, 19, 20)


def test_the_cache_is_used_and_follows_the_files(nmnist, complete, tmp_path, monkeypatch):
    root = write(tmp_path / "data", files())
    first = nmnist(validation=0.0).load(0, CPU, 3).train.images
    with monkeypatch.context() as patch:
        patch.setattr(NMNIST, "convert", None)
        assert torch.equal(nmnist(validation=0.0).load(0, CPU, 3).train.images, first)
    (root / "Train/0/00000.bin").write_bytes(recording(1) + recording(2))
    assert nmnist(validation=0.0).load(0, CPU, 3).train.images[0].sum() == 40


def test_a_mapped_set_gives_the_same_batches(nmnist, complete, tmp_path):
    write(tmp_path / "data", files())
    index = [torch.tensor([3, 1])]
    resident, mapped = (
        next(nmnist(resident_limit_mib=limit).load(0, CPU, 5).train.batches(index, None))
        for limit in (100, 0)
    )
    assert torch.equal(resident.float(), mapped)


def test_the_papers_windows_with_merged_polarity_are_a_combination_of_keys(
    nmnist, complete, tmp_path
):
    write(tmp_path / "data", files())
    data = nmnist(merge_polarity=True, binning={"by": "window", "window_ms": 1.0}, validation=0.0)
    frames = data.load(0, CPU, 300).train.images
    assert data.shape == (1, 34, 34)
    assert frames.shape == (20, 300, 1, 34, 34)
    assert frames[0].nonzero()[:, 0].tolist() == list(range(20))


@needs_real
def test_the_real_recordings_are_what_was_measured(nmnist):
    data = nmnist(root=str(REAL), allow_partial=True)
    train, test = data._events("train"), data._events("test")
    lengths = torch.cat([train.offsets.diff(), test.offsets.diff()])
    assert (len(train), len(test)) == (1000, 100)
    assert (int(lengths.min()), int(lengths.max())) == (1069, 7152)
    assert lengths.double().mean().item() == pytest.approx(4133, abs=25)
    assert int(train.time.max()) < 340_000


@needs_real
def test_counts_in_three_saccades_classify_the_real_recordings(nmnist):
    from sklearn.linear_model import LogisticRegression

    data = nmnist(root=str(REAL), allow_partial=True, validation=0.0)
    splits = data.load(0, CPU, 3)
    train, test = (s.images.flatten(1).float().sqrt().numpy() for s in (splits.train, splits.test))
    # Unit variance and a wide limit: 60 iterations are enough, whatever the linear algebra library.
    scale = train.std()
    model = LogisticRegression(C=0.1, max_iter=1000).fit(train / scale, splits.train.labels.numpy())
    assert model.score(test / scale, splits.test.labels.numpy()) >= 0.85


@needs_real
def test_the_real_recordings_are_read_as_tonic_reads_them(nmnist, tmp_path):
    io = pytest.importorskip("tonic.io")
    kind = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])
    with zipfile.ZipFile(REAL) as archive:
        for name in archive.namelist()[1:20]:
            content = archive.read(name)
            (tmp_path / "one.bin").write_bytes(content)
            theirs = io.read_mnist_file(str(tmp_path / "one.bin"), dtype=kind)
            ours = NMNIST.decode(None, content, None, "x")
            for axis in "xytp":
                assert np.array_equal(getattr(ours, axis), theirs[axis])


def cache_file(tmp_path: Path) -> Path:
    folder = tmp_path / "cache" / "snnrun" / "converted"
    return next(
        p
        for p in folder.iterdir()
        if json.loads(p.read_bytes().partition(b"\n")[0])["key"]["split"] == "train"
    )


@pytest.mark.parametrize("damage", ["cut", "flip", "foreign", "text"])
def test_a_damaged_or_foreign_cache_is_made_again_with_a_notice(
    nmnist, complete, tmp_path, caplog, damage
):
    write(tmp_path / "data", files())
    first = nmnist(validation=0.0).load(0, CPU, 3).train.images
    path = cache_file(tmp_path)
    raw = path.read_bytes()
    changed = {
        "cut": raw[:-70],
        "flip": raw[:-70] + bytes([raw[-70] ^ 1]) + raw[-69:],
        "foreign": raw.replace(b'"strict": false', b'"strict": true ', 1),
        "text": b"hello\n",
    }
    path.write_bytes(changed[damage])
    assert torch.equal(nmnist(validation=0.0).load(0, CPU, 3).train.images, first)
    assert "is not usable" in caplog.text
    assert path.read_bytes() == raw


def test_without_a_place_for_the_cache_the_run_goes_on(nmnist, complete, tmp_path, caplog):
    write(tmp_path / "data", files())
    (tmp_path / "file").write_text("in the way")
    nmnist(cache_dir=str(tmp_path / "file")).load(0, CPU, 3)
    assert "not written (" in caplog.text


def test_a_full_disk_leaves_no_part_of_a_cache(nmnist, complete, tmp_path, caplog, monkeypatch):
    write(tmp_path / "data", files())

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    nmnist(cache_dir=str(tmp_path / "here")).load(0, CPU, 3)
    assert "not written (No space left on device); going on without it" in caplog.text
    assert list((tmp_path / "here").iterdir()) == []


def test_sources_are_only_read(nmnist, complete, tmp_path):
    root = write(tmp_path / "data", files())
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    nmnist().load(0, CPU, 4)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
