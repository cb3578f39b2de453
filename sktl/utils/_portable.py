"""What of an estimator goes beside its file, and not into it, when it is saved without pickle."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

__all__ = ["Luggage", "PortableMixin", "packing", "stow", "take"]

_PREFIX = "sktl:"


@dataclass
class Luggage:
    """What lies beside the file.

    Attributes
    ----------
    tensors : dict of str and Tensor
    networks : dict
        Name of a file -> the estimator's backbone and weights that shall be in it.
    folder : Path or None
        Where weights lie, while loading.
    with_weights : bool
        Whether pretrained weights are taken along.
    device : str
        What becomes of the parameter `device`, while loading.
    """

    tensors: dict[str, Any] = field(default_factory=dict)
    networks: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    folder: Path | None = None
    with_weights: bool = False
    device: str = "auto"


_open: ContextVar[Luggage | None] = ContextVar("_open", default=None)


@contextmanager
def packing(luggage: Luggage) -> Iterator[Luggage]:
    """While this lasts, states of estimators leave in the luggage what is not theirs to write."""
    token = _open.set(luggage)
    try:
        yield luggage
    finally:
        _open.reset(token)


def stow(tensors: Mapping[str, Any]) -> Any:
    """Tensors as they belong into a state: by themselves, or by their names in the luggage."""
    luggage = _open.get()
    if luggage is None:
        return tensors
    known = {id(tensor): key for key, tensor in luggage.tensors.items()}
    names = {}
    for name, tensor in tensors.items():
        names[name] = known.get(id(tensor), f"{len(luggage.tensors)}")
        luggage.tensors[names[name]] = tensor
    return names


def take(tensors: Mapping[str, Any]) -> Any:
    """The reverse of :func:`stow`."""
    luggage = _open.get()
    if luggage is None:
        return tensors
    return {name: luggage.tensors[key] for name, key in tensors.items()}


class PortableMixin:
    """An estimator whose state, while it is being packed, is made of plain values alone."""

    def __getstate__(self) -> dict[str, Any]:
        whole: Any = super()
        state: dict[str, Any] = whole.__getstate__()
        luggage = _open.get()
        if luggage is None:
            return state
        state = {name: _plain(name, value) for name, value in state.items()}
        weights = state.get("weights")
        if isinstance(state.get("backbone"), str) and weights:
            # Weights that came with another saved model have no other name.
            came_along = Path(weights).with_name("sktl.json").is_file()
            if luggage.with_weights or came_along:
                state["weights"] = self._carried(luggage, state)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        luggage = _open.get()
        if luggage is not None:
            state = {name: _plain(name, value) for name, value in state.items()}
            state = {name: _restored(value) for name, value in state.items()}
            weights = state.get("weights")
            if isinstance(weights, str) and weights.startswith(_PREFIX):
                assert luggage.folder is not None
                # A name alone: whoever wrote the file chooses no other place on this machine.
                state["weights"] = str(luggage.folder / Path(weights.removeprefix(_PREFIX)).name)
            if "device" in state:
                state["device"] = luggage.device
        whole: Any = super()
        whole.__setstate__(state)

    @staticmethod
    def _carried(luggage: Luggage, state: dict[str, Any]) -> str:
        network = (state["backbone"], state["weights"])
        for file, known in luggage.networks.items():
            if known == network:
                return _PREFIX + file
        file = f"weights_{len(luggage.networks)}.safetensors"
        luggage.networks[file] = network
        return _PREFIX + file


@dataclass
class Table:
    """A DataFrame as lists."""

    columns: list[str]
    values: list[list[Any]]


def _plain(name: str, value: Any) -> Any:
    """A value of a state without types that belong to one machine or library version."""
    if name == "store":
        return (
            value if value is None or (isinstance(value, str) and value == "memory") else "default"
        )
    if name == "checkpoint_dir":
        return None
    if name == "device":
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, pd.DataFrame):
        return Table([str(c) for c in value.columns], [value[c].tolist() for c in value.columns])
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, Table):
        return pd.DataFrame(dict(zip(value.columns, value.values, strict=True)))
    return value
