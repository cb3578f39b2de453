"""Features of a collection, each picture forwarded only if the store does not have it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sktl.engine._claims import new_owner
from sktl.engine._digests import Seen, is_as_seen, see_pictures
from sktl.engine._extract import chunk_size, extract
from sktl.engine._forward import is_decoded_there
from sktl.engine._recipe import Recipe
from sktl.engine._runtime import Runtime, bf16_runtime
from sktl.engine._store import FeatureStore, StoredLayer
from sktl.exceptions import BadImage, ImageDecodeError
from sktl.images import ImageCollection
from sktl.nn.pooling import pooled_shape
from sktl.utils._progress import ProgressBar

if TYPE_CHECKING:
    import torch

    from sktl.engine._network import Network

__all__ = ["compute_features"]

Array = npt.NDArray[np.float32]

# Changes whenever the same recipe starts to give other numbers, so that stored ones are not used.
_GENERATIONS = {"auto": 1, "exact": 1, "bf16": 2}
# How long to wait for other processes before looking again.
_POLL_S = 0.05
# How long to wait without seeing them get on: longer than a batch takes, shorter than patience.
_PATIENCE_S = 120.0


def compute_features(
    images: ImageCollection,
    network: Network,
    recipe: Recipe,
    store: FeatureStore | None,
    *,
    batch_size: int = 64,
    device: torch.device | None = None,
    n_jobs: int | None = None,
    runtime: Runtime = "auto",
    progress: bool = False,
    raise_early: bool = True,
    keep: bool = True,
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
        Where features are found and kept, batch by batch. Processes that want the same pictures
        at the same time share the work through it.
    batch_size : int, default=64
        As in :func:`extract`.
    device : torch.device, default=None
        As in :func:`extract`.
    n_jobs : int, default=None
        As in :func:`extract`.
    runtime : {"auto", "torch", "compile", "onnxruntime", "openvino"}, default="auto"
        As in :func:`extract`.
    progress : bool, default=False
        Show a progress bar if the work takes more than three seconds.
    raise_early : bool, default=True
        Whether bad headers are an error before any work.
    keep : bool, default=True
        Whether to return the features. If not, they are only put into the store.

    Returns
    -------
    layers : list of ndarray of shape (n, ...), dtype float32
        One array a layer of the recipe; NaN for bad pictures. Empty if they are not kept.
    bad : list of BadImage
        The pictures that cannot be read.

    Raises
    ------
    ImageDecodeError
        If `raise_early` and some headers are bad.
    """
    how: dict[str, Any] = {
        "batch_size": batch_size,
        "device": device,
        "n_jobs": n_jobs,
        "runtime": runtime,
    }
    with contextlib.nullcontext() if store is None else store.held():
        seen = [Seen(None)] * len(images) if store is None else see_pictures(images, store)
        first, inverse = _unique([picture.digest for picture in seen])
        distinct = images[first]
        rounding = _rounding(network, recipe, device, runtime)
        pictures = [seen[i] for i in first]
        shelf = _Shelf(pictures, network, recipe, store, keep, rounding)

        bad = distinct.check(shelf.look_up([]))
        if bad and raise_early:
            raise ImageDecodeError(_of_all(bad, inverse, images), len(images))
        with shelf:
            bad = _forward_missing(shelf, bad, distinct, network, recipe, how, progress)
    layers = [rows for rows in shelf.layers if rows is not None]
    bad = _of_all(bad, inverse, images)
    if len(first) == len(images):
        return layers, bad
    layers = [rows[inverse] for rows in layers]
    # What has changed since it was seen no longer stands for others that were equal to it.
    others = np.setdiff1d(np.arange(len(images)), first)
    changed = {place for place in np.unique(inverse[others]) if not is_as_seen(pictures[place])}
    alone = [i for i in others.tolist() if inverse[i] in changed]
    if alone:
        found, failures = compute_features(
            images[alone], network, recipe, store, raise_early=False, keep=keep, **how
        )
        for rows, own in zip(layers, found, strict=True):
            rows[alone] = own
        bad = [failure for failure in bad if failure.index not in alone]
        bad += [replace(failure, index=alone[failure.index]) for failure in failures]
        bad.sort(key=lambda failure: failure.index)
    return layers, bad


def _forward_missing(
    shelf: _Shelf,
    bad: list[BadImage],
    images: ImageCollection,
    network: Network,
    recipe: Recipe,
    how: Mapping[str, Any],
    progress: bool,
) -> list[BadImage]:
    """Fill the shelf, chunk by chunk, and others' chunks from the store; give all bad pictures."""
    wanted = shelf.look_up(bad)
    with ProgressBar(total=len(wanted), unit="image", delay=3, disable=not progress) as bar:
        while wanted:
            n = chunk_size(recipe, len(wanted), how["batch_size"], how["n_jobs"])
            chunks = shelf.claim(wanted, n)
            for batch in extract(images, network, recipe, chunks, n_images=len(wanted), **how):
                shelf.put(batch.positions, batch.layers)
                bad = bad + batch.bad
                bar.update(len(batch.positions) + len(batch.bad))
            wanted = shelf.look_up(bad)
            bar.update(bar.total - len(wanted) - bar.n)
    return bad


