"""Rows of features in the database: read, written, checked, and deleted when there are too many."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sktl.engine._database import among, checksum, chunks, description_of, is_intact

__all__ = [
    "DETAILS",
    "Described",
    "clear_rows",
    "describe_layers",
    "evict",
    "file_bytes",
    "read_rows",
    "verify_rows",
    "write_rows",
]

DETAILS = ("layer", "pooling", "image_size", "crops", "precision")
"""What is told of a layer's description."""

Described = tuple[bytes, str, str, str]
"""Of a layer: its key, the name of the network, its description as JSON, and the dtype."""

# Seconds after which a row that is used again is noted as used, while there is room for all.
_TOUCH_S = 3600.0
# Part of its limit beyond which a store notes each use, as rows may soon have to go.
_NEARLY_FULL = 0.25
# Part of its limit down to which a full store is emptied, so that not each write empties it.
_ROOMY = 0.9
# Part of its limit that the known paths may take, and bytes of one beside its text.
_SHARE_OF_PATHS, _BESIDE_PATH = 0.25, 60


def read_rows(
    db: sqlite3.Connection,
    key: bytes,
    pictures: Sequence[bytes | None],
    rows: npt.NDArray[np.float32] | None,
    found: npt.NDArray[np.bool_],
    max_bytes: float,
) -> None:
    """Write the rows of a layer into `rows`, if given, and into `found` which were there.

    At last their use is noted, and damaged ones are deleted. See :meth:`sktl.FeatureStore.fill`.
    """
    layer = db.execute("SELECT id, dtype FROM layers WHERE key = ?", [key]).fetchone()
    if layer is None:
        return
    number, dtype = layer
    places: dict[bytes, list[int]] = {}
    for i, picture in enumerate(pictures):
        if picture is not None:
            places.setdefault(picture, []).append(i)
    columns = "picture, used, id" + ("" if rows is None else ", crc, row")
    touch_after = 0.0 if _used_bytes(db) > _NEARLY_FULL * max_bytes else _TOUCH_S
    now, stale, damaged = time.time(), [], []
    for chunk in chunks(list(places)):
        for picture, used, row_id, *content in db.execute(
            f"SELECT {columns} FROM features WHERE layer = ? AND picture {among(chunk)}",
            [number, *chunk],
        ):
            if picture not in places:
                continue
            if rows is not None:
                crc, row = content
                if not is_intact(row, crc):
                    damaged.append((row_id,))
                    continue
                values = np.frombuffer(row, dtype).reshape(rows.shape[1:])
                for place in places[picture]:
                    rows[place] = values
            for place in places[picture]:
                found[place] = True
            if now - used > touch_after:
                stale.append((now, row_id))
    if not stale and not damaged:
        return
    with db:
        db.executemany("UPDATE features SET used = ? WHERE id = ?", stale)
        db.executemany("DELETE FROM features WHERE id = ?", damaged)


def write_rows(
    db: sqlite3.Connection,
    layer: Described,
    pictures: Sequence[bytes | None],
    values: npt.NDArray[Any],
) -> int:
    """Commit rows of a layer; count the new ones."""
    now = time.time()
    with db:
        db.execute(
            "INSERT OR IGNORE INTO layers (key, backbone, description, dtype, shape) "
            "VALUES (?, ?, ?, ?, ?)",
            [*layer, json.dumps(values.shape[1:])],
        )
        (number,) = db.execute("SELECT id FROM layers WHERE key = ?", layer[:1]).fetchone()
        before = db.total_changes
        db.executemany(
            "INSERT OR IGNORE INTO features (layer, picture, row, crc, used) "
            "VALUES (?, ?, ?, ?, ?)",
            [
                (number, picture, row.data, checksum(row), now)
                for picture, row in zip(pictures, values, strict=True)
                if picture is not None
            ],
        )
        return db.total_changes - before


