"""Float32 in full, whatever the process lets PyTorch save."""

from __future__ import annotations

import contextlib
import operator
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
        _n_inside[device] += 1
        if _n_inside[device] == 1:
            _before[device] = _reduced(device)
            for operations, _ in _before[device]:
                operations.fp32_precision = "ieee"
    try:
        yield
    finally:
        with _lock:
            _n_inside[device] -= 1
            if _n_inside[device] == 0:
                for operations, precision in _before[device]:
                    operations.fp32_precision = precision


def _reduced(device: str) -> list[tuple[Any, str]]:
    """Operations that may use fewer bits, and how few."""
    import torch

    found = [operator.attrgetter(path)(torch.backends) for path in _BACKENDS[device]]
    return [(each, each.fp32_precision) for each in found if each.fp32_precision not in _FULL]
