"""How many rows of each layer were handed out, written down now and then."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from multiprocessing.util import Finalize
from pathlib import Path

__all__ = ["note_hits", "write_hits"]

# Seconds between two writes: each may make the next closing of the file wait for the disk.
_EVERY_S = 1.0

_lock = threading.Lock()
_noted: dict[Path, dict[bytes, int]] = {}
_written: dict[Path, float] = {}
_to_write_at_end: set[int] = set()  # numbers of processes


def note_hits(db: sqlite3.Connection, path: Path, key: bytes, n: int) -> None:
    """Count rows of a layer in the database at a path, to be written with others."""
    if n == 0:
        return
    with _lock:
        if os.getpid() not in _to_write_at_end:
            _to_write_at_end.add(os.getpid())
            Finalize(None, _write_all, exitpriority=0)  # in children too, unlike atexit
        of_path = _noted.setdefault(path, {})
        of_path[key] = of_path.get(key, 0) + n
        is_time = time.monotonic() - _written.get(path, -_EVERY_S) >= _EVERY_S
    if is_time:
        write_hits(db, path)


def write_hits(db: sqlite3.Connection, path: Path) -> None:
    """Write what was counted."""
    with _lock:
        noted = _noted.pop(path, {})
        _written[path] = time.monotonic()
    if noted:
        with db:
            db.executemany(
                "UPDATE layers SET hits = hits + ? WHERE key = ?",
                [(n, key) for key, n in noted.items()],
            )


def _write_all() -> None:
    """At the end of the process."""
    for path in list(_noted):
        if path.exists():
            with contextlib.suppress(Exception), contextlib.closing(sqlite3.connect(path)) as db:
                write_hits(db, path)


def _begin_anew() -> None:
    """In a child that was forked: the parent writes what it has counted."""
    global _lock
    _lock = threading.Lock()
    _noted.clear()
    _written.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
