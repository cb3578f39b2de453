"""Features on disk, found by the content of the picture and by all that decides the numbers."""

from __future__ import annotations

import contextlib
import json
import numbers
import os
import sqlite3
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import platformdirs

from sktl.engine._access import Access
from sktl.engine._claims import forget, give_back, take
from sktl.engine._database import Database, checksum
from sktl.engine._digests import (
    Seen,
    digest_files,
    known_files,
    picture_digests,
    remember_files,
)
from sktl.engine._exchange import labels_of, read_hdf5, write_hdf5
from sktl.engine._hits import note_hits, write_hits
from sktl.engine._rows import (
    DETAILS,
    clear_rows,
    describe_layers,
    evict,
    file_bytes,
    read_rows,
    verify_rows,
    write_rows,
)
from sktl.exceptions import ParameterError, StoreWarning
from sktl.images import as_images
from sktl.images._decode import RGB, WHITE

__all__ = ["FeatureStore", "StoredLayer", "default_store_path"]

Array = npt.NDArray[np.float32]


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
    return Path(folder, "features.sqlite").expanduser()


class FeatureStore:
    """Features of pictures that have been through a network, in one SQLite file.

    A row is found by the content of its picture, not by its path, together with the weights, the
    layer and everything else that decides the numbers. Folds, candidates of a grid, notebooks and
    processes therefore share one extraction. Any number of processes may read and write at once;
    what was written survives the death of its writer at any moment.

    A store that cannot be used (read-only folder, full disk, damaged or foreign file) is reported
    by one StoreWarning, and the work goes on without it; after a minute or more, or once `info` has
    worked, it is tried again.

    Parameters
    ----------
    path : str or Path, default=None
        The file, made when first written to. By default ``features.sqlite`` in the user's cache
        folder. Network file systems do not support the way SQLite locks it.
    max_bytes : int, default=20_000_000_000
        Size of the file, in bytes, beyond which the rows not used for longest are deleted, until a
        tenth is free. A StoreWarning tells if these are rows that the same call has used.
    dtype : {"float32", "float16"}, default="float32"
        "float16" halves the rows, which are then rounded to it, from the store or not. How much
        smaller the file is depends on how they fit into SQLite's pages of 4 kB: half for 2,048
        features, a quarter for 1,280.

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
        if path is not None and not (isinstance(path, (str, os.PathLike)) and os.fspath(path)):
            raise ParameterError(f"path must be that of a file; got {path!r}")
        if path == ":memory:":
            raise ParameterError('path must be that of a file; for the memory, pass store="memory"')
        size: Any = max_bytes
        if isinstance(size, bool) or not isinstance(size, numbers.Real) or not float(size) > 0:
            raise ParameterError(f"max_bytes must be a number of bytes above 0; got {max_bytes!r}")
        place = default_store_path() if path is None else Path(path).expanduser()
        self.path = place.absolute()
        self.max_bytes = max_bytes
        self.dtype = dtype
        self._access = Access(Database(self.path))

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.path)!r})"

    def __sklearn_clone__(self) -> FeatureStore:
        return self

    def __deepcopy__(self, memo: Any) -> FeatureStore:
        return self

    def fill(
        self, layer: StoredLayer, pictures: Sequence[bytes | None], rows: Array | None = None
    ) -> npt.NDArray[np.bool_]:
        """Write the stored rows of pictures into `rows`; tell which were there.

        Parameters
        ----------
        layer : StoredLayer
            What is looked for.
        pictures : sequence of n bytes or None
            Content digests; None is never found.
        rows : ndarray of shape (n, ...), dtype float32, default=None
            Changed where a row was found; None only tells which are there.

        Returns
        -------
        found : ndarray of shape (n,), dtype bool
        """
        found, key = np.zeros(len(pictures), dtype=bool), self._key(layer)

        def read(db: sqlite3.Connection) -> None:
            read_rows(db, key, pictures, rows, found, self.max_bytes)
            note_hits(db, self.path, key, int(found.sum()))

        self._access.attempt(read, None, create=False)
        return found  # also where only noting their use has failed

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Let this thread keep one connection to the file, for many calls in a row.

        Returns
        -------
        context : context manager
        """
        return self._access.database.hold()

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
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(rows, dtype=self.dtype)
        described = self._key(layer), layer.backbone, json.dumps(layer.description), self.dtype
        kept = values.astype(np.float32, copy=False)
        # Only rounding can make a number infinite.
        too_large = np.isinf(values) & np.isfinite(rows) if self.dtype == "float16" else None
        if too_large is not None and too_large.any():
            is_kept = ~too_large.reshape(len(rows), -1).any(axis=1)
            kept = np.where(is_kept.reshape(-1, *[1] * (rows.ndim - 1)), kept, rows)
            pictures = [p if keep else None for p, keep in zip(pictures, is_kept, strict=True)]
            warnings.warn(
                f"{np.sum(~is_kept)} rows have numbers that are too large for {self.dtype} and are "
                'not stored. Use FeatureStore(dtype="float32")',
                StoreWarning,
                stacklevel=2,
            )
        self._access.write(lambda db: write_rows(db, described, pictures, values), self.max_bytes)
        return kept

    def claim(
        self,
        layers: Sequence[StoredLayer],
        pictures: Sequence[bytes | None],
        n: int,
        owner: str,
        finished: Sequence[bytes | None] = (),
        *,
        by_force: bool = False,
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
            Who takes them: the process id, and behind a hyphen anything else. The claims of the
            dead are void.
        finished : sequence of bytes or None, default=()
            Pictures that the owner had taken and is done with.
        by_force : bool, default=False
            Whether owners who have taken some of these pictures lose all that they have taken.

        Returns
        -------
        positions : list of int
            Places in `pictures` that are neither stored nor taken by another; None is always free.
        """
        keys = [self._key(layer) for layer in layers]
        everything = list(range(min(n, len(pictures))))
        return self._access.attempt(  # type: ignore[no-any-return]
            lambda db: take(db, keys, pictures, n, owner, finished, by_force=by_force), everything
        )

    def release(self, owner: str) -> None:
        """Give back what `owner` has claimed, though the store may have failed since."""
        if forget(owner) and self._access.database.exists():
            with contextlib.suppress(Exception), self._access.database.open() as db:
                give_back(db, owner)

    def see_files(self, paths: Sequence[str], background: RGB = WHITE) -> list[Seen]:
        """Digests of files, read again only if size, times or inode have changed.

        Parameters
        ----------
        paths : sequence of str
            The files.
        background : tuple of 3 ints, default=(255, 255, 255)
            What is behind their transparent pixels. Opaque pictures have the same digest on any.

        Returns
        -------
        files : list of Seen
            Digest, path and state; None for files that cannot be read.
        """
        absolute = [os.path.abspath(path) for path in paths]  # noqa: PTH100 (ten times faster)
        known = self._access.attempt(lambda db: known_files(db, absolute), {}, create=False)
        seen, fresh = digest_files(absolute, known, background)
        if fresh:
            self._access.write(lambda db: remember_files(db, fresh), self.max_bytes)
        return [seen[path] for path in absolute]

    def network(self, alias: str) -> dict[str, Any] | None:
        """What was remembered of a network, so that hits need not load it."""

        def read(db: sqlite3.Connection) -> dict[str, Any] | None:
            query = "SELECT CAST(content AS BLOB) FROM networks WHERE alias = ?"
            row = db.execute(query, [alias]).fetchone()
            crc, _, text = row[0].partition(b" ") if row else (b"", b"", b"")
            # What was damaged, or written without a checksum, is found out anew.
            return json.loads(text) if crc == str(checksum(text)).encode() else None

        return self._access.attempt(read, None, create=False)  # type: ignore[no-any-return]

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
            text = json.dumps(content)
            with db:
                db.execute(
                    "INSERT OR REPLACE INTO networks VALUES (?, ?)",
                    [alias, f"{checksum(text.encode())} {text}"],
                )

        self._access.attempt(write, None)

    def info(self) -> pd.DataFrame:
        """Give one row a stored layer.

        Returns
        -------
        info : DataFrame
            Columns: backbone, layer, pooling, image_size (missing: the network's own), crops,
            precision, rows, bytes, hits (rows handed out so far; other processes write theirs down
            now and then). ``info.attrs`` has the path and the bytes of the whole file.
        """
        records: list[dict[str, Any]] = []
        size_of_file = 0
        if not self._access.database.exists():
            self._access.rest_no_longer()  # what hindered it may be gone with it
        else:
            with self._access.opened() as db:
                with contextlib.suppress(sqlite3.Error):  # what can only be read is told of, too
                    write_hits(db, self.path)
                records = describe_layers(db)
                size_of_file = file_bytes(db)
        columns = ["backbone", *DETAILS, "rows", "bytes", "hits"]
        frame = pd.DataFrame(records, columns=columns).astype({"image_size": "Int64"})
        frame.attrs = {"path": str(self.path), "bytes": size_of_file}
        return frame

    def verify(self) -> pd.DataFrame:
        """Read every row and compare it with the checksum it was written with.

        Damaged rows are deleted; they would not have been handed out, as `transform` compares
        too.

        Returns
        -------
        report : DataFrame
            One row a stored layer, columns backbone, layer, rows, damaged. ``report.attrs`` has
            the path and, as "problems", what SQLite finds wrong with the file itself (a list of
            str; empty if nothing). A file with problems should be deleted.
        """
        records: list[tuple[Any, ...]] = []
        problems: list[str] = []
        try:
            if self._access.database.exists():
                with self._access.database.open() as db:
                    records, problems = verify_rows(db)
        except Exception as error:  # noqa: BLE001 (damage has many faces)
            problems = [f"{type(error).__name__}: {error}"]
        report = pd.DataFrame(records, columns=["backbone", "layer", "rows", "damaged"])
        report.attrs = {"path": str(self.path), "problems": problems}
        return report

    def export_hdf5(
        self,
        path: str | os.PathLike[str],
        X: Any = None,
        y: Any = None,
        *,
        backbone: str | None = None,
    ) -> Path:
        """Write features to an HDF5 file, as people keep them by hand.

        ============================  =====================================================
        in the file                   what it is
        ============================  =====================================================
        ``features/<name>``           (n, ...) float32 or float16, one data set a layer; NaN
                                      for pictures without an intact row of the layer
        ``labels``                    (n,), if `y` is given
        ``paths``                     (n,) text; "" where none is known, as of transparent
                                      pictures on another background than white
        ``digests``                   (n, 20) uint8, of what the pictures show
        ``recipe/<name>``             JSON text: weights, preprocessing, pooling, precision
        ============================  =====================================================

        Parameters
        ----------
        path : str or Path
            The file, overwritten if it is there.
        X : array-like of n pictures, default=None
            Which pictures, in this order; transparent ones on another background than white as
            ``as_images(X, background=...)``. By default all that the store has.
        y : array-like of shape (n,), default=None
            Their labels; only with `X`.
        backbone : str, default=None
            Only what the network of that name gave, as in `info`.

        Returns
        -------
        path : Path

        Raises
        ------
        ParameterError
            If nothing is stored for these pictures, `y` does not fit `X`, the store cannot be
            used, or `path` cannot be written or is the store itself.

        Examples
        --------
        >>> import h5py, pathlib, tempfile
        >>> from sklearn.datasets import load_sample_images
        >>> from sktl import CNNFeatures, FeatureStore
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> images, store = load_sample_images().images, FeatureStore(folder / "store.sqlite")
        >>> _ = CNNFeatures("resnet18", weights=None, store=store).fit_transform(images)
        >>> with h5py.File(store.export_hdf5(folder / "f.h5", images, ["temple", "flower"])) as f:
        ...     f["features/resnet18 bottleneck"].shape, f["labels"].asstr()[:].tolist()
        ((2, 512), ['temple', 'flower'])
        >>> FeatureStore(folder / "another.sqlite").import_hdf5(folder / "f.h5")
        2
        """
        if not self._access.database.exists():
            raise ParameterError(f"there is no feature store at {self.path}")
        target = Path(path)
        if target.exists() and self.path.exists() and target.samefile(self.path):
            raise ParameterError(f"{target} is the feature store itself; export to another file")
        pictures = paths = labels = None
        if X is not None:
            images = as_images(X)
            labels = labels_of(y, len(images))
            pictures = picture_digests(images, self)
            paths = [str(item) if isinstance(item, (str, os.PathLike)) else "" for item in images]
        elif y is not None:
            raise ParameterError("y is given without X; pass the pictures that the labels are of")
        with self._access.opened() as db:
            write_hdf5(db, target, pictures, paths, labels, backbone)
        return target

    def import_hdf5(self, path: str | os.PathLike[str]) -> int:
        """Read what :meth:`export_hdf5` wrote, on another machine perhaps.

        The rows are believed: import only files from people whom you trust.

        Parameters
        ----------
        path : str or Path
            The file.

        Returns
        -------
        n_rows : int
            How many rows were new.

        Raises
        ------
        ParameterError
            If the file is no such export, damaged or of another dtype, and then nothing is
            written; or if the store cannot be used.
        """
        dtypes = {layer[3] for layer, _, _ in read_hdf5(Path(path))}  # the whole file is sound
        if self.dtype not in dtypes:
            (other,) = dtypes
            raise ParameterError(
                f"{path} has features in {other}, which a store in {self.dtype} would not find "
                f'again; import them into FeatureStore(dtype="{other}")'
            )
        new, has_lost = 0, False
        with self.held(), self._access.opened() as db:
            for layer, pictures, values in read_hdf5(Path(path)):
                if layer[3] == self.dtype:
                    new += write_rows(db, layer, pictures, values)
                    has_lost |= evict(db, self.max_bytes, self._access.database.since())
        if has_lost:
            self._access.say_that_it_is_small(self.max_bytes)
        return new

    def clear(self, backbone: str | None = None) -> None:
        """Delete everything, or what a network of that name gave.

        Parameters
        ----------
        backbone : str, default=None
            Name of the network, as in `info`.
        """
        if backbone is not None and not isinstance(backbone, str):
            raise ParameterError(
                f"backbone must be a name, as in info(), or None; got {backbone!r}"
            )
        if not self._access.database.exists():
            self._access.rest_no_longer()
            return
        with self._access.opened() as db:
            clear_rows(db, backbone)

    def _key(self, layer: StoredLayer) -> bytes:
        return layer.key if self.dtype == "float32" else layer.key + self.dtype.encode()
