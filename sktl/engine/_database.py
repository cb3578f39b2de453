"""The SQLite file behind a feature store: made, recognised, opened by many processes at once."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "Database",
    "ForeignFileError",
    "MemoryDatabase",
    "among",
    "checksum",
    "chunks",
    "description_of",
    "is_intact",
]

_APPLICATION = 0x736B746C  # "sktl", in SQLite's application_id: this file is ours
_VERSION = 4
_WAIT_S = 60.0
_CHUNK = 500  # SQLite's default limit on variables is far higher; longer lists gain nothing
_SCHEMA = """
CREATE TABLE IF NOT EXISTS layers (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, backbone TEXT NOT NULL,
    description TEXT NOT NULL, dtype TEXT NOT NULL, shape TEXT NOT NULL,
    hits INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS features (
    id INTEGER PRIMARY KEY, layer INTEGER NOT NULL REFERENCES layers(id),
    picture BLOB NOT NULL, row BLOB NOT NULL, crc INTEGER NOT NULL, used REAL NOT NULL,
    UNIQUE (layer, picture));
CREATE INDEX IF NOT EXISTS features_used ON features (used);
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, inode INTEGER, ctime_ns INTEGER,
    digest BLOB, is_opaque INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (picture BLOB PRIMARY KEY, owner TEXT NOT NULL)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS networks (alias TEXT PRIMARY KEY, content TEXT NOT NULL) WITHOUT ROWID;
"""


# Connections that SQLite forbids to use or to close.
_OF_PARENTS: list[sqlite3.Connection] = []


class ForeignFileError(Exception):
    """The file is a database of another program or version, and stays as it is."""


class Database:
    """A file that is made when it is first opened.

    Each use has a connection of its own, or one that its thread holds, so that neither threads nor
    forked processes share one.

    Parameters
    ----------
    path : Path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held = _Held()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def exists(self) -> bool:
        """Whether there is anything to be found."""
        return self.path.exists()

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Let this thread use one connection from its first use on.

        Closing the last one to a file has all that was written brought to the disk, each time.
        """
        held = self._held
        if held.owner == os.getpid():
            yield
            return
        if held.db is not None:  # of the process that this one was forked from, which closes it
            _OF_PARENTS.append(held.db)
            held.db = None
        held.owner, held.since = os.getpid(), time.time()
        try:
            yield
        finally:
            held.owner = None
            held.close()

    def since(self) -> float:
        """When this thread began what it does now: holding a connection, or just this moment."""
        return self._held.since if self._held.owner == os.getpid() else time.time()

    @contextlib.contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """Connect; raise sqlite3.Error, OSError or ForeignFileError if that cannot be."""
        held = self._held
        if held.owner != os.getpid():
            with contextlib.closing(self._connect()) as db:
                yield db
            return
        if held.db is not None and held.file != self._file():
            held.close()  # what is written to a file that was deleted or replaced is lost
        if held.db is None:
            held.db = self._connect()
            held.file = self._file()
        try:
            yield held.db
        except BaseException:
            held.close()
            raise

    def _file(self) -> tuple[int, int] | None:
        """What tells the file at the path from any other, if there is one."""
        try:
            state = self.path.stat()
        except FileNotFoundError:
            return None
        return state.st_dev, state.st_ino

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.path, timeout=_WAIT_S)
        try:
            if not _is_ours(db):
                _create(db)
            db.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            db.close()
            raise
        return db


class _Held(threading.local):
    """The connection that a thread holds, of the process `owner`, and to which file."""

    owner: int | None = None
    since: float = 0.0
    db: sqlite3.Connection | None = None
    file: tuple[int, int] | None = None

    def close(self) -> None:
        db, self.db = self.db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()


class MemoryDatabase(Database):
    """A database in the memory of this process, one connection for all threads in turn."""

    def __init__(self) -> None:
        super().__init__(Path(":memory:"))
        self._db: sqlite3.Connection | None = None
        self._lock = threading.RLock()

    def exists(self) -> bool:
        """Whether there is anything to be found."""
        return self._db is not None

    @contextlib.contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """Wait for the other threads, and hand out the connection."""
        with self._lock:
            if self._db is None:
                self._db = sqlite3.connect(":memory:", check_same_thread=False)
                _create(self._db)
            yield self._db


def _is_ours(db: sqlite3.Connection) -> bool:
    """Whether the file has been made by `_create`; an error if another program made it."""
    db.execute("BEGIN")  # one look at the file: another process may be making it right now
    (mark,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    db.execute("COMMIT")
    if tables and mark != _APPLICATION:
        raise ForeignFileError("it is a database of another program")
    if tables and version != _VERSION:
        raise ForeignFileError("another version of sktl has made it; it may be deleted")
    return bool(tables)


def _create(db: sqlite3.Connection) -> None:
    deadline = time.monotonic() + _WAIT_S
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # evicted rows can be given back to the disk
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:
            # Switching the mode does not wait for another process that is doing the same.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    db.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA.split(";"):
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {_APPLICATION}")
    db.execute(f"PRAGMA user_version = {_VERSION}")
    db.execute("COMMIT")


def chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Pieces that fit into one statement's variables."""
    return (items[i : i + _CHUNK] for i in range(0, len(items), _CHUNK))


def among(items: Sequence[Any]) -> str:
    """The end of a condition that a column has one of the items, which are given as variables."""
    return f"IN ({','.join('?' * len(items))})"


def checksum(row: Any) -> int:
    """CRC-32 of the bytes of a row, kept beside it."""
    return zlib.crc32(row)


def is_intact(row: bytes, crc: int) -> bool:
    """Whether a row is what was written."""
    return isinstance(row, bytes) and checksum(row) == crc


def description_of(text: Any) -> dict[str, Any]:
    """What went into a layer's key, for people; nothing if that is damaged."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
