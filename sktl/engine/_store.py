"""Features on disk, found by the content of the picture and by all that decides the numbers."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import platformdirs

from sktl.engine._database import Database, ForeignFileError, MemoryDatabase
from sktl.exceptions import ParameterError, StoreWarning
from sktl.images._digest import digest_bytes, digest_file

__all__ = ["FeatureStore", "StoredLayer", "default_store_path", "resolve_store"]

Array = npt.NDArray[np.float32]

_CHUNK = 500  # SQLite's default limit on variables is far higher; longer lists gain nothing
_RACY_NS = 2_000_000_000
_TOUCH_S = 3600.0


class StoredLayer:
    """Names one layer of one network, computed in one way.

    Parameters
    ----------
    key : bytes
        Digest of everything that decides the numbers beside the picture.
    backbone : str
        Name of the network, for people.
    description : dict
        What went into the key, for people.
    """

    def __init__(self, key: bytes, backbone: str, description: Mapping[str, Any]) -> None:
        self.key, self.backbone, self.description = key, backbone, dict(description)


def default_store_path() -> Path:
    """Where features are kept unless told otherwise.

    Returns
    -------
    path : Path
        In the folder that the environment variable SKTL_CACHE names, or in the user's cache
        folder.

    Examples
    --------
    >>> from sktl.engine import default_store_path
    >>> default_store_path().name
    'features.sqlite'
    """
    folder = os.environ.get("SKTL_CACHE") or platformdirs.user_cache_dir("sktl")
    return Path(folder, "features.sqlite")


class FeatureStore:
    """Features of pictures that have been through a network, in one SQLite file.

    A row is found by the content of its picture, not by its path, together with the weights, the
    layer and everything else that decides the numbers. Folds, candidates of a grid, notebooks and
    processes therefore share one extraction. Any number of processes may read and write at once;
    what was written survives the death of its writer at any moment.

    A store that cannot be used (read-only folder, full disk, damaged or foreign file) is reported
    by one StoreWarning, and the work goes on without it.

    Parameters
    ----------
    path : str or Path, default=None
        The file, made when first written to. By default ``features.sqlite`` in the user's cache
        folder. Network file systems do not support the way SQLite locks it.
    max_bytes : int, default=20_000_000_000
        Size of the file, in bytes, beyond which the rows not used for longest are deleted.
    dtype : {"float32", "float16"}, default="float32"
        "float16" halves the size; features are then rounded to it, from the store or not.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sklearn.datasets import load_sample_images
    >>> from sktl import CNNFeatures, FeatureStore
    >>> store = FeatureStore(pathlib.Path(tempfile.mkdtemp(), "features.sqlite"))
    >>> features = CNNFeatures("resnet18", weights=None, store=store)
    >>> features.fit_transform(load_sample_images().images).shape
    (2, 512)
    >>> store.info()[["backbone", "layer", "rows"]]
       backbone       layer  rows
    0  resnet18  bottleneck     2
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        max_bytes: int = 20_000_000_000,
        dtype: Literal["float32", "float16"] = "float32",
    ) -> None:
        if dtype not in ("float32", "float16"):
            raise ParameterError(f'dtype must be "float32" or "float16"; got {dtype!r}')
        self.path = default_store_path() if path is None else Path(path).expanduser()
        self.max_bytes = max_bytes
        self.dtype = dtype
        self._database = Database(self.path)
        self._usable = True

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.path)!r})"

    def __sklearn_clone__(self) -> FeatureStore:
        return self

    def __deepcopy__(self, memo: Any) -> FeatureStore:
        return self

    def fill(
        self, layer: StoredLayer, pictures: Sequence[bytes | None], rows: Array
    ) -> npt.NDArray[np.bool_]:
        """Write the stored rows of pictures into `rows`; tell which were there.

        Parameters
        ----------
        layer : StoredLayer
            What is looked for.
        pictures : sequence of n bytes or None
            Content digests; None is never found.
        rows : ndarray of shape (n, ...), dtype float32
            Changed where a row was found.

        Returns
        -------
        found : ndarray of shape (n,), dtype bool
        """
        found = np.zeros(len(pictures), dtype=bool)
        places = {picture: i for i, picture in enumerate(pictures) if picture is not None}

        def read(db: sqlite3.Connection) -> None:
            known = db.execute(
                "SELECT id, dtype FROM layers WHERE key = ?", [self._key(layer)]
            ).fetchone()
            if known is None:
                return
            number, dtype = known
            now, stale = time.time(), []
            for chunk in _chunks(list(places)):
                marks = ",".join("?" * len(chunk))
                for picture, row, used, row_id in db.execute(
                    "SELECT picture, row, used, id FROM features "
                    f"WHERE layer = ? AND picture IN ({marks})",
                    [number, *chunk],
                ):
                    place = places[picture]
                    rows[place] = np.frombuffer(row, dtype).reshape(rows.shape[1:])
                    found[place] = True
                    if now - used > _TOUCH_S:
                        stale.append((now, row_id))
            with db:
                db.execute(
                    "UPDATE layers SET hits = hits + ? WHERE id = ?", [int(found.sum()), number]
                )
                db.executemany("UPDATE features SET used = ? WHERE id = ?", stale)

        self._attempt(read, None, create=False)
        return found

    def put(self, layer: StoredLayer, pictures: Sequence[bytes | None], rows: Array) -> Array:
        """Commit rows, one a picture; those that are there already are left as they are.

        Parameters
        ----------
        layer : StoredLayer
            What was computed.
        pictures : sequence of n bytes or None
            Content digests; rows of None are not kept.
        rows : ndarray of shape (n, ...), dtype float32
            The features.

        Returns
        -------
        rows : ndarray, dtype float32
            As they will come back.
        """
        values = np.ascontiguousarray(rows, dtype=self.dtype)

        def write(db: sqlite3.Connection) -> None:
            now = time.time()
            with db:
                db.execute(
                    "INSERT OR IGNORE INTO layers (key, backbone, description, dtype) "
                    "VALUES (?, ?, ?, ?)",
                    [self._key(layer), layer.backbone, json.dumps(layer.description), self.dtype],
                )
                (number,) = db.execute(
                    "SELECT id FROM layers WHERE key = ?", [self._key(layer)]
                ).fetchone()
                db.executemany(
                    "INSERT OR IGNORE INTO features (layer, picture, row, used) VALUES (?,?,?,?)",
                    [
                        (number, picture, row.tobytes(), now)
                        for picture, row in zip(pictures, values, strict=True)
                        if picture is not None
                    ],
                )
            self._evict(db)

        self._attempt(write, None)
        return values.astype(np.float32, copy=False)

    def claim(
        self,
        layers: Sequence[StoredLayer],
        pictures: Sequence[bytes | None],
        n: int,
        owner: str,
    ) -> list[int]:
        """Take some pictures to be forwarded, so that no other process forwards them too.

        Parameters
        ----------
        layers : sequence of StoredLayer
            What will be computed.
        pictures : sequence of bytes or None
            Content digests.
        n : int
            How many at most.
        owner : str
            Who takes them; begins with the process id, so that the claims of the dead are void.

        Returns
        -------
        positions : list of int
            Places in `pictures` that are neither stored nor taken by another; None is always free.
        """
        work = self._work(layers)

        def take(db: sqlite3.Connection) -> list[int]:
            db.execute("BEGIN IMMEDIATE")
            with db:
                others = db.execute("SELECT DISTINCT owner FROM claims").fetchall()
                dead = [row for row in others if not _is_alive(int(row[0].partition("-")[0]))]
                db.executemany("DELETE FROM claims WHERE owner = ?", dead)
                taken = {row[0] for row in db.execute("SELECT picture FROM claims")}
                untaken = (i for i, p in enumerate(pictures) if p is None or work + p not in taken)
                free: list[int] = []
                while len(free) < n and (some := list(itertools.islice(untaken, n))):
                    there = [
                        self._stored(db, layer, [pictures[i] for i in some]) for layer in layers
                    ]
                    free += [i for i in some if not all(pictures[i] in found for found in there)]
                free = free[:n]
                db.executemany(
                    "INSERT OR IGNORE INTO claims VALUES (?, ?)",
                    [(work + p, owner) for p in (pictures[i] for i in free) if p is not None],
                )
            return free

        everything = list(range(min(n, len(pictures))))
        return self._attempt(take, everything)  # type: ignore[no-any-return]

    def release(self, owner: str) -> None:
        """Give back what `owner` has claimed."""

        def give_back(db: sqlite3.Connection) -> None:
            with db:
                db.execute("DELETE FROM claims WHERE owner = ?", [owner])

        self._attempt(give_back, None, create=False)

    def digests(self, paths: Sequence[str]) -> list[bytes | None]:
        """Content digests of files, read again only if size, time or inode have changed.

        Parameters
        ----------
        paths : sequence of str
            The files.

        Returns
        -------
        digests : list of bytes or None
            None for files that cannot be read.
        """
        absolute = [os.path.abspath(path) for path in paths]  # noqa: PTH100 (ten times faster)

        def read(db: sqlite3.Connection) -> dict[str, tuple[Any, ...]]:
            known = {}
            for chunk in _chunks(absolute):
                marks = ",".join("?" * len(chunk))
                for path, *rest in db.execute(
                    f"SELECT * FROM files WHERE path IN ({marks})", chunk
                ):
                    known[path] = tuple(rest)
            return known

        known = self._attempt(read, {}, create=False)
        digests: dict[str, bytes | None] = {}
        fresh = []
        now = time.time_ns()
        for path in dict.fromkeys(absolute):
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
            # A file written this very moment may change again without its time showing it.
            if now - state.st_mtime_ns > _RACY_NS:
                fresh.append((path, *identity, digests[path]))
        if fresh:
            self._attempt(lambda db: self._remember_files(db, fresh), None)
        return [digests[path] for path in absolute]

    def network(self, alias: str) -> dict[str, Any] | None:
        """What was remembered of a network, so that hits need not load it."""
        row = self._attempt(
            lambda db: db.execute(
                "SELECT content FROM networks WHERE alias = ?", [alias]
            ).fetchone(),
            None,
            create=False,
        )
        return None if row is None else json.loads(row[0])

    def remember_network(self, alias: str, content: Mapping[str, Any]) -> None:
        """Remember what identifies a network that was loaded.

        Parameters
        ----------
        alias : str
            Under what it will be asked for.
        content : mapping
            Anything that JSON can hold.
        """

        def write(db: sqlite3.Connection) -> None:
            with db:
                db.execute(
                    "INSERT OR REPLACE INTO networks VALUES (?, ?)", [alias, json.dumps(content)]
                )

        self._attempt(write, None)

    def info(self) -> pd.DataFrame:
        """Give one row a stored layer.

        Returns
        -------
        info : DataFrame
            Columns: backbone, layer, pooling, image_size (None: the network's own), crops,
            precision, rows, bytes, hits (rows handed out so far). ``info.attrs`` has the path and
            the bytes of the whole file.
        """

        def read(db: sqlite3.Connection) -> list[Any]:
            return db.execute(
                "SELECT backbone, description, hits, COUNT(features.id), "
                "TOTAL(LENGTH(row)) FROM layers LEFT JOIN features ON layer = layers.id "
                "GROUP BY layers.id ORDER BY layers.id"
            ).fetchall()

        told = ["layer", "pooling", "image_size", "crops", "precision"]
        records = []
        for backbone, description, hits, rows, size in self._attempt(read, [], create=False):
            details = json.loads(description)
            records.append(
                {
                    "backbone": backbone,
                    **{name: details.get(name) for name in told},
                    "rows": rows,
                    "bytes": int(size),
                    "hits": hits,
                }
            )
        frame = pd.DataFrame(records, columns=["backbone", *told, "rows", "bytes", "hits"])
        size = self.path.stat().st_size if self.path.is_file() else 0
        frame.attrs = {"path": str(self.path), "bytes": size}
        return frame

    def clear(self, backbone: str | None = None) -> None:
        """Delete everything, or what a network of that name gave.

        Parameters
        ----------
        backbone : str, default=None
            Name of the network, as in `info`.
        """

        def delete(db: sqlite3.Connection) -> None:
            with db:
                which = "" if backbone is None else " WHERE backbone = ?"
                names = [] if backbone is None else [backbone]
                db.execute(
                    f"DELETE FROM features WHERE layer IN (SELECT id FROM layers{which})", names
                )
                db.execute(f"DELETE FROM layers{which}", names)
                if backbone is None:
                    db.execute("DELETE FROM files")
                    db.execute("DELETE FROM networks")
            db.execute("VACUUM")

        self._attempt(delete, None, create=False)

    def _work(self, layers: Sequence[StoredLayer]) -> bytes:
        return digest_bytes(b" ".join(self._key(layer) for layer in layers), "claim")

    def _stored(
        self, db: sqlite3.Connection, layer: StoredLayer, pictures: Sequence[bytes | None]
    ) -> set[bytes]:
        marks = ",".join("?" * len(pictures))
        return {
            row[0]
            for row in db.execute(
                "SELECT picture FROM features JOIN layers ON layer = layers.id "
                f"WHERE key = ? AND picture IN ({marks})",
                [self._key(layer), *pictures],
            )
        }

    def _key(self, layer: StoredLayer) -> bytes:
        return layer.key if self.dtype == "float32" else layer.key + self.dtype.encode()

    @staticmethod
    def _remember_files(db: sqlite3.Connection, files: list[tuple[Any, ...]]) -> None:
        with db:
            db.executemany("INSERT OR REPLACE INTO files VALUES (?,?,?,?,?)", files)

    def _evict(self, db: sqlite3.Connection) -> None:
        """Delete the rows not used for longest until a tenth of the limit is free again."""
        while self._bytes_used(db) > self.max_bytes:
            (n,) = db.execute("SELECT COUNT(*) FROM features").fetchone()
            if n == 0:
                return
            with db:
                db.execute(
                    "DELETE FROM features WHERE id IN "
                    "(SELECT id FROM features ORDER BY used, id LIMIT ?)",
                    [max(1, n // 10)],
                )

    @staticmethod
    def _bytes_used(db: sqlite3.Connection) -> int:
        values = (
            db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_size", "page_count", "freelist_count")
        )
        size, pages, free = values
        return int(size * (pages - free))

    def _attempt(
        self, action: Callable[[sqlite3.Connection], Any], otherwise: Any, *, create: bool = True
    ) -> Any:
        """Run `action`, or warn once and give `otherwise`."""
        if not self._usable or not (create or self._database.exists()):
            return otherwise
        try:
            with self._database.open() as db:
                return action(db)
        except (sqlite3.Error, OSError, ForeignFileError) as error:
            self._usable = False
            warnings.warn(
                f"the feature store {self.path} cannot be used ({error}); the work goes on without "
                "it. Pass store=None, or a path where one can be written",
                StoreWarning,
                stacklevel=2,
            )
            return otherwise


class _MemoryStore(FeatureStore):
    """The store of this process; a pickle of it is the store of the process that reads it."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        self._database = MemoryDatabase()

    def __repr__(self) -> str:
        return 'FeatureStore("memory")'

    def __reduce__(self) -> tuple[Any, ...]:
        return resolve_store, ("memory",)


_MEMORY = _MemoryStore()


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
    if isinstance(store, (str, os.PathLike)):
        return FeatureStore(store)
    raise ParameterError(
        f'store must be "default", "memory", a path, a FeatureStore or None; got {store!r}'
    )


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[i : i + _CHUNK] for i in range(0, len(items), _CHUNK))


def _is_alive(pid: int) -> bool:
    """Whether the process exists."""
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
