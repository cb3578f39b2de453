"""Stored features to and from HDF5 files."""

from __future__ import annotations

import itertools
import json
import math
import os
import reprlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sktl.engine._database import among, checksum, description_of, is_intact
from sktl.exceptions import ParameterError
from sktl.images._decode import WHITE
from sktl.images._digest import Content
from sktl.utils._files import replacing
from sktl.utils._optional import import_optional

__all__ = ["labels_of", "read_hdf5", "write_hdf5"]

_FORMAT, _VERSION = "sktl features", 2
Piece = tuple[tuple[bytes, str, str, str], list[bytes], npt.NDArray[Any]]
_STEP = 500
_CHUNK_BYTES = 2**20
# All metadata then have checksums, and HDF5 1.8 and later can read them.
_LIBVER = ("v108", "v108")


def labels_of(y: Any, n: int) -> npt.NDArray[Any] | None:
    """Labels of n pictures as HDF5 can hold them."""
    if y is None:
        return None
    labels = np.asarray(y)
    if labels.shape != (n,):
        raise ParameterError(
            f"y must have one label for each of the {n} pictures; got shape {labels.shape}"
        )
    if labels.dtype.kind not in "OSUTmM":
        return labels
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "surrogateescape")
    texts = [str(label) for label in labels]
    wrong = [text for text in dict.fromkeys(texts) if not _is_storable(text)]
    if wrong:
        raise ParameterError(
            f"HDF5 cannot hold the labels {reprlib.repr(wrong)}: remove null characters and "
            "surrogates from them"
        )
    return np.array(texts, dtype=object)


def _is_storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def write_hdf5(
    db: sqlite3.Connection,
    path: Path,
    pictures: Sequence[bytes | None] | None,
    paths: Sequence[str] | None,
    labels: npt.NDArray[Any] | None,
    backbone: str | None,
) -> None:
    """Write the layers of a store; see :meth:`sktl.FeatureStore.export_hdf5`.

    Nothing is written unless there is something to write; an existing file is replaced only by a
    finished one.
    """
    h5py = import_optional("h5py", extra="hdf5", caller="FeatureStore.export_hdf5")
    if pictures is None:
        which = (
            "" if backbone is None else "WHERE layer IN (SELECT id FROM layers WHERE backbone = ?)"
        )
        names = [] if backbone is None else [backbone]
        pictures = [
            row[0]
            for row in db.execute(
                f"SELECT picture FROM features {which} GROUP BY picture ORDER BY MIN(id)", names
            )
        ]
        known = {
            Content(digest, bool(is_opaque)).on(WHITE): path
            for digest, is_opaque, path in db.execute("SELECT digest, is_opaque, path FROM files")
        }
        paths = [known.get(picture, "") for picture in pictures if picture is not None]
    layers = [layer for layer in _layers(db, backbone) if _has_any(db, layer[0], pictures)]
    if not layers:
        raise ParameterError("none of these pictures has stored features; see info()")
    try:
        # Chunks that a full disk refuses while a cache is emptied crash the process: no cache.
        with (
            replacing(path) as unfinished,
            h5py.File(unfinished, "w", libver=_LIBVER, rdcc_nbytes=0) as file,
        ):
            _write(h5py, file, db, layers, pictures, paths or [], labels)
    except (OSError, RuntimeError) as error:  # RuntimeError: HDF5's, where the disk is full
        raise ParameterError(f"{path} cannot be written: {error}") from error


