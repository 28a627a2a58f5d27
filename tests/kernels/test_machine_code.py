import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Thread

import numba
import numpy as np
import pytest

from snnrun import kernels
from snnrun.kernels.compiled import machine_code
from snnrun.kernels.compiled.machine_code import compiled

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
    first, again, x = process(), process(), np.zeros(1)
    first(x.copy())  # and stays: it is no module's, where the other would find its environment
    again(x)
    assert x == [1] and again.stats.cache_hits


def test_code_is_not_kept_when_another_file_of_the_kernels_has_changed(
    process, monkeypatch, tmp_path
):
    assert Path(kernels.__file__).parent == machine_code.KERNELS
    called = tmp_path / "called.py"
    monkeypatch.setattr(machine_code, "KERNELS", tmp_path)
    for text, hit in (("ONE = 1", False), ("ONE = 1", True), ("TWO = 1 + 1", False)):
        if not hit:
            called.write_text(text)
        machine_code._stamp.cache_clear()
        function = process()
        function(np.zeros(1))
        assert bool(function.stats.cache_hits) == hit
    machine_code._stamp.cache_clear()


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


# Trained constants and both precisions: code that is put together from other code.
GRADIENTS = """
import hashlib
import torch
from snnrun.kernels.lif.multistep import lif
from snnrun.kernels.lif.parameters import LIFParameters, TrainedParameters
from snnrun.neurons.surrogate import Surrogate

torch.set_num_threads(1)
for name in ("triangle", "sigmoid"):
    for trained in (False, True):
        for dtype in (torch.float32, torch.bfloat16):
            torch.manual_seed(0)
            leak = torch.tensor(0.5, dtype=torch.float64, requires_grad=True) if trained else 0.5
            made = TrainedParameters if trained else LIFParameters
            p = made(
                leak=leak, threshold=1.0, hard=False, rest=0.0, detach_reset=False, delay=0,
                surrogate=Surrogate(name=name, width=2.0), fires_at_threshold=True,
                decay_input=True, leak_reset=True,
            )
            x = torch.randn(6, 40000).to(dtype).requires_grad_()
            spikes, _ = lif(x, None, p)
            spikes.backward(torch.randn(6, 40000).to(dtype))
            grads = [x.grad.float(), leak.grad] if trained else [x.grad.float()]
            print(*(hashlib.sha256(g.numpy().tobytes()).hexdigest() for g in grads))
"""


def test_the_process_that_compiles_and_those_that_load_its_code_compute_the_same_bits(tmp_path):
    found = [
        subprocess.run(
            [sys.executable, "-c", GRADIENTS],
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert found[0] and found[0] == found[1]
