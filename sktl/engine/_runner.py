"""Programs that run a network: pixels of some pictures in, pooled layers out. PyTorch's own."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from sktl.engine._fuse import fuse
from sktl.engine._prepare import n_crops
from sktl.engine._winograd import part_in_tiles
from sktl.exceptions import BatchSizeWarning
from sktl.nn.pooling import pool
from sktl.utils._devices import empty_cache, is_out_of_memory
from sktl.utils._float32 import full_float32

if TYPE_CHECKING:
    from sktl.backbones import Backbone, Preprocessing
    from sktl.engine._recipe import Recipe

__all__ = [
    "CompiledRunner",
    "Pixels",
    "Runner",
    "TorchRunner",
    "fitting",
    "joined",
    "times_of",
]

Array = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8] | torch.Tensor


# Bytes that the maps of a layer may take on a CPU, for the next layer to find them in the caches.
_CACHED = 20 << 20
# Seconds beside which warming up is little, so that a step is timed once; and what part of
# another's time a runner has to take for there to be no doubt.
_LONG = 0.25
_CLEARLY = 2 / 3


class Launched(NamedTuple):
    """Layers of some pictures, and what a GPU reports when they have arrived."""

    layers: list[torch.Tensor]
    arrival: Any = None


def fitting(n_bytes: int, most: int) -> int:
    """The largest share of `most` pictures whose maps, of so many bytes, fit the caches, or 1."""
    if most * n_bytes <= _CACHED:
        return most
    fits = _CACHED // n_bytes
    return max((n for n in range(1, fits + 1) if most % n == 0), default=1)


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Parts of a batch, put together."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class Runner:
    """Pixels of a batch to its pooled layers. Several threads can call it at once."""

    def __init__(self, backbone: Backbone, recipe: Recipe, device: torch.device, step: int) -> None:
        self.recipe, self.device, self.step = recipe, device, step
        self._lock, self._has_halved = threading.Lock(), False
        self.n_bytes = 0  # of what it keeps of the network
        self.most = math.inf  # pictures; for more, another runner would be worth making
        self.keeps_waiting = False  # whoever calls it, as other threads compute
        self.preprocessing: Preprocessing = backbone.preprocessing.at_size(recipe.image_size)
        mean = torch.tensor(self.preprocessing.mean, device=device).view(1, 3, 1, 1)
        std = torch.tensor(self.preprocessing.std, device=device).view(1, 3, 1, 1)
        self.mean, self.std = mean, std
        # (x / 255 - mean) / std in one step
        self.scale, self.shift = 1 / (255 * std), -mean / std

    def __call__(self, pixels: Pixels) -> list[Array]:
        """(n, n_crops, H, W, 3) uint8 to one (n, ...) float32 array a layer."""
        return self.fetch(self.launch(pixels))

    def launch(self, pixels: Pixels) -> list[Launched]:
        """Begin, without waiting for a device to finish: layers of each step."""
        parts: list[Launched] = []
        done = 0
        while done < len(pixels):
            some = pixels[done : done + max(1, self.step // pixels.shape[1])]
            try:
                with torch.inference_mode():
                    parts.append(self._sent_back(self._pooled(some)))
                done += len(some)
                continue
            except RuntimeError as error:
                if len(some) == 1 or not is_out_of_memory(error):
                    raise
            # Only here, behind the error, is what the attempt had in memory let go of.
            self._halve(len(some) * pixels.shape[1])
        return parts

    def fetch(self, parts: list[Launched]) -> list[Array]:
        """What was launched, as one array a layer."""
        for part in parts:
            if part.arrival is not None:
                part.arrival.synchronize()
        return [
            np.concatenate([t.cpu().numpy() for t in tensors])
            for tensors in zip(*(part.layers for part in parts), strict=True)
        ]

    def _sent_back(self, layers: list[torch.Tensor]) -> Launched:
        """Have a GPU send its results as soon as it has them, not behind what it is told next."""
        if self.device.type != "cuda":
            return Launched(layers)
        with torch.cuda.device(self.device):
            # Into pinned memory.
            arriving = [layer.to("cpu", non_blocking=True) for layer in layers]
            arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrival.record()
        return Launched(arriving, arrival)

    def settle(self) -> None:
        """Find out what is fastest. Other threads can call the runner meanwhile."""

    def maps(self, pixels: Pixels) -> list[torch.Tensor]:
        """(n, n_crops, H, W, 3) uint8 to maps of n * n_crops pictures, one batch a layer."""
        return self._run(self._normalised(pixels))

    def _run(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(n, 3, H, W) normalised pictures to maps."""
        raise NotImplementedError

    def _pooled(self, pixels: Pixels) -> list[torch.Tensor]:
        n, crops = pixels.shape[:2]
        results = []
        for maps in self.maps(pixels):
            values = pool(maps.float(), self.recipe.pooling)
            # (n * k, ...) -> (n, k, ...), then the mean over the crops
            results.append(values.reshape(n, crops, *values.shape[1:]).mean(1))
        return results

    def _normalised(self, pixels: Pixels) -> torch.Tensor:
        x = torch.as_tensor(pixels).flatten(0, 1)  # (n, k, H, W, 3) -> (nk, H, W, 3)
        if self.device.type == "cuda" and not x.is_cuda:
            x = x.pin_memory().to(self.device, non_blocking=True)
        else:
            x = x.to(self.device)
        x = x.permute(0, 3, 1, 2)  # (nk, H, W, 3) -> (nk, 3, H, W), channels-last in memory
        if self.recipe.precision == "exact":
            return (x.contiguous().float() / 255 - self.mean) / self.std
        return torch.addcmul(self.shift, x.float(), self.scale)

    def _halve(self, n: int) -> None:
        with self._lock:
            is_first, self._has_halved = not self._has_halved, True
        if is_first:
            warnings.warn(
                f"{n} pictures at once do not fit into the memory of {self.device}; going on with "
                f"{n // 2}, or fewer. Pass a smaller batch_size to avoid the attempt",
                BatchSizeWarning,
                stacklevel=2,
            )
        self.step = n // 2
        empty_cache(self.device)


