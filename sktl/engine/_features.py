"""Features of a collection, each picture forwarded only if the store does not have it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sktl.engine._extract import Recipe, extract
from sktl.engine._store import FeatureStore, StoredLayer
from sktl.exceptions import BadImage, ImageDecodeError
from sktl.images import ImageCollection
from sktl.images._decode import BadImageError
from sktl.images._digest import digest_bytes, digest_picture
from sktl.nn.pooling import pooled_shape

if TYPE_CHECKING:
    from sktl.engine._network import Network

__all__ = ["compute_features"]

Array = npt.NDArray[np.float32]

# Changes whenever the same recipe starts to give other numbers, so that stored ones are not used.
_GENERATION = 1


def compute_features(
    images: ImageCollection,
    network: Network,
    recipe: Recipe,
    store: FeatureStore | None,
    *,
    raise_early: bool = True,
    **how: Any,
) -> tuple[list[Array], list[BadImage]]:
    """Collect layers of a network for pictures, from the store or by forwarding them.

    Parameters
    ----------
    images : ImageCollection of length n
        The pictures. Equal ones are forwarded once where there is a store.
    network : Network
        The network; loaded only if some picture must be forwarded.
    recipe : Recipe
        What to compute.
    store : FeatureStore or None
        Where features are found and kept, batch by batch.
    raise_early : bool, default=True
        Whether bad headers are an error before any work.
    **how : dict
        `batch_size`, `device`, `n_jobs` and `progress` of :func:`extract`.

    Returns
    -------
    layers : list of ndarray of shape (n, ...), dtype float32
        One array a layer of the recipe; NaN for bad pictures.
    bad : list of BadImage
        The pictures that cannot be read.

    Raises
    ------
    ImageDecodeError
        If `raise_early` and some headers are bad.
    """
    digests = [None] * len(images) if store is None else _digests(images, store)
    first, inverse = _unique(digests)
    distinct = images[first]
    missing, layers, stored = np.ones(len(first), dtype=bool), [], []
    for layer in recipe.layers:
        shape = pooled_shape(network.shape(layer, recipe.image_size), recipe.pooling)
        layers.append(np.full((len(first), *shape), np.nan, np.float32))
    if store is not None:
        pictures = [digests[i] for i in first]
        stored = [_stored_layer(network, recipe, layer, images) for layer in recipe.layers]
        hits = [store.fill(s, pictures, rows) for s, rows in zip(stored, layers, strict=True)]
        missing = ~np.all(hits, axis=0)

    bad = distinct.check(np.flatnonzero(missing).tolist())
    if bad and raise_early:
        raise ImageDecodeError(_of_all(bad, inverse), len(images))
    missing[[failure.index for failure in bad]] = False

    wanted = np.flatnonzero(missing)
    if len(wanted):
        for batch in extract(distinct[wanted], network.load(), recipe, **how):
            done = wanted[batch.positions]
            bad += [replace(failure, index=int(wanted[failure.index])) for failure in batch.bad]
            for number, rows in enumerate(batch.layers):
                if store is not None:
                    rows = store.put(stored[number], [pictures[i] for i in done], rows)
                layers[number][done] = rows
    if len(first) < len(images):
        layers = [rows[inverse] for rows in layers]
    return layers, _of_all(bad, inverse)


def _digests(images: ImageCollection, store: FeatureStore) -> list[bytes | None]:
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


def _unique(digests: Sequence[bytes | None]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Positions of the distinct pictures, and for each picture its place among them."""
    places: dict[Any, int] = {}
    first: list[int] = []
    inverse = np.empty(len(digests), dtype=np.intp)
    for i, digest in enumerate(digests):
        key = i if digest is None else digest
        if key not in places:
            places[key] = len(first)
            first.append(i)
        inverse[i] = places[key]
    return np.array(first, dtype=np.intp), inverse


def _of_all(bad: list[BadImage], inverse: npt.NDArray[np.intp]) -> list[BadImage]:
    """Bad distinct pictures as bad pictures, in order."""
    by_place = {failure.index: failure for failure in bad}
    return [
        replace(by_place[place], index=i)
        for i, place in enumerate(inverse.tolist())
        if place in by_place
    ]


def _stored_layer(
    network: Network, recipe: Recipe, layer: str | int, images: ImageCollection
) -> StoredLayer:
    """The name under which the rows of a layer are stored."""
    spec = network.spec
    described = {
        "generation": _GENERATION,
        "network": network.fingerprint(layer),
        "preprocessing": asdict(spec.preprocessing),
        "background": images.background,
        "layer": network.layer_name(layer),
        "pooling": recipe.pooling,
        "image_size": recipe.image_size,
        "crops": recipe.crops,
        "precision": recipe.precision,
    }
    key = hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=20).digest()
    return StoredLayer(key, spec.name, described)
