"""DVS Gesture in both cuts and CIFAR10-DVS, from files in their real formats."""

import random
import struct
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from snnrun.data.aedat import aedat2, aedat3
from snnrun.data.cifar10_dvs import CIFAR10DVS, CLASSES
from snnrun.data.dvs_gesture import gestures
from snnrun.errors import DataError

CPU = torch.device("cpu")
Event = tuple[int, int, int, int]  # x, y, us, polarity


def as_aedat2(events: list[Event]) -> bytes:
    words = [(1 - p | (127 - x) << 1 | y << 8, t) for x, y, t, p in events]
    body = b"".join(struct.pack(">II", address, t) for address, t in words)
    return b"#!AER-DAT2.0\r\n# made by a test\r\n" + body


def as_aedat3(events: list[Event], packet: int = 3, overflow: int = 0) -> bytes:
    parts = [b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n"]
    special = struct.pack("<HHIIIIII", 0, 1, 8, 4, 0, 1, 1, 1) + bytes(8)
    parts.append(special)
    for at in range(0, len(events), packet):
        some = events[at : at + packet]
        n = len(some)
        parts.append(struct.pack("<HHIIIIII", 1, 1, 8, 4, overflow, n, n, n))
        parts += [struct.pack("<II", x << 17 | y << 2 | p << 1 | 1, t) for x, y, t, p in some]
    return b"".join(parts)


def events_of(raw) -> list[Event]:
    return list(zip(*(column.tolist() for column in raw), strict=True))


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SNNRUN_DATA", raising=False)


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def failure(data) -> str:
    with pytest.raises(DataError) as caught:
        data.find()
    return str(caught.value)


def test_aedat2_is_mirrored_and_counts_from_the_first_event():
    events = [(0, 127, 1000, 1), (127, 0, 1007, 0), (3, 90, 1007, 1)]
    expected = [(x, y, t - 1000, p) for x, y, t, p in events]
    assert events_of(aedat2(as_aedat2(events), "x")) == expected


def test_aedat3_packets_are_joined_and_other_kinds_left_out():
    events = [(127, 0, 5, 1), (0, 127, 6, 0), (3, 4, 7, 1), (9, 9, 8, 0)]
    assert events_of(aedat3(as_aedat3(events), "x")) == events
    late = aedat3(as_aedat3(events, overflow=1), "x")
    assert late.t.tolist() == [t + 2**31 for *_, t, _ in events]


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (aedat2, b"", "starts with 'an empty file', expected '#!AER-DAT2.0'"),
        (aedat2, as_aedat3([(0, 0, 0, 0)]), "starts with '#!AER-DAT3.1', expected '#!AER-DAT2.0'"),
        (aedat2, as_aedat2([(0, 0, 0, 0)])[:-3], "5 bytes of events, not a whole number of 8-byte"),
        (aedat2, b"#!AER-DAT2.0", "header cut off; truncated?"),
        (aedat3, as_aedat3([(0, 0, 0, 0)])[:-3], "packet of 1 events cut off at byte"),
        (aedat3, as_aedat3([]) + b"123", "packet header cut off at byte"),
    ],
)
def test_damaged_headers_and_packets_are_named(read, content, message):
    with pytest.raises(DataError, match=r"where") as caught:
        read(content, "where")
    assert message in str(caught.value)


@pytest.mark.parametrize(("read", "write"), [(aedat2, as_aedat2), (aedat3, as_aedat3)])
def test_mutated_recordings_are_refused_or_decoded(read, write):
    draws = random.Random(3)
    whole = write([(i, i, 10 * i, i % 2) for i in range(20)])
    for _ in range(300):
        raw = bytearray(whole)
        for _ in range(3):
            raw[draws.randrange(len(raw))] = draws.randrange(256)
        try:
            decoded = read(bytes(raw[: draws.choice([len(raw), draws.randrange(len(raw))])]), "x")
        except DataError:
            continue
        assert len({len(column) for column in decoded}) == 1


