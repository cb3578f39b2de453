"""Stored features to and from HDF5 files."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sktl.engine._database import among, description_of, is_intact
from sktl.exceptions import ParameterError
from sktl.images._decode import WHITE
from sktl.images._digest import Content
from sktl.utils._optional import import_optional

__all__ = ["read_hdf5", "write_hdf5"]

_FORMAT, _VERSION = "sktl features", 2
_STEP = 500


def write_hdf5(
    db: sqlite3.Connection,
    path: Path,
    pictures: Sequence[bytes | None] | None,
    paths: Sequence[str] | None,
    labels: Any,
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
        if labels is not None:
            raise ParameterError("y is given without X; pass the pictures that the labels are of")
    labels = None if labels is None else np.asarray(labels)
    if labels is not None and labels.dtype.kind in "SmM":
        labels = labels.astype(str)
    if labels is not None and labels.shape != (len(pictures),):
        raise ParameterError(
            f"y must have one label for each of the {len(pictures)} pictures; "
            f"got shape {labels.shape}"
        )
    layers = [layer for layer in _layers(db, backbone) if _has_any(db, layer[0], pictures)]
    if not layers:
        raise ParameterError("none of these pictures has stored features; see info()")
    unfinished = path.with_name(path.name + ".unfinished")
    text = h5py.string_dtype()
    with h5py.File(unfinished, "w") as file:
        file.attrs["format"], file.attrs["version"] = _FORMAT, _VERSION
        digests = np.zeros((len(pictures), 20), np.uint8)
        for digest, picture in zip(digests, pictures, strict=True):
            digest[:] = np.frombuffer(picture or bytes(20), np.uint8)
        file["digests"] = digests
        readable = [os.fsencode(path).decode("utf-8", "replace") for path in paths or []]
        file.create_dataset("paths", data=readable, dtype=text)
        if labels is not None and labels.dtype.kind in "OSUT":
            file.create_dataset("labels", data=[str(label) for label in labels], dtype=text)
        elif labels is not None:
            file["labels"] = labels
        for number, key, network, description, dtype, shape in layers:
            name = _free_name(file, f"{network} {description_of(description).get('layer')}")
            shape = json.loads(shape)
            rows = file.create_dataset(f"features/{name}", (len(pictures), *shape), dtype)
            rows.attrs["backbone"], rows.attrs["key"] = network, key.hex()
            file.create_dataset(f"recipe/{name}", data=description, dtype=text)
            for start in range(0, len(pictures), _STEP):
                some = pictures[start : start + _STEP]
                rows[start : start + _STEP] = _rows(db, number, some, shape, dtype)
    unfinished.replace(path)


def read_hdf5(
    path: Path,
) -> Iterator[tuple[tuple[bytes, str, str, str], list[bytes], npt.NDArray[Any]]]:
    """Give (key, backbone, recipe, dtype), digests and rows, some hundred rows at a time."""
    h5py = import_optional("h5py", extra="hdf5", caller="FeatureStore.import_hdf5")
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise ParameterError(f"{path}: file not found") from None
    except OSError as error:
        raise ParameterError(f"{path}: not an HDF5 file ({error})") from error
    with file:
        if file.attrs.get("format") != _FORMAT:
            raise ParameterError(f"{path}: not written by FeatureStore.export_hdf5")
        if file.attrs.get("version") != _VERSION:
            raise ParameterError(f"{path}: written by another version of sktl, whose keys differ")
        digests = [row.tobytes() for row in file["digests"][:]]
        for name, rows in file["features"].items():
            recipe = file["recipe"][name].asstr()[()]
            dtype = rows.dtype.name
            layer = bytes.fromhex(rows.attrs["key"]), rows.attrs["backbone"], recipe, dtype
            for start in range(0, len(rows), _STEP):
                values = rows[start : start + _STEP]
                there = ~np.isnan(values.reshape(len(values), -1)).all(axis=1)
                pictures = [digests[start + i] for i in np.flatnonzero(there)]
                yield layer, pictures, values[there]


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
