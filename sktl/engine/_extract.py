"""Features of a collection: decode beside forward, batch by batch, shard by shard."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast

import joblib
import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from sktl.backbones import Backbone, Preprocessing, load_backbone
from sktl.engine._fuse import fuse
from sktl.engine._prepare import Crops, n_crops, prepare
from sktl.exceptions import BadImage
from sktl.images import ImageCollection
from sktl.images._decode import BadImageError
from sktl.nn.pooling import Pooling, pool

__all__ = ["Batch", "Precision", "Recipe", "extract"]

Precision = Literal["auto", "exact"]
Array = npt.NDArray[np.float32]

# Finding what can be fused costs as much as a few pictures.
_WORTH_FUSING = 32
# On a CPU larger batches gain nothing, and their activations no longer fit the caches.
_CPU_BATCH = 8


@dataclass(frozen=True)
class Recipe:
    """Everything beside the network and the picture that decides the numbers."""

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
    backbone: Backbone,
    recipe: Recipe,
    *,
    batch_size: int = 64,
    device: torch.device | None = None,
    n_jobs: int | None = None,
    progress: bool = False,
) -> Iterator[Batch]:
    """Forward pictures through a network, batch by batch.

    Parameters
    ----------
    images : ImageCollection of length n
        The pictures.
    backbone : Backbone
        The network.
    recipe : Recipe
        What to compute.
    batch_size : int, default=64
        Pictures in memory and on the device at once. It does not change the result.
    device : torch.device, default=None
        Where to compute; the CPU by default.
    n_jobs : int, default=None
        Shards computed in parallel through joblib, whose active backend is used.
    progress : bool, default=False
        Show a progress bar if the work takes more than three seconds.

    Yields
    ------
    batch : Batch
        In the order of `images`.
    """
    device = device or torch.device("cpu")
    n_workers = min(joblib.effective_n_jobs(n_jobs), -(-len(images) // batch_size))
    with tqdm(total=len(images), unit="image", delay=3, disable=not progress) as bar:
        if n_workers <= 1:
            batches = _extract_shard(images, backbone, recipe, batch_size, device)
        else:
            batches = _extract_shards(images, backbone, recipe, batch_size, device, n_jobs)
        for batch in batches:
            yield batch
            bar.update(len(batch.positions) + len(batch.bad))


def _extract_shards(
    images: ImageCollection,
    backbone: Backbone,
    recipe: Recipe,
    batch_size: int,
    device: torch.device,
    n_jobs: int | None,
) -> Iterator[Batch]:
    """Shards of a few batches each, so that finished work comes back early and evenly."""
    n_workers = joblib.effective_n_jobs(n_jobs)
    step = min(-(-len(images) // n_workers), 8 * batch_size)
    reference = _reference(backbone)
    starts = range(0, len(images), step)
    results = joblib.Parallel(n_jobs=n_jobs, return_as="generator")(
        joblib.delayed(_shard)(images[start : start + step], reference, recipe, batch_size, device)
        for start in starts
    )
    for start, batches in zip(starts, results, strict=True):
        for positions, layers, bad in batches:
            moved = [replace(failure, index=failure.index + start) for failure in bad]
            yield Batch([start + i for i in positions], layers, moved)


def _shard(images: ImageCollection, *arguments: Any) -> list[Batch]:
    return list(_extract_shard(images, *arguments))


def _reference(backbone: Backbone) -> Backbone | tuple[str, str | None]:
    """What a worker needs to get the same network: its name, or itself where no name serves."""
    spec = backbone.spec
    if spec.source in ("registered", "module") or spec.weights is None:
        return backbone
    return spec.name, spec.weights


def _extract_shard(
    images: ImageCollection,
    backbone: Backbone | tuple[str, str | None],
    recipe: Recipe,
    batch_size: int,
    device: torch.device,
) -> Iterator[Batch]:
    if isinstance(backbone, tuple):
        backbone = load_backbone(*backbone)
    preprocessing = backbone.preprocessing.at_size(recipe.image_size)
    exact = recipe.precision == "exact"
    network = backbone.feature_network(recipe.layers, device=device, channels_last=not exact)
    if not exact and len(images) >= _WORTH_FUSING:
        fuse(network, preprocessing.size)
    forward = _Forward(network, preprocessing, recipe, device)
    with _arithmetic(device, exact):
        for positions, pixels, bad in _decoded(images, preprocessing, recipe, batch_size):
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
    images: ImageCollection, preprocessing: Preprocessing, recipe: Recipe, batch_size: int
) -> Iterator[tuple[list[int], npt.NDArray[np.uint8], list[BadImage]]]:
    """Batches of (positions, pixels, bad pictures), decoded by threads two batches ahead."""

    def decode(i: int) -> npt.NDArray[np.uint8] | BadImage:
        try:
            image = images.read_rgb(i)
        except BadImageError as error:
            return BadImage(i, images.describe(i), str(error))
        return prepare(image, preprocessing, recipe.crops)

    def collect(
        start: int, futures: Sequence[Future[Any]]
    ) -> tuple[list[int], npt.NDArray[np.uint8], list[BadImage]]:
        results = [future.result() for future in futures]
        good = [start + k for k, r in enumerate(results) if not isinstance(r, BadImage)]
        pixels = [r for r in results if not isinstance(r, BadImage)]
        bad = [r for r in results if isinstance(r, BadImage)]
        return good, np.stack(pixels) if pixels else np.empty(0, np.uint8), bad

    step = max(1, batch_size // n_crops(recipe.crops))
    waiting: deque[tuple[int, list[Future[Any]]]] = deque()
    with ThreadPoolExecutor(joblib.cpu_count()) as pool_of_threads:
        for start in range(0, len(images), step):
            stop = min(start + step, len(images))
            waiting.append((start, [pool_of_threads.submit(decode, i) for i in range(start, stop)]))
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
