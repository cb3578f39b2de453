"""Memory and random numbers of devices."""

import pytest
import torch

from sktl.utils._devices import (
    in_parts,
    is_out_of_memory,
    numbered,
    private_randomness,
    seed_generators,
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("anything"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    ],
)
def test_work_is_halved_until_it_fits(error):
    asked = []

    def run(x):
        asked.append(len(x))
        if len(x) > 3:
            raise error
        return 2 * x

    x = torch.arange(10.0)
    assert torch.equal(in_parts(run, x), 2 * x)
    assert asked == [10, 5, 3, 3, 3, 1]
    assert is_out_of_memory(error)


def test_other_errors_and_single_rows_are_not_halved():
    def broken(x):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        in_parts(broken, torch.zeros(4))

    def full(x):
        raise torch.OutOfMemoryError("no room for one")

    with pytest.raises(torch.OutOfMemoryError, match="no room for one"):
        in_parts(full, torch.zeros(4))


def test_a_gpu_without_a_number_is_the_current_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert numbered(torch.device("cuda")) == torch.device("cuda:1")
    assert numbered(torch.device("cuda:0")) == torch.device("cuda:0")
    assert numbered(torch.device("cpu")) == torch.device("cpu")


def test_generators_are_put_back():
    before = torch.get_rng_state()
    with private_randomness(torch.device("cpu")):
        seed_generators(3, torch.device("cpu"))
        drawn = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    expected = torch.rand(2, generator=torch.Generator().manual_seed(3))
    assert torch.equal(drawn, expected)
