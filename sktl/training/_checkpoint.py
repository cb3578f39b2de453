"""The state of a fit in a file, so that a killed fit goes on where it was."""

from __future__ import annotations

import hashlib
import json
import operator
import os
import uuid
from pathlib import Path
from typing import Any

import torch

__all__ = ["Checkpoint"]

_VERSION = 1


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
        text = json.dumps(_readable({**described, "version": _VERSION}), default=repr)
        digest = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        self.path = Path(folder, f"fit-{digest}.pt")

    def read(self) -> dict[str, Any] | None:
        """The newest state, or None if there is none."""
        if not self.path.is_file():
            return None
        state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        return state

    def write(self, state: dict[str, Any]) -> None:
        """Replace the state; whoever is killed meanwhile leaves the one before."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}")
        try:
            with temporary.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)


def _readable(value: Any) -> Any:
    """Tables as sorted lists of pairs, whose keys may be of any type."""
    if isinstance(value, dict):
        pairs = [[str(key), _readable(item)] for key, item in value.items()]
        return sorted(pairs, key=operator.itemgetter(0))
    return [_readable(item) for item in value] if isinstance(value, (list, tuple)) else value
