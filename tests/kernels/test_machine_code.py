from importlib.util import module_from_spec, spec_from_file_location
from threading import Thread

import numba
import numpy as np
import pytest

from snnrun.kernels.machine_code import compiled

SOURCE = "def add_one(x):\n    x[0] += 1\n"


@pytest.fixture
def process(tmp_path, monkeypatch):
    """The function as another process compiles it."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    file = tmp_path / "own.py"
    file.write_text(SOURCE)

    def fresh():
        spec = spec_from_file_location("own", file)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return compiled(module.add_one)

    return fresh


def test_what_one_process_has_compiled_another_finds(process):
    process()(np.zeros(1))
    again = process()
    x = np.zeros(1)
    again(x)
    assert x == [1] and again.stats.cache_hits


def test_two_that_keep_code_at_once_take_turns(process):
    one, other = (process()._cache._cache_file for _ in range(2))
    second = Thread(target=other.save, args=("b", "code of b"))
    write = one._save_index

    def meanwhile(index):
        second.start()
        second.join(0.3)  # long enough for it to go ahead
        write(index)

    one._save_index = meanwhile
    one.save("a", "code of a")
    second.join()

    assert (one.load("a"), one.load("b")) == ("code of a", "code of b")


def test_without_a_place_for_it_code_is_compiled_all_the_same(process, monkeypatch, tmp_path):
    (tmp_path / "kept").write_text("no folder")
    monkeypatch.setattr(
        "numba.core.caching.CacheImpl._locator_classes",
        [numba.core.caching.UserProvidedCacheLocator],
    )
    x = np.zeros(1)
    process()(x)
    assert x == [1]
