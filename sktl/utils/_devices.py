"""Devices at work: which of several, their memory, their random numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

__all__ = [
    "empty_cache",
    "generator_states",
    "in_parts",
    "is_out_of_memory",
    "noise",
    "numbered",
    "private_randomness",
    "seed_generators",
]


def numbered(device: torch.device) -> torch.device:
    """The device with its number, for other threads, whose current GPU may be another."""
    is_bare = device.type == "cuda" and ":" not in str(device)
    return torch.device("cuda", torch.cuda.current_device()) if is_bare else device


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device has no room left, which the libraries below PyTorch say in other words."""
    words = ("out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def in_parts(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """``run(x)``, in as many parts as the device has room for.

    Parameters
    ----------
    run : callable
        Takes some rows and gives as many, whatever the others are.
    x : Tensor of shape (n, ...)

    Returns
    -------
    y : Tensor of shape (n, ...)
    """
    n = len(x)
    while True:
        try:
            return torch.cat([run(part) for part in torch.split(x, n)])
        except RuntimeError as error:
            if n == 1 or not is_out_of_memory(error):
                raise
        # Only here, behind the error, is what the attempt had in memory let go of.
        empty_cache(x.device)
        n = -(-n // 2)


def empty_cache(device: torch.device) -> None:
    """Give memory that is free back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def noise(n: int, size: int, *, seed: int = 0) -> torch.Tensor:
    """(n, 3, size, size) numbers from 0 to 1, on the CPU, the same in every run."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((n, 3, size, size), generator=generator, device="cpu")


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of one device; those of others are left alone."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def generator_states(device: torch.device) -> list[torch.Tensor]:
    """Of torch's generators of the CPU and of a device."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    if device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return states


@contextlib.contextmanager
def private_randomness(device: torch.device) -> Iterator[None]:
    """Put the generators of the CPU and of a device back at the end."""
    before = torch.mps.get_rng_state() if device.type == "mps" else None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            if before is not None:
                torch.mps.set_rng_state(before)
