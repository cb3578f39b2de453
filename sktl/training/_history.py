"""What was recorded of the epochs: for people, for a checkpoint, and for a net that goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from sktl.training._net import TOP_K, TransferSkorchNet

__all__ = ["as_frame", "as_rows", "put_back", "remember"]

# What skorch records for itself.
_NOT_SHOWN = {
    "batches",
    "dur",
    *(f"{part}_{what}" for part in ("train", "valid") for what in ("batch_count", "loss_best")),
}


def as_frame(net: TransferSkorchNet) -> pd.DataFrame:
    """One row an epoch; what callbacks recorded comes last."""
    frame = pd.DataFrame(
        [{k: v for k, v in row.items() if k not in _NOT_SHOWN} for row in net.history]
    )
    first = ["phase", "epoch_in_phase", "epoch"]
    first += [
        f"{part}_{what}" for part in ("train", "valid") for what in ("loss", "top1", f"top{TOP_K}")
    ]
    first = [name for name in [*first, "lr", "seconds"] if name in frame]
    return frame[[*first, *(name for name in frame if name not in first)]]


def as_rows(net: TransferSkorchNet) -> list[dict[str, Any]]:
    """The same for a checkpoint: plain values, one dictionary an epoch."""
    return [
        {name: _plain(value) for name, value in row.items() if name != "batches"}
        for row in net.history
    ]


def put_back(net: TransferSkorchNet, rows: list[dict[str, Any]]) -> None:
    """Put what :func:`as_rows` gave into a new net, which goes on from there."""
    for row in rows:
        net.history.new_epoch()
        for name, value in row.items():
            net.history.record(name, value)


def remember(net: TransferSkorchNet, history: pd.DataFrame) -> None:
    """Put what :func:`as_frame` gave into a new net, which goes on from there."""
    rows = history.to_dict("records")
    put_back(net, [{str(k): v for k, v in row.items() if not _is_missing(v)} for row in rows])


def _is_missing(value: Any) -> bool:
    return np.ndim(value) == 0 and bool(pd.isna(value))


def _plain(value: Any) -> Any:
    """What a callback recorded, as what is read back without unpickling code."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    is_safe = isinstance(value, (bool, int, float, str, torch.Tensor, type(None)))
    return value if is_safe else str(value)