@pytest.fixture
def cifar10_dvs(dataset, tmp_path, monkeypatch):
    """Two recordings of each class on either side of the border between the splits."""
    monkeypatch.setattr(CIFAR10DVS, "published", {"train": 20, "test": 20})
    for label, name in enumerate(CLASSES):
        for i in (2, 10, 900, 901):
            events = [(label, i % 128, 5000 + 10 * k, 1) for k in range(i % 7 + 1)]
            put(tmp_path / f"data/{name}/cifar10_{name}_{i}.aedat", as_aedat2(events))
    root = str(tmp_path / "data")
    return lambda **changes: dataset("cifar10_dvs", **({"root": root, "validation": 0.0} | changes))


def test_cifar10_dvs_is_split_by_number_not_by_order_of_files(cifar10_dvs):
    data = cifar10_dvs()
    splits = data.load(0, CPU, 2)
    assert data.shape == (2, 128, 128)
    assert splits.train.labels.tolist() == [*range(10), *range(10)]
    lengths = splits.train.images.flatten(1).sum(1).tolist()
    assert lengths == [3] * 10 + [4] * 10  # 2 % 7 + 1 before 10 % 7 + 1
    assert splits.test.images.flatten(1).sum(1).tolist() == [5] * 10 + [6] * 10
    assert splits.train.images[7, :, 1, 2, 7].sum() == 3


def test_cifar10_dvs_scales_down_without_losing_events(cifar10_dvs):
    train = cifar10_dvs(size=[48, 48]).load(0, CPU, 2).train
    assert train.images.shape == (20, 2, 2, 48, 48)
    assert train.images.flatten(1).sum(1).tolist() == [3] * 10 + [4] * 10


def test_cifar10_dvs_is_read_from_its_ten_archives(cifar10_dvs, tmp_path):
    expected = cifar10_dvs().load(0, CPU, 2).train.images
    root = tmp_path / "zips"
    root.mkdir()
    for name in CLASSES:
        with zipfile.ZipFile(root / f"{name}.zip", "w") as archive:
            for path in (tmp_path / "data" / name).iterdir():
                archive.write(path, f"{name}/{path.name}")
    assert torch.equal(cifar10_dvs(root=str(root)).load(0, CPU, 2).train.images, expected)


def test_cifar10_dvs_names_unknown_classes_and_missing_recordings(cifar10_dvs, tmp_path):
    put(tmp_path / "data/zebra/cifar10_zebra_1.aedat", as_aedat2([]))
    assert "cifar10_dvs: unexpected folder 'zebra', classes are airplane" in failure(cifar10_dvs())
    (tmp_path / "data/zebra/cifar10_zebra_1.aedat").unlink()
    (tmp_path / "data/frog/cifar10_frog_2.aedat").unlink()
    assert failure(cifar10_dvs()).startswith("cifar10_dvs/train: 19 of 20 recordings; fix: ")


def test_cifar10_dvs_cannot_be_downloaded_and_says_how_it_can_be_had(dataset, tmp_path):
    message = failure(dataset("cifar10_dvs", root=str(tmp_path / "none"), download=True))
    assert message.startswith("cifar10_dvs: download failed: its host admits only browsers; fix: ")
    assert "airplane.zip from https://figshare.com/" in message
    assert not (tmp_path / "none").exists()


def test_aedat4_needs_its_extra(cifar10_dvs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "aedat", None)
    put(tmp_path / "data/frog/cifar10_frog_2.aedat4", b"x")
    assert "AEDAT4 needs 'aedat'; fix: pip install 'snnrun[aedat]'" in failure(cifar10_dvs())


def test_aedat4_packets_are_joined(monkeypatch):
    from snnrun.data.aedat import aedat4

    kind = [("t", "<u8"), ("x", "<u2"), ("y", "<u2"), ("on", "?")]
    packets = [{"events": np.array([(10**12 + k, k, 2, k == 1)], kind)} for k in range(2)]
    decoder = SimpleNamespace(Decoder=lambda path: [{"frame": 0}, *packets])
    monkeypatch.setitem(sys.modules, "aedat", decoder)
    assert events_of(aedat4("file", "x")) == [(0, 2, 0, 0), (1, 2, 1, 1)]


