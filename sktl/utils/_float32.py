"""Float32 in full, whatever the process lets PyTorch save."""

from __future__ import annotations

import contextlib
import operator
import os
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["full_float32"]

# What has a say in products of float32 numbers on each type of device.
_BACKENDS = {
    "cpu": ("mkldnn.conv", "mkldnn.rnn", "mkldnn.matmul"),
    "cuda": ("cudnn.conv", "cudnn.rnn", "cuda.matmul"),
}
_FULL = ("none", "ieee")

_lock = threading.Lock()
_n_inside = dict.fromkeys(_BACKENDS, 0)
_before: dict[str, list[tuple[Any, str]]] = {name: [] for name in _BACKENDS}


@contextlib.contextmanager
def full_float32(device: str) -> Iterator[None]:
    """Have PyTorch multiply float32 numbers as such.

    After ``torch.set_float32_matmul_precision("medium")``, and with its relatives in
    ``torch.backends``, bfloat16 or TF32 takes their place in the whole process. The last thread
    that leaves puts the settings back.

    Parameters
    ----------
    device : {"cpu", "cuda"} or another
        Type of the device; of others nothing is known.
    """
    if device not in _BACKENDS:
        yield
        return
    with _lock:
        if _n_inside[device] == 0:
            _before[device] = _fill_up(device)
        _n_inside[device] += 1
    try:
        yield
    finally:
        with _lock:
            _n_inside[device] -= 1
            if _n_inside[device] == 0:
                for operations, precision in _before[device]:
                    operations.fp32_precision = precision


def _fill_up(device: str) -> list[tuple[Any, str]]:
    """Let operations use all bits; tell what they were set to themselves."""
    import torch

    changed = []
    for path in _BACKENDS[device]:
        operations = operator.attrgetter(path)(torch.backends)
        before = operations.fp32_precision
        if before in _FULL:
            continue
        operations.fp32_precision = "none"  # as PyTorch's older switches have it
        if operations.fp32_precision not in _FULL:  # that was told to all operations
            operations.fp32_precision, before = "ieee", "none"
        changed.append((operations, before))
    return changed


def _begin_anew() -> None:
    """In a child that was forked, none of whose threads is inside."""
    global _lock
    _lock = threading.Lock()
    for device in _n_inside:
        _n_inside[device] = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
