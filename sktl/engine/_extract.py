"""Features of a collection: shards of it computed here, or by the workers of joblib."""

from __future__ import annotations

import contextlib
import itertools
import sys
import tempfile
import threading
import uuid
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import torch

from sktl.engine._forward import Batch, forward, is_decoded_there
from sktl.engine._network import Network
from sktl.engine._prepare import n_crops
from sktl.engine._recipe import Recipe
from sktl.engine._runtime import Runtime, bf16_runtime
from sktl.exceptions import WorkerWarning
from sktl.images import ImageCollection

__all__ = ["chunk_size", "extract"]

# How often in a row a worker may be lost without any chunk being finished in between.
_MOST_LOSSES = 3
# The device of a worker, a process or a thread, and in which call.
_claimed = threading.local()
# What the backends of joblib raise when a worker process is gone, by name: none is imported here.
_LOSSES = {
    "BrokenExecutor",
    "KilledWorker",
    "ActorDiedError",
    "RayActorError",
    "WorkerCrashedError",
}


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
    runtime: Runtime = "auto",
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
        Chunks computed in parallel through joblib, whose active backend is used. Those of a worker
        that dies are computed again.
    runtime : {"auto", "torch", "compile", "onnxruntime", "openvino"}, default="auto"
        What runs the network; see :class:`sktl.CNNFeatures`.

    Yields
    ------
    batch : Batch
        In the order of the chunks.
    """
    device = device or torch.device("cpu")
    if bf16_runtime(network, recipe, device, runtime) == "torch":
        runtime = "torch"  # in workers, too, whatever they have
    chunks = iter(chunks)
    some = next(chunks, None)
    if some is None:
        return
    chunks = itertools.chain([some], chunks)
    decoded_there = is_decoded_there(recipe, device)
    if n_workers(n_images, batch_size, n_jobs) <= 1:
        yield from forward(
            *(images, network, recipe, chunks),
            n_images=n_images,
            device=device,
            runtime=runtime,
            decoded_there=decoded_there,
        )
        return
    with _claims_of_workers() as call:
        arguments = network, recipe, batch_size, runtime, decoded_there, _all_of(device), call
        yield from _outlasting(images, arguments, chunks, n_jobs)


def _outlasting(
    images: ImageCollection,
    arguments: tuple[Any, ...],
    chunks: Iterator[Sequence[int]],
    n_jobs: int | None,
) -> Iterator[Batch]:
    """Results of workers, where what those that are lost had to do is done again."""
    unfinished: deque[Sequence[int]] = deque()
    losses = 0
    while True:
        try:
            for batches in _in_workers(images, arguments, chunks, unfinished, n_jobs):
                chunk = unfinished.popleft()
                losses = 0
                for positions, layers, bad in batches:
                    moved = [replace(failure, index=int(chunk[failure.index])) for failure in bad]
                    yield Batch([chunk[i] for i in positions], layers, moved)
            return
        except Exception as error:
            losses += 1
            if not _is_loss(error) or losses > _MOST_LOSSES:
                raise
            warnings.warn(
                f"a worker was lost ({type(error).__name__}); what it had not finished is computed "
                "again",
                WorkerWarning,
                stacklevel=3,
            )
            chunks = itertools.chain(list(unfinished), chunks)
            unfinished.clear()


def _in_workers(
    images: ImageCollection,
    arguments: tuple[Any, ...],
    chunks: Iterator[Sequence[int]],
    unfinished: deque[Sequence[int]],
    n_jobs: int | None,
) -> Iterator[list[Batch]]:
    """Results of chunks, in their order, each of which is noted in `unfinished` when it is sent."""

    def tasks(some: Iterable[Sequence[int]]) -> Iterator[Any]:
        for chunk in some:
            unfinished.append(chunk)
            yield joblib.delayed(_work)(images[chunk], *arguments)

    backend, _ = joblib.parallel.get_active_backend()
    if backend.supports_return_generator:
        yield from joblib.Parallel(n_jobs=n_jobs, return_as="generator")(tasks(chunks))
        return
    # Backends on top of multiprocessing hand out all results together: wave by wave.
    wave = 2 * joblib.effective_n_jobs(n_jobs)
    with joblib.Parallel(n_jobs=n_jobs) as workers:  # the same ones for all
        while some := list(itertools.islice(chunks, wave)):
            yield from workers(tasks(some))


def _all_of(device: torch.device) -> list[torch.device]:
    """The devices that workers share out: all GPUs, unless one of them is named."""
    is_named = ":" in str(device)
    if device.type != "cuda" or is_named:
        return [device]
    return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]


def _is_loss(error: Exception) -> bool:
    return any(kind.__name__ in _LOSSES for kind in type(error).__mro__)


def n_workers(n_images: int, batch_size: int, n_jobs: int | None) -> int:
    """Processes that are worth starting: none of them should have less than a batch to do."""
    if n_jobs is None and _is_dask_task():
        return 1
    return int(min(joblib.effective_n_jobs(n_jobs), -(-n_images // batch_size)))


def _is_dask_task() -> bool:
    """Whether a worker of Dask runs this: its own tasks would wait for a place to run.

    Other backends of joblib start nothing more from inside of a worker.
    """
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


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
    runtime: Runtime,
    decoded_there: bool,
    devices: Sequence[torch.device],
    call: str,
) -> list[Batch]:
    """What a worker does with the pictures that it was sent."""
    n = len(images)
    step = chunk_size(recipe, n, batch_size, 1)
    chunks = (range(n)[start : start + step] for start in range(0, n, step))
    return list(
        forward(
            images,
            network,
            recipe,
            chunks,
            n_images=n,
            device=_own(devices, call),
            runtime=runtime,
            decoded_there=decoded_there,
            n_decoding=torch.get_num_threads(),  # its share of the cores
        )
    )


def _own(devices: Sequence[torch.device], call: str) -> torch.device:
    """The device that a worker keeps to through a call, so that it makes its network ready once.

    Each worker claims one by an empty folder, that which it had before if it is free. On another
    machine there may be fewer devices, and there are other claims.
    """
    if len(devices) == 1:
        return devices[0]
    if getattr(_claimed, "call", None) != call:
        there = list(devices[: torch.cuda.device_count()] or devices)
        there.sort(key=lambda device: device != getattr(_claimed, "device", None))
        _claimed.device = next(
            device
            for share in itertools.count()
            for device in there
            if _claims(Path(tempfile.gettempdir(), f"{call}-{device.index}-{share}"))
        )
        _claimed.call = call
    device: torch.device = _claimed.device
    return device


@contextlib.contextmanager
def _claims_of_workers() -> Iterator[str]:
    """The name of a call, and an end to what is claimed in it."""
    call = f"sktl-{uuid.uuid4().hex}"
    try:
        yield call
    finally:
        for claim in Path(tempfile.gettempdir()).glob(f"{call}-*"):
            with contextlib.suppress(OSError):
                claim.rmdir()


def _claims(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    except OSError:  # where no folder can be made, the first device has to do
        return True
    return True
