"""Features of a collection: decode beside forward, batch by batch, shard by shard."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast

import joblib
import numpy as np
import numpy.typing as npt
import torch

from sktl.backbones import Preprocessing
from sktl.engine._fuse import fuse
from sktl.engine._network import Network
from sktl.engine._prepare import Crops, n_crops, prepare
from sktl.exceptions import BadImage
from sktl.images import ImageCollection
from sktl.images._decode import BadImageError
from sktl.nn.pooling import Pooling, pool

__all__ = ["Batch", "Precision", "Recipe", "chunk_size", "extract"]

Precision = Literal["auto", "exact"]
Array = npt.NDArray[np.float32]

# Finding what can be fused costs as much as a few pictures.
_WORTH_FUSING = 32
# On a CPU larger batches gain nothing, and their activations no longer fit the caches.
_CPU_BATCH = 8


@dataclass(frozen=True)
class Recipe:
    """Everything beside the network and the picture that decides the numbers.

    Attributes
    ----------
    layers : tuple of str or int
        Names or stage indices.
    pooling : str
        As in :func:`sktl.nn.pool`.
    image_size : int or None
        Side of the square that the network sees, in pixels; None for that of the weights.
    crops : {"center", "ten"}
        Cuts of each picture, whose features are averaged.
    precision : {"auto", "exact"}
        As in :class:`sktl.CNNFeatures`.
    """

    layers: tuple[str | int, ...] = ("bottleneck",)
    pooling: Pooling = "avg"
    image_size: int | None = None
    crops: Crops = "center"
    precision: Precision = "auto"


class Batch(NamedTuple):
    """Results of some pictures.

    Attributes
    ----------
    positions : list of int
        Which pictures.
    layers : list of ndarray, dtype float32
        One (len(positions), ...) array a layer of the recipe.
    bad : list of BadImage
        Pictures beside them that could not be decoded.
    """

    positions: list[int]
    layers: list[Array]
    bad: list[BadImage]


def extract(
    images: ImageCollection,
    network: Network,
    recipe: Recipe,
    chunks: Iterable[Sequence[int]],
    *,
    n_images: int,
    batch_size: int = 64,
    device: torch.device | None = None,
    n_jobs: int | None = None,
) -> Iterator[Batch]:
    """Forward pictures through a network, batch by batch.

    Parameters
    ----------
    images : ImageCollection
        The pictures.
    network : Network
        The network.
    recipe : Recipe
        What to compute.
    chunks : iterable of sequences of int
        Positions of the pictures that are wanted, `chunk_size` of them at a time; asked for the
        next ones only shortly before these are decoded.
    n_images : int
        How many pictures the chunks will have in all, at most.
    batch_size : int, default=64
        Pictures in memory and on the device at once. It does not change the result.
    device : torch.device, default=None
        Where to compute; the CPU by default.
    n_jobs : int, default=None
        Chunks computed in parallel through joblib, whose active backend is used.

    Yields
    ------
    batch : Batch
        In the order of the chunks.
    """
    device = device or torch.device("cpu")
    chunks = iter(chunks)
    some = next(chunks, None)
    if some is None:
        return
    chunks = itertools.chain([some], chunks)
    if n_workers(n_images, batch_size, n_jobs) <= 1:
        yield from _forward_chunks(images, network, recipe, chunks, n_images, device)
        return
    sent: deque[Sequence[int]] = deque()

    def tasks() -> Iterator[Any]:
        for chunk in chunks:
            sent.append(chunk)
            yield joblib.delayed(_work)(images[chunk], network, recipe, batch_size, device)

    # Backends on top of multiprocessing cannot hand out results one by one.
    backend, _ = joblib.parallel.get_active_backend()
    return_as = "generator" if backend.supports_return_generator else "list"
    for batches in joblib.Parallel(n_jobs=n_jobs, return_as=return_as)(tasks()):
        chunk = sent.popleft()
        for positions, layers, bad in batches:
            moved = [replace(failure, index=int(chunk[failure.index])) for failure in bad]
            yield Batch([chunk[i] for i in positions], layers, moved)


def n_workers(n_images: int, batch_size: int, n_jobs: int | None) -> int:
    """Processes that are worth starting: none of them should have less than a batch to do."""
    return int(min(joblib.effective_n_jobs(n_jobs), -(-n_images // batch_size)))


def chunk_size(recipe: Recipe, n_images: int, batch_size: int, n_jobs: int | None) -> int:
    """Pictures that are handed out at once.

    A worker process gets several batches, so that the network is made ready for them once.
    """
    pictures = max(1, batch_size // n_crops(recipe.crops))
    workers = n_workers(n_images, batch_size, n_jobs)
    return pictures if workers <= 1 else min(-(-n_images // workers), 8 * pictures)


def _work(
    images: ImageCollection,
    network: Network,
    recipe: Recipe,
    batch_size: int,
    device: torch.device,
) -> list[Batch]:
    """What a worker does with the pictures that it was sent."""
    step = chunk_size(recipe, len(images), batch_size, 1)
    chunks = (range(len(images))[start : start + step] for start in range(0, len(images), step))
    return list(_forward_chunks(images, network, recipe, chunks, len(images), device))


def _forward_chunks(
    images: ImageCollection,
    network: Network,
    recipe: Recipe,
    chunks: Iterable[Sequence[int]],
    n_images: int,
    device: torch.device,
) -> Iterator[Batch]:
    backbone = network.load()
    preprocessing = backbone.preprocessing.at_size(recipe.image_size)
    exact = recipe.precision == "exact"
    layers = backbone.feature_network(recipe.layers, device=device, channels_last=not exact)
    if not exact and n_images >= _WORTH_FUSING:
        fuse(layers, preprocessing.size)
    forward = _Forward(layers, preprocessing, recipe, device)
    with _arithmetic(device, exact):
        for positions, pixels, bad in _decoded(images, preprocessing, recipe, chunks):
            yield Batch(positions, forward(pixels) if positions else [], bad)


class _Forward:
    """Pixels of a batch to its pooled layers."""

    def __init__(
        self,
        network: torch.nn.Module,
        preprocessing: Preprocessing,
        recipe: Recipe,
        device: torch.device,
    ) -> None:
        self.network, self.recipe, self.device = network, recipe, device
        self.dtype = next((p.dtype for p in network.parameters()), torch.float32)
        self.mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> list[Array]:
        """(n, n_crops, H, W, 3) uint8 to one (n, ...) float32 array a layer."""
        step = len(pixels) if self.device.type != "cpu" else _CPU_BATCH // pixels.shape[1] or 1
        with torch.inference_mode():
            parts = [self._forward(pixels[i : i + step]) for i in range(0, len(pixels), step)]
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

    def _forward(self, pixels: npt.NDArray[np.uint8]) -> list[Array]:
        n, crops = pixels.shape[:2]
        x = (
            torch.from_numpy(pixels).flatten(0, 1).to(self.device)
        )  # (n, k, H, W, 3) -> (nk, H, W, 3)
        x = x.permute(0, 3, 1, 2)  # (nk, H, W, 3) -> (nk, 3, H, W), channels-last in memory
        if self.recipe.precision == "exact":
            x = x.contiguous()
        x = ((x.float() / 255 - self.mean) / self.std).to(self.dtype)
        results = []
        for maps in self.network(x):
            values = pool(maps.float(), self.recipe.pooling)
            # (n * k, ...) -> (n, k, ...), then the mean over the crops
            values = values.reshape(n, crops, *values.shape[1:]).mean(1)
            results.append(values.cpu().numpy())
        return results


def _decoded(
    images: ImageCollection,
    preprocessing: Preprocessing,
    recipe: Recipe,
    chunks: Iterable[Sequence[int]],
) -> Iterator[tuple[list[int], npt.NDArray[np.uint8], list[BadImage]]]:
    """Chunks as (positions, pixels, bad pictures), decoded by threads two chunks ahead."""

    def decode(i: int) -> npt.NDArray[np.uint8] | BadImage:
        try:
            image = images.read_rgb(i)
        except BadImageError as error:
            return BadImage(i, images.describe(i), str(error))
        return prepare(image, preprocessing, recipe.crops)

    def collect(
        chunk: Sequence[int], futures: Sequence[Future[Any]]
    ) -> tuple[list[int], npt.NDArray[np.uint8], list[BadImage]]:
        results = [future.result() for future in futures]
        good = [i for i, r in zip(chunk, results, strict=True) if not isinstance(r, BadImage)]
        pixels = [r for r in results if not isinstance(r, BadImage)]
        bad = [r for r in results if isinstance(r, BadImage)]
        return good, np.stack(pixels) if pixels else np.empty(0, np.uint8), bad

    waiting: deque[tuple[Sequence[int], list[Future[Any]]]] = deque()
    with ThreadPoolExecutor(joblib.cpu_count()) as threads:
        for chunk in chunks:
            waiting.append((chunk, [threads.submit(decode, int(i)) for i in chunk]))
            if len(waiting) > 2:
                yield collect(*waiting.popleft())
        while waiting:
            yield collect(*waiting.popleft())


def _arithmetic(device: torch.device, exact: bool) -> contextlib.AbstractContextManager[Any]:
    """Convolutions in full float32 on CUDA, whose default is TF32."""
    if device.type != "cuda" or not exact:
        return contextlib.nullcontext()
    cudnn = torch.backends.cudnn
    return cast(
        "contextlib.AbstractContextManager[Any]",
        cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False),
    )