def npy(path: Path, events: list[Event], kind: str = "int16") -> None:
    """Events with times in ms."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array([(x, y, p, t) for x, y, t, p in events], kind))


@pytest.fixture
def gesture(dataset, tmp_path):
    root = str(tmp_path)
    return lambda **changes: dataset("dvs_gesture", **({"root": root, "validation": 0.0} | changes))


@pytest.mark.parametrize("kind", ["int16", "uint32", "int64"])
def test_cut_gestures_are_read_in_order_and_milliseconds_do_not_overflow(gesture, tmp_path, kind):
    events = [(1, 2, 7 + 100 * k, 1) for k in range(60)]
    for user, folder in (("user10_led", "Train"), ("user02_lab", "Train"), ("user24_led", "Test")):
        for label in (10, 2):
            npy(tmp_path / f"ibmGesture{folder}/{user}/{label}.npy", events[: label + 1], kind)
    npy(tmp_path / "ibmGestureTest/user24_led/0.npy", events, kind)
    data = gesture()
    whole = data._events("test")
    assert whole.labels.tolist() == [0, 2, 10]
    assert whole.time[:60].tolist() == [100_000 * k for k in range(60)]
    train = data.load(0, CPU, 2).train
    assert train.labels.tolist() == [2, 10, 2, 10]
    assert train.images[:, :, 1, 2, 1].tolist() == [[1, 2], [5, 6], [1, 2], [5, 6]]


def test_whole_recordings_are_cut_by_their_labels(gesture, tmp_path):
    events = [(k, k, 1000 * k, 1) for k in range(10)]
    for user in ("user01_led", "user29_led"):
        put(tmp_path / f"{user}.aedat", as_aedat3(events))
        put(tmp_path / f"{user}_labels.csv", "class,start,end\n11,1000,4000\n1,6000,99000\n")
    splits = gesture(binning={"duration_ms": 10.0, "by": "time"}).load(0, CPU, 1)
    assert splits.train.labels.tolist() == [10, 0]
    rows = [sorted({y for *_, y, _ in image.nonzero().tolist()}) for image in splits.train.images]
    assert rows == [[1, 2, 3], [6, 7, 8, 9]]
    assert len(splits.test) == 2


def test_a_gesture_ends_where_the_next_one_starts():
    assert gestures("c,s,e\n10,50,90\n9,10,70\n", "x") == [(8, 10, 50), (9, 50, 90)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ibmGestureTrain/user01_led/0.npy", b"junk", "not readable as .npy"),
        ("ibmGestureTrain/user01_led/x.npy", b"", "unexpected file 'x.npy', classes are files 0"),
        ("ibmGestureTrain/zebra/0.npy", b"", "unexpected name 'zebra', recordings are named user"),
        ("user01_led.aedat", as_aedat3([(0, 0, 0, 0)]), "user01_led_labels.csv cannot be read"),
    ],
)
def test_damaged_gestures_are_named(gesture, tmp_path, name, content, message):
    npy(tmp_path / "ibmGestureTest/user24_led/0.npy", [(0, 0, 0, 0)])
    put(tmp_path / name, content)
    assert message in failure(gesture())


def test_arrays_of_other_shapes_are_refused(gesture, tmp_path):
    for array in (np.zeros((3, 5), int), np.zeros((3, 4))):
        for folder, user in (("Train", "user01_led"), ("Test", "user24_led")):
            path = tmp_path / f"ibmGesture{folder}/{user}/0.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array)
        found = f"{array.dtype} of shape {array.shape}, expected integers (N, 4)"
        assert found in failure(gesture())


def test_wrong_lines_of_labels_are_named(gesture, tmp_path):
    for user in ("user01_led", "user29_led"):
        put(tmp_path / f"{user}.aedat", as_aedat3([(0, 0, 5, 0)]))
        put(tmp_path / f"{user}_labels.csv", "class,start,end\n1,0,9\n2,soon,later\n")
    assert "user01_led_labels.csv: line 3 is '2,soon,later', expected class,start,end" in failure(
        gesture()
    )