class _Shelf:
    """Rows of distinct pictures: found in the store, or computed and put there."""

    def __init__(
        self,
        seen: list[Seen],
        network: Network,
        recipe: Recipe,
        store: FeatureStore | None,
        keep: bool,
        rounding: Mapping[str, str],
    ) -> None:
        self.seen, self.store = seen, store
        self.pictures = [picture.digest for picture in seen]
        self.there = np.zeros(len(seen), dtype=bool)
        self.owner = new_owner()
        self.last_progress = time.monotonic()
        self.finished: list[bytes | None] = []
        self.layers: list[Array | None] = []
        for layer in recipe.layers:
            shape = pooled_shape(network.shape(layer, recipe.image_size), recipe.pooling)
            rows = np.full((len(seen), *shape), np.nan, np.float32) if keep else None
            self.layers.append(rows)
        prints = [] if store is None else network.fingerprints(recipe.layers)
        self.names = [
            _stored_layer(network, recipe, layer, fingerprint, rounding)
            for layer, fingerprint in zip(recipe.layers, prints, strict=False)  # none without store
        ]

    def __enter__(self) -> _Shelf:
        return self

    def __exit__(self, *_: object) -> None:
        if self.store is not None:
            self.store.release(self.owner)

    def look_up(self, bad: list[BadImage]) -> list[int]:
        """Fetch what the store has by now; give the positions still missing, but for the bad."""
        if self.store is not None and not self.there.all():
            wanted = [
                None if there else picture
                for picture, there in zip(self.pictures, self.there.tolist(), strict=True)
            ]
            hits = [
                self.store.fill(name, wanted, rows)
                for name, rows in zip(self.names, self.layers, strict=True)
            ]
            found = np.logical_and.reduce(hits)
            self.there |= found
            if found.any():
                self.last_progress = time.monotonic()
        hopeless = {failure.index for failure in bad}
        return [i for i in np.flatnonzero(~self.there).tolist() if i not in hopeless]

    def claim(self, wanted: list[int], n: int) -> Iterator[list[int]]:
        """Hand out positions that no other process works on; wait if others work on them all.

        A process that stands still, suspended in a terminal, is not waited for forever.
        """
        handed_out = False
        for some in (wanted[i : i + n] for i in range(0, len(wanted), n)):
            mine = some
            if self.store is not None:
                pictures = [self.pictures[i] for i in some]
                free = self.store.claim(self.names, pictures, n, self.owner, self.finished)
                mine = [some[i] for i in free]
                self.finished = []
            if mine:
                handed_out = True
                yield mine
        if handed_out:
            return
        if time.monotonic() - self.last_progress > _PATIENCE_S and self.store is not None:
            pictures = [self.pictures[i] for i in wanted]
            free = self.store.claim(self.names, pictures, n, self.owner, by_force=True)
            if free:
                yield [wanted[i] for i in free]
        else:
            time.sleep(_POLL_S)

    def put(self, positions: list[int], layers: list[Array]) -> None:
        """Keep computed rows, as they will come back from the store."""
        # What a file became while it waited for its turn is not what its digest stands for.
        kept = [self.pictures[i] if is_as_seen(self.seen[i]) else None for i in positions]
        for number, rows in enumerate(layers):
            if self.store is not None:
                rows = self.store.put(self.names[number], kept, rows)
            returned = self.layers[number]
            if returned is not None:
                returned[positions] = rows
        self.there[positions] = True
        self.finished += [self.pictures[i] for i in positions]
        self.last_progress = time.monotonic()


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


def _of_all(
    bad: list[BadImage], inverse: npt.NDArray[np.intp], images: ImageCollection
) -> list[BadImage]:
    """Bad distinct pictures as bad pictures, in order."""
    by_place = {failure.index: failure for failure in bad}
    return [
        replace(by_place[place], index=i, source=images.describe(i))
        for i, place in enumerate(inverse.tolist())
        if place in by_place
    ]


def _rounding(
    network: Network, recipe: Recipe, device: torch.device | None, runtime: Runtime
) -> dict[str, str]:
    """What beside the recipe decides the numbers of bf16; nothing for other precisions."""
    found: dict[str, str] = {}
    name = bf16_runtime(network, recipe, device, runtime)
    if name is not None:
        found["runtime"] = name
    if device is not None and is_decoded_there(recipe, device):
        found["decoder"] = "nvjpeg"
    return found


def _stored_layer(
    network: Network,
    recipe: Recipe,
    layer: str | int,
    fingerprint: str,
    rounding: Mapping[str, str],
) -> StoredLayer:
    """The name under which the rows of a layer are stored."""
    spec = network.spec
    described = {
        "generation": _GENERATIONS[recipe.precision],
        "network": fingerprint,
        "preprocessing": asdict(spec.preprocessing),
        "layer": network.layer_name(layer),
        # What is no map is not pooled.
        "pooling": recipe.pooling if len(network.shape(layer, recipe.image_size)) > 1 else None,
        "image_size": None if recipe.image_size == spec.preprocessing.size else recipe.image_size,
        "crops": recipe.crops,
        "precision": recipe.precision,
        **rounding,
    }
    # Some layers have several names.
    decisive = {**described, "layer": network.place(layer)}
    key = hashlib.blake2b(json.dumps(decisive, sort_keys=True).encode(), digest_size=20).digest()
    return StoredLayer(key, spec.name, described)