class TorchRunner(Runner):
    """PyTorch itself."""

    def __init__(
        self,
        backbone: Backbone,
        recipe: Recipe,
        device: torch.device,
        step: int,
        *,
        is_worth_fusing: bool,
    ) -> None:
        super().__init__(backbone, recipe, device, step)
        exact = recipe.precision == "exact"
        self.network = backbone.feature_network(
            recipe.layers, device=device, channels_last=not exact
        )
        self.n_bytes = sum(p.nbytes for p in self.network.parameters())
        self.n_modules = sum(1 for _ in self.network.modules())
        self.part_in_tiles = part_in_tiles(self.network)
        self.dtype = next((p.dtype for p in self.network.parameters()), torch.float32)
        self._at_once = sys.maxsize
        if recipe.precision == "auto" and is_worth_fusing:
            with self._arithmetic():
                n_bytes = fuse(self.network, self.preprocessing.size).n_bytes
            if device.type == "cpu":
                self._at_once = fitting(n_bytes, max(step, n_crops(recipe.crops)))

    def _run(self, x: torch.Tensor) -> list[torch.Tensor]:
        parts: list[list[torch.Tensor]]
        with self._arithmetic():
            parts = [self.network(some.to(self.dtype)) for some in torch.split(x, self._at_once)]
        return [joined(maps) for maps in zip(*parts, strict=True)]

    def _arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        if self.recipe.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        # On a GPU, "auto" lets convolutions have TF32, as PyTorch does by default.
        if self.recipe.precision == "exact" or self.device.type == "cpu":
            return full_float32(self.device.type)
        return contextlib.nullcontext()


class CompiledRunner(TorchRunner):
    """What torch.compile makes of the network, for batches of one size."""

    def __init__(self, backbone: Backbone, recipe: Recipe, device: torch.device, step: int) -> None:
        super().__init__(backbone, recipe, device, step, is_worth_fusing=False)
        self.network.replica.compile(dynamic=False)
        self._largest, self._compiling = 0, threading.Lock()

    def _run(self, x: torch.Tensor) -> list[torch.Tensor]:
        n = len(x)
        with self._compiling:
            if n > self._largest:
                maps = super()._run(x)
                self._largest = n
                return maps
            most = self._largest
        if n < most:
            x = torch.cat([x, x[:1].expand(most - n, -1, -1, -1)])
            # In the order in memory that was compiled for.
            x = x.contiguous(memory_format=torch.channels_last)
        return [maps[:n] for maps in super()._run(x)]

    def _halve(self, n: int) -> None:
        super()._halve(n)
        self._largest = 0  # there is no room for what was compiled


def times_of(runners: Sequence[Runner]) -> list[float]:
    """Seconds for one step of each of one or two.

    They take turns, so that what else the machine does slows both of them, and each has its best
    turn counted: of up to three, as long as the turns are short and there is doubt.
    """
    best = [math.inf] * len(runners)
    for _ in range(3):
        best = [min(s, _time_of(runner)) for s, runner in zip(best, runners, strict=True)]
        if min(best) > _LONG or min(best) < _CLEARLY * max(best):
            break
    return best


def _time_of(runner: Runner) -> float:
    """Seconds for one step."""
    size = runner.preprocessing.size
    pixels = np.zeros((max(1, runner.step), 1, size, size, 3), np.uint8)
    start = time.perf_counter()
    runner(pixels)
    return time.perf_counter() - start