def evict(db: sqlite3.Connection, max_bytes: float, since: float) -> bool:
    """Beyond the limit, delete the rows not used for longest until a tenth of it is free again.

    Known paths go first where they take more than their share. True if rows had to go that were
    used since the time `since`.
    """
    if _used_bytes(db) <= max_bytes:
        return False
    _evict_paths(db, _SHARE_OF_PATHS * max_bytes)
    has_lost = False
    while _used_bytes(db) > _ROOMY * max_bytes:
        n, recent = db.execute(
            "SELECT COUNT(*), TOTAL(used >= ?) FROM features", [since]
        ).fetchone()
        if n == 0:
            break
        to_go = max(1, n // 20)
        has_lost |= to_go > n - recent
        with db:
            db.execute(
                "DELETE FROM features WHERE id IN "
                "(SELECT id FROM features ORDER BY used, id LIMIT ?)",
                [to_go],
            )
    db.executescript("PRAGMA incremental_vacuum")  # all pages; `execute` would free one
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    return has_lost


def _evict_paths(db: sqlite3.Connection, share: float) -> None:
    """Forget the paths of the files that were changed longest ago, beyond a number of bytes."""
    n, letters = db.execute("SELECT COUNT(*), TOTAL(LENGTH(path)) FROM files").fetchone()
    size = n * _BESIDE_PATH + letters
    if size > share:
        with db:
            db.execute(
                "DELETE FROM files WHERE path IN "
                "(SELECT path FROM files ORDER BY ctime_ns LIMIT ?)",
                [math.ceil(n * (1 - share / size))],
            )


def file_bytes(db: sqlite3.Connection) -> int:
    """Size of the whole file."""
    return _pragma(db, "page_size") * _pragma(db, "page_count")


def _used_bytes(db: sqlite3.Connection) -> int:
    """Size of what is in it."""
    return file_bytes(db) - _pragma(db, "page_size") * _pragma(db, "freelist_count")


def _pragma(db: sqlite3.Connection, name: str) -> int:
    (number,) = db.execute(f"PRAGMA {name}").fetchone()
    return int(number)


def describe_layers(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """What went into the key of each layer, and its rows, their bytes and hits."""
    found = db.execute(
        "SELECT backbone, description, hits, COUNT(features.id), TOTAL(LENGTH(row)) "
        "FROM layers LEFT JOIN features ON layer = layers.id GROUP BY layers.id ORDER BY layers.id"
    )
    records = []
    for backbone, description, hits, rows, size in found:
        details = description_of(description)
        told = {name: details.get(name) for name in DETAILS}
        counts = {"rows": rows, "bytes": int(size), "hits": hits}
        records.append({"backbone": backbone, **told, **counts})
    return records


def clear_rows(db: sqlite3.Connection, backbone: str | None) -> None:
    """Delete all, or the layers of the networks of that name."""
    with db:
        if backbone is None:
            for table in ("features", "layers", "files", "networks"):
                db.execute(f"DELETE FROM {table}")  # a whole table takes hardly any room
        else:
            of_network = "(SELECT id FROM layers WHERE backbone = ?)"
            db.execute(f"DELETE FROM features WHERE layer IN {of_network}", [backbone])
            db.execute("DELETE FROM layers WHERE backbone = ?", [backbone])
    db.execute("VACUUM")


def verify_rows(db: sqlite3.Connection) -> tuple[list[tuple[Any, ...]], list[str]]:
    """Delete damaged rows; tell (backbone, layer, rows, damaged), and what SQLite finds."""
    records = []
    for number, backbone, description in db.execute(
        "SELECT id, backbone, description FROM layers ORDER BY id"
    ).fetchall():
        rows, damaged = 0, []
        for row_id, row, crc in db.execute(
            "SELECT id, row, crc FROM features WHERE layer = ?", [number]
        ):
            rows += 1
            if not is_intact(row, crc):
                damaged.append((row_id,))
        with db:
            db.executemany("DELETE FROM features WHERE id = ?", damaged)
        records.append((backbone, description_of(description).get("layer"), rows, len(damaged)))
    findings = [row[0] for row in db.execute("PRAGMA integrity_check")]
    return records, [line for line in findings if line != "ok"]
