"""Who is forwarding which pictures right now, so that processes share the work."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from sktl.engine._database import among, chunks
from sktl.images._digest import digest_bytes

__all__ = ["forget", "give_back", "new_owner", "take"]

# Whose claims this process means. Others of its number were left by a write that failed, or by a
# process of the same number before it.
_mine: set[str] = set()
_BEGAN = "since"
# States of a process, as Linux tells them: zombie, dead, stopped, traced.
_STANDING_STILL = ("Z", "X", "x", "T", "t")


def new_owner() -> str:
    """A name for this process's claims: its number, when it began, and what no other has."""
    return f"{os.getpid()}-{_BEGAN}{_beginning(os.getpid())}-{uuid.uuid4().hex}"


def take(
    db: sqlite3.Connection,
    keys: Sequence[bytes],
    pictures: Sequence[bytes | None],
    n: int,
    owner: str,
    finished: Sequence[bytes | None] = (),
    *,
    by_force: bool = False,
) -> list[int]:
    """Positions of at most `n` pictures that are neither stored nor taken by another.

    See :meth:`sktl.FeatureStore.claim`; `keys` are those of the layers to be computed.
    """
    work = digest_bytes(b" ".join(keys), "claim")
    _mine.add(owner)
    db.execute("BEGIN IMMEDIATE")
    with db:
        db.executemany(
            "DELETE FROM claims WHERE picture = ? AND owner = ?",
            [(work + p, owner) for p in finished if p is not None],
        )
        others = db.execute("SELECT DISTINCT owner FROM claims").fetchall()
        dead = [row for row in others if not _is_at_work(row[0])]
        if by_force:
            for some in chunks([work + p for p in pictures if p is not None]):
                query = f"SELECT DISTINCT owner FROM claims WHERE picture {among(some)}"
                dead += [row for row in db.execute(query, some) if row[0] != owner]
        db.executemany("DELETE FROM claims WHERE owner = ?", dead)
        free: list[int] = []
        for some in chunks(range(len(pictures))):
            taken = _taken(db, [work + p for p in (pictures[i] for i in some) if p is not None])
            there = [_stored(db, key, [pictures[i] for i in some]) for key in keys]
            for i in some:
                picture = pictures[i]
                if picture is None or not (
                    work + picture in taken or all(picture in found for found in there)
                ):
                    free.append(i)
            if len(free) >= n:
                break
        free = free[:n]
        db.executemany(
            "INSERT OR IGNORE INTO claims VALUES (?, ?)",
            [(work + p, owner) for p in (pictures[i] for i in free) if p is not None],
        )
    return free


def forget(owner: str) -> bool:
    """Mean the claims of `owner` no longer; False if it has made none in this process."""
    has_taken = owner in _mine
    _mine.discard(owner)
    return has_taken


def give_back(db: sqlite3.Connection, owner: str) -> None:
    """End the claims of `owner`."""
    with db:
        db.execute("DELETE FROM claims WHERE owner = ?", [owner])


def _taken(db: sqlite3.Connection, claims: Sequence[bytes]) -> set[bytes]:
    rows = db.execute(f"SELECT picture FROM claims WHERE picture {among(claims)}", claims)
    return {row[0] for row in rows}


def _stored(db: sqlite3.Connection, key: bytes, pictures: Sequence[bytes | None]) -> set[bytes]:
    rows = db.execute(
        "SELECT picture FROM features JOIN layers ON layer = layers.id "
        f"WHERE key = ? AND picture {among(pictures)}",
        [key, *pictures],
    )
    return {row[0] for row in rows}


def _is_at_work(owner: str) -> bool:
    """Whether an owner is one of this process that has not given back, or of another that runs."""
    number, _, rest = owner.partition("-")
    pid = int(number)
    if pid == os.getpid():
        return owner in _mine
    # Numbers are given again, after a restart of the machine or of a container.
    then, now = rest.partition("-")[0], _beginning(pid)
    is_another = then.startswith(_BEGAN) and bool(now) and then != f"{_BEGAN}{now}"
    return _is_alive(pid) and not is_another


def _beginning(pid: int) -> str:
    """When a process began, where the system tells."""
    with contextlib.suppress(OSError, IndexError):
        return _facts_of(pid)[19]
    return ""


def _facts_of(pid: int) -> list[str]:
    """What Linux tells of a process, from its state on."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def _is_alive(pid: int) -> bool:
    """Whether the process is there and runs; those that were killed may still be listed."""
    with contextlib.suppress(OSError, IndexError):
        return _facts_of(pid)[0] not in _STANDING_STILL
    if sys.platform == "win32":
        import ctypes

        # os.kill would end it there. 0x1000: the right to ask, and no more.
        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, pid)
        return bool(handle and ctypes.windll.kernel32.CloseHandle(handle))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
