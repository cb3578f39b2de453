"""What an estimator's `store` parameter means."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from sktl.engine._access import Access
from sktl.engine._database import MemoryDatabase
from sktl.engine._store import FeatureStore
from sktl.exceptions import ParameterError

__all__ = ["resolve_store"]


class _MemoryStore(FeatureStore):
    """The store of this process; a pickle of it is the store of the process that reads it."""

    def __init__(self) -> None:
        super().__init__("memory")
        self._access = Access(MemoryDatabase())
        self.path = self._access.database.path

    def __repr__(self) -> str:
        return 'resolve_store("memory")'

    def __reduce__(self) -> tuple[Any, ...]:
        return resolve_store, ("memory",)


_MEMORY = _MemoryStore()
# What might be meant for one of the words, or for SQLite.
_NAMES = ("memory", "default", "none", ":memory:")


def resolve_store(store: Any) -> FeatureStore | None:
    """The store that an estimator's `store` parameter means.

    Parameters
    ----------
    store : "default", "memory", str, Path, FeatureStore or None
        The user's store, one in the memory of this process, the path of one, itself, or none.

    Returns
    -------
    store : FeatureStore or None

    Raises
    ------
    ParameterError
        If it is none of these.
    """
    if store is None or isinstance(store, FeatureStore):
        return store
    if isinstance(store, str) and store == "memory":
        return _MEMORY
    if isinstance(store, str) and store == "default":
        return FeatureStore()
    if isinstance(store, str) and (store.startswith("file:") or _is_slip(store)):
        raise ParameterError(
            f'store={store!r} is no path: pass "memory" for one in the memory of this process, or '
            f'"default" for that in the cache folder; a file of that name is "./{store}"'
        )
    if isinstance(store, (str, os.PathLike)) and os.fspath(store):
        return FeatureStore(store)
    raise ParameterError(
        f'store must be "default", "memory", a path, a FeatureStore or None; got {store!r}'
    )


def _is_slip(store: str) -> bool:
    """Whether a word is one, or nearly one, that means something else than a file."""
    word = store.casefold()
    near = difflib.get_close_matches(word, ("memory", "default"), n=1, cutoff=0.85)
    is_slip = bool(near) and near[0][0] == word[0] and not Path(store).suffix
    return word in _NAMES or (is_slip and os.sep not in store and not Path(store).exists())
