import random
import threading

import numpy as np
import pytest
import torch

from snnrun import checkpoint
from snnrun.errors import UserError

CPU = torch.device("cpu")


def test_state_comes_back_equal(tmp_path):
    state = {"weights": torch.randn(3, 2), "epoch": 4, "best": None, "pending": [(1, {"a": 0.5})]}

    checkpoint.save(tmp_path / "new" / "last.pt", state)

    loaded = checkpoint.load(tmp_path / "new" / "last.pt")
    assert torch.equal(loaded.pop("weights"), state.pop("weights"))
    assert loaded == state


@pytest.mark.parametrize("bad", [{"f": random.Random()}, {"f": threading.Lock()}])
def test_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, bad):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"epoch": 1})

    with pytest.raises(TypeError):
        checkpoint.save(path, bad)

    assert checkpoint.load(path) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_best_survives_later_saves(tmp_path):
    last, best = tmp_path / "last.pt", tmp_path / "best.pt"
    for epoch in (1, 2):
        checkpoint.save(last, {"epoch": epoch})
        checkpoint.keep(last, best)  # the second call replaces a best that exists

    checkpoint.save(last, {"epoch": 3})

    assert checkpoint.load(best) == {"epoch": 2}
    assert sorted(tmp_path.iterdir()) == [best, last]


def test_best_is_copied_where_links_are_refused(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    checkpoint.save(tmp_path / "last.pt", {"epoch": 1})

    checkpoint.keep(tmp_path / "last.pt", tmp_path / "best.pt")

    assert checkpoint.load(tmp_path / "best.pt") == {"epoch": 1}


@pytest.mark.parametrize("kept", [0, 10, 200, -1])
def test_truncated_file_is_one_line(tmp_path, kept):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"weights": torch.randn(100)})
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(UserError, match=r"truncated.*delete it") as caught:
        checkpoint.load(path)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_foreign_files_are_refused_and_not_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("executed").touch, ())

    torch.save({"x": Bomb()}, tmp_path / "bomb.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("hello")

    for name in ("bomb.pt", "list.pt", "text.pt"):
        with pytest.raises(UserError, match="not written by snnrun"):
            checkpoint.load(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        checkpoint.load(tmp_path / "none.pt")
    assert not (tmp_path / "executed").exists()


def test_full_disk_leaves_the_old_file_and_is_one_line(tmp_path):
    resource = pytest.importorskip("resource")
    checkpoint.save(tmp_path / "last.pt", {"epoch": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"last\.pt cannot be written"):
            checkpoint.save(tmp_path / "last.pt", {"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert checkpoint.load(tmp_path / "last.pt") == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(UserError, match=r"file.last\.pt cannot be written"):
        checkpoint.save(tmp_path / "file" / "last.pt", {})


def test_generators_go_on_where_they_were(tmp_path):
    def draw():
        numbers = [random.random(), np.random.rand(), random.gauss(0, 1), np.random.randn()]
        return [*numbers, torch.rand(()).item()]

    draw()
    checkpoint.save(tmp_path / "rng.pt", checkpoint.rng_state(CPU))
    expected = draw()

    draw()
    checkpoint.restore_rng(checkpoint.load(tmp_path / "rng.pt"), CPU)

    assert draw() == expected


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_generator_goes_on_where_it_was(tmp_path):
    checkpoint.save(tmp_path / "rng.pt", checkpoint.rng_state(torch.device("cuda")))
    expected = torch.rand(4, device="cuda")

    checkpoint.restore_rng(checkpoint.load(tmp_path / "rng.pt"), torch.device("cuda"))

    assert torch.equal(torch.rand(4, device="cuda"), expected)
