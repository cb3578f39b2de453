"""Pictures through a network in one process: decoding beside forwarding."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import joblib
import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits

from sktl.engine._decode_on_device import decode_on, decodes_jpeg
from sktl.engine._network import Network
from sktl.engine._prepare import n_crops, prepare, prepare_on
from sktl.engine._recipe import Recipe
from sktl.engine._resize_on_device import MOST_LEVELS
from sktl.engine._runner import Pixels, Runner
from sktl.engine._runtime import Runtime, ready_runner
from sktl.exceptions import BadImage, MissingDependencyError
from sktl.images import ImageCollection
from sktl.images._decode import BadImageError
from sktl.utils._devices import is_out_of_memory, numbered

__all__ = ["Batch", "forward", "is_decoded_there"]

Array = npt.NDArray[np.float32]
T = TypeVar("T")

# Crops that a thread forwards at once: larger batches gain nothing on a CPU, and their activations
# no longer fit the caches.
_CPU_STEP = 4
# More threads than this would wait for Python's lock; further cores work inside the operations.
_MOST_REPLICAS = 16
# How many chunks are decoded ahead.
_AHEAD = 2
# Of large JPEG pictures, bf16 lets this many times the size that they are resized to be decoded.
_LEFT = 4
# Devices that resize as well, as the cores in front of them are their bound.
_RESIZING = ("cuda",)
# Files that a device which decodes them, too, is given at once.
_FILES = 16


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


class _Decoded(NamedTuple):
    positions: list[int]
    pixels: list[Pixels]
    bad: list[BadImage]


def forward(
    images: ImageCollection,
    network: Network,
    recipe: Recipe,
    chunks: Iterable[Sequence[int]],
    *,
    n_images: int,
    device: torch.device,
    runtime: Runtime = "auto",
    decoded_there: bool = False,
    n_decoding: int | None = None,
) -> Iterator[Batch]:
    """Forward pictures through a network, chunk by chunk.

    See :func:`sktl.engine.extract`; `decoded_there` is what :func:`is_decoded_there` has said, and
    `n_decoding` the number of threads that decode for another device than the CPU, by default that
    of all cores.
    """
    if device.type == "cpu":
        return _on_cpu(images, network, recipe, chunks, n_images, device, runtime)
    device = numbered(device)
    runner = ready_runner(network, recipe, device, runtime, n_images=n_images, step=1 << 30)
    if decoded_there and not decodes_jpeg(device):
        raise MissingDependencyError(
            "JPEG pictures are to be decoded by the GPU, as whoever began this does; install "
            'TorchCodec on all machines (pip install "sktl[nvjpeg]"), or on none'
        )
    n_decoding = n_decoding or joblib.cpu_count()
    return _on_device(images, runner, chunks, n_decoding, decoded_there=decoded_there)


def is_decoded_there(recipe: Recipe, device: torch.device) -> bool:
    """Whether a GPU decodes what it can: with bf16 alone, as that changes features by .03."""
    is_rough = recipe.precision == "bf16" and device.type in _RESIZING
    return is_rough and recipe.crops == "center" and decodes_jpeg(numbered(device))


def _on_cpu(
    images: ImageCollection,
    network: Network,
    recipe: Recipe,
    chunks: Iterable[Sequence[int]],
    n_images: int,
    device: torch.device,
    runtime: Runtime,
) -> Iterator[Batch]:
    """Each thread has a core of its own, and decodes and forwards a few pictures at a time.

    One network that spreads every operation over the cores makes them wait for each other
    hundreds of times a picture. Where another program computes, in threads of its own, a thread
    more decodes while others wait for it.
    """
    cores = torch.get_num_threads()
    step = max(1, min(_CPU_STEP // n_crops(recipe.crops), -(-n_images // cores)))
    n_threads = min(cores, _MOST_REPLICAS, -(-n_images // step))
    at_work = threading.Semaphore(n_threads)
    with _threads(n_threads + 1, cores // n_threads) as threads:
        sizes = {"n_images": n_images, "step": _CPU_STEP, "n_threads": n_threads}
        ready = threads.submit(ready_runner, network, recipe, device, runtime, **sizes)
        runner: Runner = ready.result()

        def settle() -> None:
            with at_work:
                runner.settle()
            if runner.keeps_waiting:
                at_work.release()

        def work(positions: Sequence[int]) -> Batch:
            with at_work:
                decoded = _decode(images, positions, runner)
                layers = runner(_stack(decoded.pixels, device)) if decoded.positions else []
                return Batch(decoded.positions, layers, decoded.bad)

        settled = threads.submit(settle)

        for parts in _ahead(threads, work, chunks, step, n_threads):
            layers = [part.layers for part in parts if part.positions]
            yield Batch(
                [i for part in parts for i in part.positions],
                [np.concatenate(arrays) for arrays in zip(*layers, strict=True)],
                [failure for part in parts for failure in part.bad],
            )
        settled.result()


def _on_device(
    images: ImageCollection,
    runner: Runner,
    chunks: Iterable[Sequence[int]],
    n_decoding: int,
    *,
    decoded_there: bool = False,
) -> Iterator[Batch]:
    """Threads decode ahead of the device, and the device is never asked to wait for results."""
    launched: deque[tuple[list[int], Any, list[BadImage]]] = deque()

    def finish() -> Batch:
        positions, values, bad = launched.popleft()
        return Batch(positions, runner.fetch(values), bad)

    def decode(positions: Sequence[int]) -> _Decoded:
        there = _decoded_there(images, positions, runner.device) if decoded_there else {}
        return _decode(images, positions, runner, there)

    step = _FILES if decoded_there else 1
    with _threads(n_decoding, 1) as threads:
        for parts in _ahead(threads, decode, chunks, step, n_decoding):
            pixels = [some for part in parts for some in part.pixels]
            launched.append(
                (
                    [i for part in parts for i in part.positions],
                    runner.launch(_stack(pixels, runner.device)) if pixels else [],
                    [failure for part in parts for failure in part.bad],
                )
            )
            if len(launched) > 1:
                yield finish()
        while launched:
            yield finish()


def _decode(
    images: ImageCollection,
    positions: Sequence[int],
    runner: Runner,
    there: Mapping[int, Any] = MappingProxyType({}),
) -> _Decoded:
    """Decode and prepare pictures, but for those that are `there`, decoded on the device."""
    recipe = runner.recipe
    by_device = runner.device.type in _RESIZING and recipe.crops == "center"
    # Resizing by PyTorch changes features by up to .01 of their norm, reduced decoding by .05.
    is_rough = recipe.precision == "bf16"
    least = _LEFT * runner.preprocessing.resize if is_rough else None
    good: list[int] = []
    pixels: list[Pixels] = []
    bad: list[BadImage] = []
    for i in positions:
        try:
            image = there[i] if i in there else images.read(i, least=least)
        except BadImageError as error:
            bad.append(BadImage(i, images.describe(i), str(error)))
            continue
        good.append(i)
        if by_device:
            pixels.append(prepare_on(runner.device, image, runner.preprocessing))
            continue
        pixels.append(prepare(image, runner.preprocessing, recipe.crops, exact=not is_rough))
    return _Decoded(good, pixels, bad)


def _decoded_there(
    images: ImageCollection, positions: Sequence[int], device: torch.device
) -> dict[int, Any]:
    """Those of the pictures that a device decodes, as tensors."""
    encoded = {i: images.plain_jpeg(i, most=MOST_LEVELS // 3) for i in positions}
    plain = {i: file for i, file in encoded.items() if file is not None}
    pictures = zip(plain, decode_on(device, list(plain.values())), strict=True)
    return {i: picture for i, picture in pictures if picture is not None}


def _stack(pixels: list[Any], device: torch.device) -> Pixels:
    """Pixels of pictures in one: on the device, if some of them are there already."""
    on_host = [some for some in pixels if isinstance(some, np.ndarray)]
    if len(on_host) == len(pixels):
        return np.stack(pixels)
    try:
        sent = iter(_uploaded(np.stack(on_host), device) if on_host else ())
        return torch.stack([next(sent) if isinstance(s, np.ndarray) else s for s in pixels])
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # The runner uploads as much at a time as there is room for.
    return np.stack([s if isinstance(s, np.ndarray) else s.cpu().numpy() for s in pixels])


def _uploaded(pixels: npt.NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(pixels)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _ahead(
    threads: ThreadPoolExecutor,
    work: Callable[[Sequence[int]], T],
    chunks: Iterable[Sequence[int]],
    step: int,
    n_threads: int,
) -> Iterator[list[T]]:
    """What `work` gives for each chunk, `step` positions at a time.

    It is begun some chunks ahead, and as many as keep all threads at work.
    """
    begun: deque[list[Future[T]]] = deque()
    for chunk in chunks:
        parts = (chunk[i : i + step] for i in range(0, len(chunk), step))
        begun.append([threads.submit(work, part) for part in parts])
        if len(begun) > _AHEAD and sum(map(len, begun)) > n_threads:
            yield [future.result() for future in begun.popleft()]
    while begun:
        yield [future.result() for future in begun.popleft()]


@contextlib.contextmanager
def _threads(n_threads: int, n_cores: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that use some cores each; the limit ends with them and concerns no other thread."""

    def limit() -> None:
        torch.get_num_threads()  # PyTorch sets its own limit when a thread first asks
        threadpool_limits(n_cores, user_api="openmp")

    threads = ThreadPoolExecutor(n_threads, initializer=limit)
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)