def _write(
    h5py: Any,
    file: Any,
    db: sqlite3.Connection,
    layers: Sequence[tuple[Any, ...]],
    pictures: Sequence[bytes | None],
    paths: Sequence[str],
    labels: npt.NDArray[Any] | None,
) -> None:
    text = h5py.string_dtype()
    file.attrs["format"], file.attrs["version"] = _in_place(_FORMAT), _VERSION
    digests = np.zeros((len(pictures), 20), np.uint8)
    for digest, picture in zip(digests, pictures, strict=True):
        digest[:] = np.frombuffer(picture or bytes(20), np.uint8)
    file.create_dataset("digests", data=digests, fletcher32=True)
    readable = [os.fsencode(path).decode("utf-8", "replace").replace("\0", "?") for path in paths]
    file.create_dataset("paths", data=readable, dtype=text)
    if labels is not None:
        file.create_dataset("labels", data=labels, dtype=text if labels.dtype == object else None)
    for number, key, network, description, dtype, shape in layers:
        name = _free_name(file, f"{network} {description_of(description).get('layer')}")
        shape = json.loads(shape)
        row_bytes = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
        n_rows = max(1, min(len(pictures), _STEP, _CHUNK_BYTES // row_bytes))
        rows = file.create_dataset(
            f"features/{name}",
            (len(pictures), *shape),
            dtype,
            chunks=(n_rows, *shape),
            fletcher32=True,
        )
        rows.attrs["backbone"], rows.attrs["key"] = _in_place(network), _in_place(key.hex())
        recipe = _in_place(description)
        in_place = h5py.string_dtype(length=max(1, len(recipe)))
        stored = file.create_dataset(f"recipe/{name}", data=recipe, dtype=in_place)
        stored.attrs["crc"] = checksum(recipe)
        step = _STEP // n_rows * n_rows  # whole chunks, as none is kept to be completed
        for start in range(0, len(pictures), step):
            some = pictures[start : start + step]
            rows[start : start + step] = _rows(db, number, some, shape, dtype)


def read_hdf5(path: Path) -> Iterator[Piece]:
    """Give (key, backbone, recipe, dtype), digests and rows, some hundred rows at a time."""
    h5py = import_optional("h5py", extra="hdf5", caller="FeatureStore.import_hdf5")
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise ParameterError(f"{path}: file not found") from None
    except OSError as error:
        raise ParameterError(f"{path}: not an HDF5 file, or damaged ({error})") from error
    with file:
        try:
            yield from _read(file, path)
        except ParameterError:
            raise
        except Exception as error:  # damage has many faces
            raise ParameterError(f"{path}: damaged; export it again ({error})") from error


def _read(file: Any, path: Path) -> Iterator[Piece]:
    if _text(file.attrs.get("format", "")) != _FORMAT:
        raise ParameterError(f"{path}: not written by FeatureStore.export_hdf5")
    if file.attrs.get("version") != _VERSION:
        raise ParameterError(f"{path}: written by another version of sktl, whose keys differ")
    digests, layers = file["digests"][:], dict(file["features"])
    _expect(digests.dtype == np.uint8 and digests.shape[1:] == (20,) and len(digests), "digests")
    _expect(layers, "features")
    for name, rows in layers.items():
        stored = file["recipe"][name]
        recipe = stored.asstr()[()]
        crc = checksum(recipe.encode())
        _expect(stored.attrs.get("crc", crc) == crc, f"recipe/{name}")  # earlier ones have none
        dtype = rows.dtype.name
        is_known = rows.dtype in (np.dtype("float32"), np.dtype("float16"))
        _expect(is_known and len(rows) == len(digests), f"features/{name}")
        key, backbone = _text(rows.attrs["key"]), _text(rows.attrs["backbone"])
        layer = bytes.fromhex(key), backbone, recipe, dtype
        for start in range(0, len(rows), _STEP):
            values = rows[start : start + _STEP]
            there = ~np.isnan(values.reshape(len(values), -1)).all(axis=1)
            yield (
                layer,
                [digests[start + i].tobytes() for i in np.flatnonzero(there)],
                values[there],
            )


def _in_place(text: str) -> np.bytes_:
    """Text of one length: HDF5 keeps others on a heap, without checksums, and may hang on it."""
    return np.bytes_(text.encode())


def _text(found: Any) -> str:
    return found.decode() if isinstance(found, bytes) else str(found)


def _expect(condition: Any, name: str) -> None:
    if not condition:
        raise ValueError(f"{name} does not fit the rest")


def _layers(db: sqlite3.Connection, backbone: str | None) -> list[tuple[Any, ...]]:
    rows = db.execute(
        "SELECT id, key, backbone, description, dtype, shape FROM layers ORDER BY id"
    ).fetchall()
    return [row for row in rows if backbone in (None, row[2])]


def _has_any(db: sqlite3.Connection, layer: int, pictures: Sequence[bytes | None]) -> bool:
    wanted = set(pictures)
    stored = db.execute("SELECT picture FROM features WHERE layer = ?", [layer])
    return any(picture in wanted for (picture,) in stored)


def _rows(
    db: sqlite3.Connection,
    layer: int,
    pictures: Sequence[bytes | None],
    shape: Sequence[int],
    dtype: str,
) -> npt.NDArray[Any]:
    stored = db.execute(
        f"SELECT picture, row, crc FROM features WHERE layer = ? AND picture {among(pictures)}",
        [layer, *pictures],
    )
    found = {picture: row for picture, row, crc in stored if is_intact(row, crc)}
    rows = np.full((len(pictures), *shape), np.nan, dtype)
    for row, picture in zip(rows, pictures, strict=True):
        if picture in found:
            row[...] = np.frombuffer(found[picture], dtype).reshape(shape)
    return rows


def _free_name(file: Any, name: str) -> str:
    """The name, numbered if another recipe has it already; "/" would make a group."""
    name = name.replace("/", " ")
    names = (name if i == 1 else f"{name} {i}" for i in itertools.count(1))
    return next(n for n in names if f"features/{n}" not in file)
