import pytest
import torch
from torch import nn

from snnrun.measure import latency
from snnrun.measure.latency import DecisionMeter, StepTimer, inference_ms

CPU = torch.device("cpu")


class Clock:
    """A clock that only moves when told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(latency, "perf_counter", clock)
    return clock


def arriving(clock, seconds):
    for second in seconds:
        clock.now += second
        yield second


def train(timer, clock, work, wait, aside=0.0):
    for w, _ in zip(work, timer.waiting(arriving(clock, wait)), strict=False):
        with timer.step():
            clock.now += w
        clock.now += aside


def test_percentiles_of_the_steps_after_warm_up(clock):
    timer = StepTimer(CPU)
    warm_up = [100.0] * latency.WARMUP_STEPS
    work = [*warm_up, *(n / 1000 for n in range(1, 102))]  # 1 .. 101 ms: the median is 51, p95 96
    train(timer, clock, work, [0.0] * len(work))
    metrics = timer.metrics()
    assert metrics["latency/train_step_ms_p50"] == pytest.approx(51)
    assert metrics["latency/train_step_ms_p95"] == pytest.approx(96)


def test_wait_fraction_leaves_out_warm_up_and_what_happens_besides(clock):
    timer = StepTimer(CPU)
    steps = 4
    work = [9.0] * latency.WARMUP_STEPS + [3.0] * steps
    wait = [50.0] * latency.WARMUP_STEPS + [1.0] * steps
    train(timer, clock, work, wait, aside=70.0)
    assert timer.metrics()["data/wait_fraction"] == pytest.approx(0.25)


def test_nothing_is_reported_before_the_warm_up_is_over(clock):
    timer = StepTimer(CPU)
    train(timer, clock, [1.0] * latency.WARMUP_STEPS, [1.0] * latency.WARMUP_STEPS)
    assert timer.metrics() == {}


def test_percentiles_look_back_over_a_bounded_window(clock):
    timer = StepTimer(CPU)
    work = [7.0] * 500 + [0.002] * latency.WINDOW
    train(timer, clock, work, [0.0] * len(work))
    assert len(timer.recent) == latency.WINDOW
    assert timer.metrics()["latency/train_step_ms_p95"] == pytest.approx(2)


def test_step_that_raises_is_not_timed(clock):
    timer = StepTimer(CPU)
    with pytest.raises(RuntimeError), timer.step():
        raise RuntimeError
    assert timer.steps == 0


def test_every_batch_is_passed_on_in_order(clock):
    assert list(StepTimer(CPU).waiting(iter([3, 1, 2]))) == [3, 1, 2]


def test_inference_time_is_the_median_after_warm_up_by_sample(clock):
    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.seconds = iter([90.0, 90.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 70.0])

        def forward(self, x):
            assert not self.training and not torch.is_grad_enabled()
            clock.now += next(self.seconds)
            return x

    net = Slow().train()
    assert inference_ms(net, torch.zeros(3, 8, 2)) == pytest.approx(4000 / 8)
    assert net.training


def test_decision_steps_are_averaged_over_samples_not_batches():
    meter = DecisionMeter(lambda outputs: outputs[0, :, 0])  # the answers are the steps themselves
    for steps in ([1.0, 2.0, 3.0], [6.0]):
        meter.add(torch.tensor(steps)[None, :, None])
    assert meter.metrics() == {"latency/decision_steps": 3.0}


def test_decision_steps_are_left_out_without_a_batch():
    assert DecisionMeter(lambda outputs: outputs).metrics() == {}
