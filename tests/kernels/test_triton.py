"""Triton's kernels compile for CUDA, which takes no device; the interpreter tests their results."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed")
COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from snnrun.kernels.{package} import cuda as module

def build(kernel, pointers, constants):
    numbers = dict.fromkeys(("units", "hop", "above_hop", "steps"), "i32")
    known = pointers | numbers | dict.fromkeys(constants, "constexpr")
    kinds = {{name: known.get(name, "*fp32") for name in kernel.arg_names}}
    source = ASTSource(kernel, kinds, constants)
    compile(source, target=GPUTarget("cuda", 90, 32), options={{"enable_fp_fusion": False}})

{calls}
"""
LISTS = ("index", "start", "spike_index", "spike_start", "active_index", "active_start")
LISTS = {name: "*i32" for name in (*LISTS, "at_index", "at_start")}


def compiled(package: str, *calls: str) -> None:
    code = COMPILE.format(package=package, calls="\n".join(calls))
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


@pytest.mark.parametrize("current", ["*fp32", "*bf16", "*fp64"])
def test_kernels_of_lif_layers(current):
    state = "*fp64" if current == "*fp64" else "*fp32"
    states = dict.fromkeys(("membrane", "constants", "carried", "potentials"), state)
    given = dict.fromkeys(("current", "spikes", "grad_spikes", "grad_current"), current)
    calls = [f"build(module._forward, {states | given}, {{'BLOCK': 512}})"]
    given |= {"sums": "*fp64"}
    for code, total in [(code, False) for code in range(8)] + [(0, True)]:
        flags = {"CUT": code == 5, "SUM": total, "TRAINED": code < 2}
        constants = {"SURROGATE": code, **flags, "BLOCK": 512}
        calls.append(f"build(module._backward, {states | given}, {constants})")
    compiled("lif", *calls)


@pytest.mark.parametrize("synapse", [False, True])
def test_event_driven_kernels(synapse):
    flags = {"DRIVEN": True, "BELOW": True, "SYNAPSE": synapse, "BLOCK": 128}
    compiled(
        "events",
        f"build(module._forward, {LISTS}, {{'SYNAPSE': {synapse}, 'BLOCK': 128}})",
        f"build(module._backward, {LISTS}, {flags})",
    )
