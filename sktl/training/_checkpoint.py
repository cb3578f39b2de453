"""The state of a fit in a file, so that a killed fit goes on where it was."""

from __future__ import annotations

import functools
import hashlib
import json
import operator
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sktl.exceptions import ParameterError
from sktl.utils._files import replacing
from sktl.utils._sameness import without_addresses

__all__ = ["Checkpoint", "make_folder"]

_VERSION = 1


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Make the folder of checkpoints; raise ParameterError if that cannot be."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(
            f"checkpoint_dir must be a folder that can be made or written to: {error}."
        ) from error


class Checkpoint:
    """A file that holds the newest state of one fit.

    Parameters
    ----------
    folder : str or Path
        Made if it is not there.
    described : dict
        Everything that decides the result of the fit. Fits that differ have different files in
        one folder, as the candidates and folds of a search do.
    """

    def __init__(self, folder: str | os.PathLike[str], described: dict[str, Any]) -> None:
        text = json.dumps(_readable({**described, "version": _VERSION}))
        digest = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        self.path = Path(folder, f"fit-{digest}.pt")

    def read(self) -> dict[str, Any] | None:
        """The newest state, or None if there is none."""
        if not self.path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:  # a damaged file: whatever zip and pickle stumble over
            raise ParameterError(
                f"the checkpoint {self.path} is damaged. Delete it, and the fit begins anew"
            ) from error
        return state

    def write(self, state: dict[str, Any]) -> None:
        """Replace the state; whoever is killed meanwhile leaves the one before."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as unfinished, unfinished.open("wb") as file:
            torch.save(_plain(state), file)
            file.flush()
            os.fsync(file.fileno())


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's: a grid over np.logspace puts them into optimizers' states."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value


def _readable(value: Any, *, is_inner: bool = False) -> Any:
    """What JSON can hold, and is the same in each process.

    Tables are sorted pairs. Objects are their class and parameters, those within them their class.
    """
    if isinstance(value, dict):
        pairs = [[str(key), _readable(item, is_inner=is_inner)] for key, item in value.items()]
        return sorted(pairs, key=operator.itemgetter(0))
    if isinstance(value, (list, tuple)):
        return [_readable(item, is_inner=is_inner) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _readable(value.tolist())
    if isinstance(value, functools.partial):
        return _readable([value.func, value.args, value.keywords], is_inner=is_inner)
    if hasattr(value, "__qualname__"):  # classes and functions, of which some have no name
        code = getattr(value, "__code__", None)
        body = "" if code is None else f" {code.co_code.hex()} {without_addresses(code.co_consts)}"
        return f"{getattr(value, '__module__', '')}.{value.__qualname__}{body}"
    words: Any = type(value).__repr__
    get_params = getattr(value, "get_params", None)
    if words is not object.__repr__ and get_params is None:
        is_plain = isinstance(value, (int, float, str, type(None)))
        return value if is_plain else without_addresses(value)
    if is_inner:
        return type(value).__qualname__
    parameters = get_params(deep=False) if get_params else getattr(value, "__dict__", {})
    return [type(value).__qualname__, _readable(parameters, is_inner=True)]
