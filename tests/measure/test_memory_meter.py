import logging
import sys

import pytest
import torch
from torch import nn

from snnrun.measure import memory
from snnrun.measure.memory import MIB, PeakMemory, parameters_mib, saved_for_backward
from snnrun.run import build_net

BATCH, HIDDEN = 5, 7
ONE_STEP = BATCH * HIDDEN * 4  # bytes


@pytest.fixture
def net():
    """Its sigmoid keeps its output, [BATCH, HIDDEN] floats, and the last op keeps the same storage.

    The first op keeps the input, both ops their weights: not counted.
    """
    return nn.Sequential(nn.Linear(3, HIDDEN), nn.Sigmoid(), nn.Linear(HIDDEN, 2))


def at_the_end(net, x):
    sum(net(step).sum() for step in x).backward()


def at_every_step(net, x):
    for step in x:
        net(step).sum().backward()


def peak_bytes(net, x, train):
    with saved_for_backward(net, x) as saved:
        train(net, x)
    assert saved.bytes == 0
    return saved.peak_bytes


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_backward_at_the_end_keeps_every_step(net, steps):
    assert peak_bytes(net, torch.rand(steps, BATCH, 3), at_the_end) == steps * ONE_STEP


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_backward_at_every_step_keeps_one(net, steps):
    assert peak_bytes(net, torch.rand(steps, BATCH, 3), at_every_step) == ONE_STEP


def test_static_input_copied_by_the_method_counts_once_however_often_it_is_seen(net):
    x = torch.rand(BATCH, 3)
    scaled = (2 * x).expand(6, BATCH, 3)
    with saved_for_backward(net, x) as saved:
        at_the_end(net, scaled)
    assert saved.peak_bytes == 6 * ONE_STEP + BATCH * 3 * 4


def test_small_view_is_charged_for_the_storage_it_keeps_alive():
    weight = nn.Parameter(torch.ones(1))
    large = torch.rand(1000)
    with saved_for_backward(nn.Identity(), torch.empty(0)) as saved:
        (weight * large[:1]).sum().backward()
    assert saved.peak_bytes == 1000 * 4


def test_buffers_of_the_net_are_not_counted():
    norm = nn.BatchNorm1d(HIDDEN)
    x = torch.rand(BATCH, HIDDEN)
    # keeps input, weight, running mean and variance; new are the batch's mean and inverse deviation
    assert peak_bytes(norm, x, lambda net, x: net(x).sum().backward()) == 2 * HIDDEN * 4


def test_forward_without_gradient_keeps_nothing(net):
    x = torch.rand(4, BATCH, 3)
    with torch.no_grad(), saved_for_backward(net, x) as saved:
        net(x)
    assert saved.peak_bytes == 0


def test_gradients_are_those_without_the_meter(net):
    x = torch.rand(4, BATCH, 3)
    at_the_end(net, x)
    expected = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    peak_bytes(net, x, at_the_end)
    assert all(torch.equal(p.grad, e) for p, e in zip(net.parameters(), expected, strict=True))


def test_graph_kept_for_a_second_backward_stays_in_the_books(net):
    x = torch.rand(BATCH, 3)
    with saved_for_backward(net, x) as saved:
        loss = net(x).sum()
        loss.backward(retain_graph=True)
        assert saved.bytes == ONE_STEP
        loss.backward()
        assert saved.bytes == 0


def test_what_the_method_keeps_itself_is_added(net):
    x = torch.rand(BATCH, 3)
    with saved_for_backward(net, x) as saved:
        net(x).sum().backward()
    name = "memory/saved_for_backward_mib"
    assert saved.metrics(kept_bytes=60) == {name: (ONE_STEP + 60) / MIB}


def test_parameters_count_once_and_by_their_type(net):
    net = nn.ModuleList([net, net[0], nn.Linear(8, 4, bias=False).double()])
    assert parameters_mib(net) * MIB == 4 * (3 * 7 + 7 + 7 * 2 + 2) + 8 * 32


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
def test_peak_on_the_cpu_sees_memory_that_is_gone_again_and_forgets_it_on_reset():
    peak = PeakMemory(torch.device("cpu"))
    if not peak.available:
        pytest.skip("this kernel has no clear_refs")
    torch.ones(64 * MIB // 4).sum()
    during = peak.metrics("train")["memory/train_peak_mib"]
    peak.reset()
    after = peak.metrics("inference")["memory/inference_peak_mib"]
    # the kernel batches its page counters and other threads live here, hence the tolerance
    assert 60 < during < 96
    assert after < 32


def test_peak_is_left_out_where_the_kernel_does_not_tell_and_said_once(
    monkeypatch, tmp_path, caplog
):
    monkeypatch.setattr(memory, "PROC", tmp_path / "nowhere")
    with caplog.at_level(logging.WARNING):
        peak = PeakMemory(torch.device("cpu"))
        peak.reset()
        assert peak.metrics("train") == peak.metrics("inference") == {}
    assert len(caplog.records) == 1


def test_peak_is_left_out_on_a_device_without_counter(caplog):
    assert PeakMemory(torch.device("meta")).metrics("train") == {}
    assert "no peak counter for meta" in caplog.text


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_peak_on_cuda_is_that_of_the_allocator():
    device = torch.device("cuda")
    peak = PeakMemory(device)
    before = torch.cuda.memory_allocated(device)
    torch.ones(64 * MIB // 4, device=device)
    peak_mib = peak.metrics("train")["memory/train_peak_mib"]
    assert peak_mib * MIB == before + 64 * MIB


def test_a_sequence_that_would_pass_in_chunks_counts_as_a_whole(specified):
    wide = ("dataset=synthetic", "model.hidden=[2048]", "model.norm=none", "method=bptt")
    net, _ = build_net(specified(*wide, "method.timesteps=16"), torch.device("cpu"))
    x = torch.rand(16, 128, 1, 8, 8)
    counted = []
    for net.in_chunks in (False, True):
        with saved_for_backward(net, x) as saved:
            net(x).sum().backward()
        counted.append(saved.peak_bytes)
    assert counted[0] == counted[1]
