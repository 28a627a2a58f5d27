"""Which device a run computes on."""

import pytest
import torch

from snnrun.errors import ConfigError

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}


@pytest.fixture
def machine(monkeypatch):
    """Pretend to have so many CUDA devices, and an environment."""

    def pretend(devices, **environment):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
        for key, value in environment.items():
            monkeypatch.setenv(key, value)

    return pretend


def test_a_run_by_itself_takes_the_first_device(machine, specified):
    machine(2)
    assert specified("hardware=auto").hardware.torch_device() == torch.device("cuda", 0)
    machine(0)
    assert specified("hardware=auto").hardware.torch_device() == torch.device("cpu")


@pytest.mark.parametrize(("job", "index"), [("0", 0), ("1", 1), ("2", 0), ("5", 1)])
def test_jobs_of_a_sweep_take_the_devices_in_turn(machine, specified, job, index):
    machine(2, SNNRUN_JOB=job)
    for hardware in ("auto", "cuda"):
        found = specified(f"hardware={hardware}").hardware.torch_device()
        assert found == torch.device("cuda", index)
    named = specified("hardware=cuda", "hardware.device=cuda:0").hardware.torch_device()
    assert named == torch.device("cuda", 0)


def test_processes_of_a_run_have_a_device_each(machine, specified):
    machine(2, **TORCHRUN)
    assert specified("hardware=ddp").hardware.torch_device() == torch.device("cuda", 1)
    machine(1)
    with pytest.raises(ConfigError, match="process 2 of this machine has no CUDA device, 1 found"):
        specified("hardware=ddp").hardware.torch_device()
    with pytest.raises(ConfigError, match=r"hardware\.device: 'cuda:0' is not one of auto, cpu"):
        specified("hardware=ddp", "hardware.device=cuda:0")
