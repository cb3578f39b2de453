"""Content digests of pictures; those of files are remembered by the state of the file."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sktl.engine._database import among, chunks
from sktl.images import ImageCollection
from sktl.images._decode import BadImageError
from sktl.images._digest import digest_bytes, digest_file, digest_picture

if TYPE_CHECKING:
    from sktl.engine._store import FeatureStore

__all__ = ["digest_files", "known_files", "picture_digests", "remember_files"]

_RACY_NS = 2_000_000_000


def picture_digests(images: ImageCollection, store: FeatureStore) -> list[bytes | None]:
    """Content digest of each picture; None for what cannot be read."""
    digests: list[bytes | None] = [None] * len(images)
    paths = {}
    for i, item in enumerate(images):
        if isinstance(item, (str, os.PathLike)):
            paths[i] = os.fspath(item)
        elif isinstance(item, (bytes, bytearray, memoryview)):
            digests[i] = digest_bytes(bytes(item))
        else:
            try:
                digests[i] = digest_picture(images.read_rgb(i))
            except BadImageError:
                continue
    for i, digest in zip(paths, store.digests(list(paths.values())), strict=True):
        digests[i] = digest
    return digests


def known_files(db: sqlite3.Connection, paths: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """What is remembered of files, by path: size, mtime_ns, inode and digest."""
    known = {}
    for chunk in chunks([path for path in paths if _is_text(path)]):
        for path, *rest in db.execute(f"SELECT * FROM files WHERE path {among(chunk)}", chunk):
            known[path] = tuple(rest)
    return known


def digest_files(
    paths: Iterable[str], known: Mapping[str, tuple[Any, ...]]
) -> tuple[dict[str, bytes | None], list[tuple[Any, ...]]]:
    """Digests by path, and what is to be remembered. Files are read only if not known as they are.

    None for files that cannot be read.
    """
    digests: dict[str, bytes | None] = {}
    fresh = []
    now = time.time_ns()
    for path in dict.fromkeys(paths):
        try:
            state = os.stat(path)  # noqa: PTH116
            identity = state.st_size, state.st_mtime_ns, state.st_ino
            if path in known and known[path][:3] == identity:
                digests[path] = known[path][3]
                continue
            digests[path] = digest_file(path)
        except (OSError, ValueError):  # ValueError: a path with a null byte
            digests[path] = None
            continue
        # A file written this very moment may change again without its time showing it, so it is
        # remembered under no time, and read again the next time.
        if now - state.st_mtime_ns <= _RACY_NS:
            identity = state.st_size, -1, state.st_ino
        fresh.append((path, *identity, digests[path]))
    return digests, fresh


def _is_text(path: str) -> bool:
    """Whether SQLite can hold a path: old file names are bytes that are no UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def remember_files(db: sqlite3.Connection, files: list[tuple[Any, ...]]) -> None:
    """Keep (path, size, mtime_ns, inode, digest) of files."""
    with db:
        db.executemany(
            "INSERT OR REPLACE INTO files VALUES (?,?,?,?,?)",
            [file for file in files if _is_text(file[0])],
        )
