"""Devices by name: found or refused, never changed in silence."""

import pytest
import torch

from sktl.exceptions import ParameterError
from sktl.utils._torch import resolve_device


@pytest.fixture
def cuda(monkeypatch):
    """A machine that says it has this many CUDA devices."""

    def pretend(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


@pytest.fixture
def mps(monkeypatch):
    def pretend(there):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there)

    return pretend


def test_auto_is_cuda_where_it_is(cuda, mps):
    mps(True)
    cuda(0)
    assert resolve_device("auto") == torch.device("cpu")
    cuda(2)
    assert resolve_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_cpu_stays_cpu(cuda, device):
    cuda(1)
    assert resolve_device(device) == torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1", torch.device("cuda", 1)])
def test_cuda_that_is_there(cuda, device):
    cuda(2)
    assert resolve_device(device) == torch.device(device)


@pytest.mark.parametrize(
    ("count", "device"),
    [(0, "cuda"), (0, "cuda:0"), (1, "cuda:1"), (2, torch.device("cuda", 5))],
)
def test_cuda_that_is_not_there(cuda, count, device):
    cuda(count)
    with pytest.raises(ParameterError, match=f"not there: torch sees {count} CUDA") as caught:
        resolve_device(device)
    assert repr(device) in str(caught.value)
    assert 'device="auto"' in str(caught.value)


def test_mps_only_on_request(cuda, mps):
    cuda(0)
    mps(True)
    assert resolve_device("mps") == torch.device("mps")
    mps(False)
    with pytest.raises(ParameterError, match="not there"):
        resolve_device("mps")


@pytest.mark.parametrize(
    "device", ["gpu", "", "cuda:x", "cuda:-1", "CPU", None, True, 3.5, ["cpu"]]
)
def test_no_device(device):
    with pytest.raises(ParameterError, match="device must be") as caught:
        resolve_device(device)
    assert repr(device) in str(caught.value)


@pytest.mark.parametrize("device", ["meta", "hpu", "vulkan", torch.device("meta")])
def test_devices_of_other_types_are_refused(device):
    with pytest.raises(ParameterError, match="must be of type cpu, cuda or mps"):
        resolve_device(device)
