"""Checked events, binning and the store made of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snnrun.data.binning import Binning, frames
from snnrun.data.binning_cpu import frames_cpu
from snnrun.data.event_dataset import frame_cells
from snnrun.data.event_store import EventStore
from snnrun.data.events import Collector, Events, Raw
from snnrun.data.store import Store
from snnrun.errors import ConfigError, DataError

SENSOR = (2, 5, 7)
CPU = torch.device("cpu")


def raw(*events: tuple[int, int, int, int]) -> Raw:
    """Events as (x, y, t, p)."""
    return Raw(*np.array(events, dtype=np.int64).reshape(-1, 4).T)


def collect(*recordings: Raw, strict: bool = False) -> Events:
    collector = Collector(SENSOR, strict=strict, where="set/train")
    for i, recording in enumerate(recordings):
        collector.add(recording, i % 3, f"file{i}")
    return collector.joined()


def binning(**changes) -> Binning:
    values = {"by": "time", "duration_ms": None, "window_ms": 1.0, "rounding": "floor"}
    return Binning(**(values | {"compat": "none"} | changes))


def store(events: Events, how: Binning, timesteps: int, **changes) -> EventStore:
    shape = changes.pop("shape", SENSOR)
    values = {
        "index": torch.arange(len(events)), "labels": events.labels, "values": "count",
        "limit_bytes": 0, "peak": 1, "mean": torch.zeros(shape[0]), "std": torch.ones(shape[0]),
    }  # fmt: skip
    return EventStore(
        events=events, cells=frame_cells(SENSOR, shape), shape=shape, binning=how,
        timesteps=timesteps, **(values | changes),
    )  # fmt: skip


def framed(recording: Raw, how: Binning, timesteps: int = 4, **changes) -> torch.Tensor:
    """Frames [T,P,H,W] of one recording; an empty one needs company to pass for a rarity."""
    company = [] if len(recording.t) else [raw((0, 0, 0, 0))] * 100
    events = collect(recording, *company)
    return store(events, how, timesteps, **changes).take(torch.tensor([0]))[0]


event = st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(0, 900_000), st.integers(0, 1))
recordings = st.lists(event, max_size=40).map(lambda events: raw(*events))
KEEPING = [
    binning(), binning(duration_ms=300.0), binning(by="window", window_ms=1e3),
    binning(by="count"), binning(by="count", compat="spikingjelly"), binning(compat="spikingjelly"),
]  # fmt: skip
EVERY = [
    *KEEPING,
    binning(compat="tonic"),
    binning(by="count", compat="tonic"),
    binning(by="window"),
]


@settings(deadline=None)
@given(recording=recordings, how=st.sampled_from(KEEPING), timesteps=st.integers(1, 12))
def test_every_event_counts_once(recording, how, timesteps):
    assert framed(recording, how, timesteps).sum() == len(recording.t)


@settings(deadline=None)
@given(recording=recordings, how=st.sampled_from(EVERY), timesteps=st.integers(1, 12))
def test_shape_and_type_never_change_and_no_event_counts_twice(recording, how, timesteps):
    result = framed(recording, how, timesteps)
    assert result.shape == (timesteps, *SENSOR)
    assert result.dtype == torch.float32
    assert result.sum() <= len(recording.t)


@settings(deadline=None)
@given(recording=recordings, how=st.sampled_from(EVERY), seed=st.integers(0, 9))
def test_frames_do_not_depend_on_the_order_of_events(recording, how, seed):
    order = np.random.default_rng(seed).permutation(len(recording.t))
    shuffled = Raw(*(column[order] for column in recording))
    assert torch.equal(framed(recording, how), framed(shuffled, how))


@settings(deadline=None)
@given(parts=st.lists(recordings, min_size=1, max_size=5), how=st.sampled_from(EVERY))
def test_a_recording_gives_the_same_frames_in_any_company(parts, how):
    empty = sum(not len(recording.t) for recording in parts)
    events = collect(*parts, *[raw((0, 0, 0, 0))] * (100 * empty))
    together = store(events, how, 4).take(torch.arange(len(parts)))
    for alone, recording in zip(together, parts, strict=True):
        assert torch.equal(alone, framed(recording, how))


def tonic_frames(recording: Raw, **how) -> torch.Tensor:
    tonic = pytest.importorskip("tonic.functional")
    order = np.argsort(recording.t, kind="stable")
    kind = [("x", int), ("y", int), ("t", int), ("p", int)]
    events = np.array(list(zip(*(c[order] for c in recording), strict=True)), dtype=kind)
    result = tonic.to_frame_numpy(events, SENSOR[::-1], **how)
    return torch.from_numpy(result.astype(np.float32))


several = st.lists(event, min_size=2, max_size=40, unique_by=lambda e: e[2]).map(lambda e: raw(*e))


@settings(deadline=None)
@given(recording=several, timesteps=st.integers(1, 8))
def test_time_bins_agree_with_tonic_in_its_mode(recording, timesteps):
    theirs = tonic_frames(recording, n_time_bins=timesteps)
    assert torch.equal(framed(recording, binning(compat="tonic"), timesteps), theirs)


@settings(deadline=None)
@given(recording=several, timesteps=st.integers(1, 8))
def test_event_bins_agree_with_tonic_in_its_mode(recording, timesteps):
    if len(recording.t) < timesteps:
        return  # tonic divides by zero
    theirs = tonic_frames(recording, n_event_bins=timesteps)
    ours = framed(recording, binning(by="count", compat="tonic"), timesteps)
    assert torch.equal(ours, theirs)
    kept = theirs.sum()
    if kept == len(recording.t):  # where tonic drops nothing, ours needs no mode
        assert torch.equal(framed(recording, binning(by="count"), timesteps), theirs)


@settings(deadline=None)
@given(recording=several)
def test_windows_agree_with_tonic_from_time_zero(recording):
    theirs = tonic_frames(recording, time_window=100_000, start_time=0, end_time=1_000_000)
    ours = framed(recording, binning(by="window", window_ms=100.0), 10)
    assert torch.equal(ours[: len(theirs)], theirs)


def steps(times: list[int], how: Binning, timesteps: int) -> list[int]:
    return how.steps(torch.tensor(times), torch.tensor([len(times)]), timesteps).tolist()


@pytest.mark.parametrize(
    ("how", "times", "expected"),
    [
        (binning(duration_ms=0.4), [0, 99, 100, 399, 400, 9000], [0, 0, 1, 3, 3, 3]),
        (binning(), [100, 199, 200, 499, 500], [0, 0, 1, 3, 3]),
        (binning(), [77], [0]),
        (binning(by="count"), [0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 1, 1, 2, 2, 3, 3, 3]),
        (binning(by="count"), [0, 1], [0, 1]),
        (binning(by="window", window_ms=0.1), [0, 99, 100, 399, 400], [0, 0, 1, 3, 4]),
        (binning(by="window", window_ms=0.1, rounding="round"), [49, 51, 149, 351], [0, 1, 1, 4]),
        (binning(compat="tonic"), [100, 199, 200, 499, 500], [0, 0, 1, 3, 4]),
        (binning(compat="tonic"), [0, 1, 2], [4, 4, 4]),
        (binning(compat="spikingjelly"), [100, 199, 200, 499, 500], [0, 0, 1, 3, 3]),
        (binning(compat="spikingjelly"), [0, 1, 2], [3, 3, 3]),
        (binning(by="count", compat="tonic"), [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
    ],
)
def test_borders_between_steps(how, times, expected):
    assert steps(times, how, 4) == expected


def test_long_times_are_exact():
    step = 2**31 // 1000
    times = [k * step for k in range(1000)] + [k * step - 1 for k in range(1, 1000)]
    how = binning(duration_ms=step * 1000 / 1e3)
    assert steps(sorted(times), how, 1000) == sorted([*range(1000), *range(999)])


def test_counts_binary_and_largest_of_frame():
    recording = raw((1, 0, 0, 0), (1, 0, 1, 0), (2, 0, 2, 1), (3, 3, 1000, 0))
    how = binning(duration_ms=2.0)
    cells = ([0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 3], [1, 1, 2, 3])
    at = (cells[0], cells[1], cells[2], cells[3])
    assert framed(recording, how, 2)[at].tolist() == [2, 2, 1, 1]
    assert framed(recording, how, 2, values="binary")[at].tolist() == [1, 1, 1, 1]


def test_values_by_the_largest_of_each_frame():
    recording = raw((1, 0, 0, 0), (1, 0, 1, 0), (2, 0, 2, 1), (3, 3, 1000, 0))
    result = framed(recording, binning(duration_ms=2.0), 2, values="max")
    assert result[0, 0, 0, 1] == 1
    assert result[0].sum() == 1 + 1 / 2 or result[0, 1, 0, 2] == 1
    assert result.max() == 1


def test_sizes_are_scaled_down_and_polarities_added():
    cells = frame_cells((2, 4, 6), (1, 2, 3))
    x, y = 5, 2
    assert cells[y * 6 + x] == cells[24 + y * 6 + x] == 1 * 3 + 2
    assert cells.bincount().tolist() == [8] * 6
    assert torch.equal(frame_cells(SENSOR, SENSOR), torch.arange(2 * 5 * 7))


def test_resident_bytes_resident_events_and_mapped_events_give_the_same():
    draws = np.random.default_rng(0)
    parts = [
        raw(*zip(*(draws.integers(0, n, 60) for n in (7, 5, 999, 2)), strict=True))
        for _ in range(9)
    ]
    events = collect(*parts)
    index = torch.tensor([1, 8, 3])
    kept = [
        store(events, binning(), 40, limit_bytes=limit).select(index, CPU)
        for limit in (10**6, 4000, 0)
    ]
    assert [type(part) for part in kept] == [Store, EventStore, EventStore]
    results = [next(part.batches([torch.tensor([2, 0])], None)).float() for part in kept]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert [part.labels.tolist() for part in kept] == [[1, 2, 0]] * 3


@settings(deadline=None)
@given(
    parts=st.lists(recordings, min_size=1, max_size=12),
    how=st.sampled_from(EVERY),
    timesteps=st.integers(1, 12),
    threads=st.integers(1, 3),
)
def test_the_compiled_form_counts_as_the_general_one(parts, how, timesteps, threads):
    empty = sum(not len(recording.t) for recording in parts)
    events = collect(*parts, *[raw((0, 0, 0, 0))] * (100 * empty))
    chosen = torch.arange(len(parts)).flip(0)
    cells = frame_cells(SENSOR, (1, 3, 4))
    address, time, lengths = events.part(chosen.tolist())
    steps = how.steps(time, lengths, timesteps)
    general = frames(cells[address.int()], steps, lengths, cells=12, timesteps=timesteps)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = frames_cpu(events, chosen, how, cells=cells, size=12, timesteps=timesteps)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(ours, general)


def test_counts_that_no_byte_holds_are_not_cut():
    events = collect(raw(*[(0, 0, t, 0) for t in range(300)]))
    part = store(events, binning(), 1, limit_bytes=10**6).select(torch.tensor([0]), CPU)
    assert next(part.batches([torch.tensor([0])], None)).sum() == 300


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([(1, 1, 5, 0), (9, 0, 6, 0)], "set/train: file0: x=9 at event 1, sensor is 7 wide"),
        ([(-1, 1, 5, 0)], "file0: x=-1 at event 0, sensor is 7 wide"),
        ([(1, 5, 5, 0)], "file0: y=5 at event 0, sensor is 5 high"),
        ([(1, 1, 5, 2), (1, 1, 6, 0)], "file0: polarities 0, 2; accepted: 0 and 1, or -1 and 1"),
        ([(1, 1, -5, 0)], "file0: time -5 us at event 0"),
        ([(1, 1, 2**31, 0)], "file0: time 2147483648 us at event 0"),
        (
            [(1, 1, 8_388_607, 0), (1, 1, 7, 0)],
            "file0: time goes back by 8388 ms at event 1: counter wrap?",
        ),
    ],
)
def test_events_that_cannot_be_are_named(events, message):
    with pytest.raises(DataError) as caught:
        collect(raw(*events))
    assert message in str(caught.value)


def test_signed_polarity_unsorted_times_and_empty_recordings_are_noted():
    signed = raw((0, 0, 1, -1), (0, 0, 2, 1))
    unsorted = raw((0, 0, 5, 0), (0, 0, 2, 1))
    good = raw((0, 0, 1, 0), (0, 0, 2, 1))
    events = collect(signed, unsorted, raw(), *[good] * 117)
    assert events.notes == [
        "set/train: 1 of 120 recordings with polarities -1 and 1, taken as 0 and 1",
        "set/train: 1 of 120 recordings with unsorted times, sorted",
        "set/train: 1 of 120 recordings without events",
    ]
    assert events.time[:4].tolist() == [1, 2, 2, 5]
    assert events.address[:4].tolist() == [0, 35, 35, 0]


def test_more_than_a_hundredth_empty_is_an_error():
    with pytest.raises(DataError, match="set/train: 2 of 3 recordings are empty"):
        collect(raw(), raw(), raw((0, 0, 0, 0)))


def test_strict_refuses_unsorted_times():
    with pytest.raises(DataError, match="unsorted: event 1 is earlier than the one before"):
        collect(raw((0, 0, 5, 0), (0, 0, 2, 1)), strict=True)


def test_narrow_types_do_not_overflow():
    events = [(np.uint8, 6), (np.uint8, 4), (np.uint32, 2_000_000), (np.uint8, 1)]
    one = Raw(*(np.array([value], kind) for kind, value in events))
    assert collect(one).address.tolist() == [35 + 4 * 7 + 6]


def test_frames_count_by_hand():
    result = frames(
        torch.tensor([0, 2, 2, 1]), torch.tensor([0, 1, 1, 2]), torch.tensor([3, 1]),
        cells=3, timesteps=2,
    )  # fmt: skip
    assert result.tolist() == [[[1, 0, 0], [0, 0, 0]], [[0, 0, 2], [0, 0, 0]]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"by": "space"}, "binning.by: 'space' is not one of time, count, window"),
        ({"compat": "norse"}, "binning.compat: 'norse' is not one of none, tonic"),
        ({"window_ms": 0.0}, "binning.window_ms: 0.0 is not above 0"),
        ({"duration_ms": -1.0}, "binning.duration_ms: -1.0 is not above 0"),
        ({"by": "window", "compat": "tonic"}, "binning.compat: tonic goes with binning.by=time"),
    ],
)
def test_wrong_values_are_named(changes, message):
    with pytest.raises(ConfigError) as caught:
        binning(**changes)
    assert message in str(caught.value)
