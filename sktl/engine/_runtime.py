"""Programs that run a network: pixels of some pictures in, pooled layers out."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import math
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch

from sktl.engine._fuse import fuse
from sktl.exceptions import BatchSizeWarning, ParameterError
from sktl.nn.pooling import pool
from sktl.utils._onnx import write_onnx
from sktl.utils._optional import import_optional

if TYPE_CHECKING:
    from sktl.backbones import Backbone, Preprocessing
    from sktl.engine._network import Network
    from sktl.engine._recipe import Recipe

__all__ = [
    "RUNTIMES",
    "Pixels",
    "Runner",
    "Runtime",
    "check_runtime",
    "make_runner",
    "ready_runner",
]

Runtime = Literal["auto", "torch", "compile", "onnxruntime", "openvino"]
RUNTIMES = ("auto", "torch", "compile", "onnxruntime", "openvino")
Array = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8] | torch.Tensor

_PRECISIONS = {
    "compile": ("auto", "bf16"),
    "onnxruntime": ("auto",),
    "openvino": ("auto", "bf16"),
}
# Finding what can be fused costs as much as a few pictures.
_WORTH_FUSING = 32
# Finding out how long a few pictures take costs as much as these.
_WORTH_TIMING = 256
# Exporting a network and timing it against PyTorch takes some seconds, and saves a tenth or two:
# seconds of one core.
_WORTH_EXPORTING = 40.0
# Seconds.
_LONG = 0.5

# What the runner used last is for, and the runner.
_last: tuple[Any, Runner] | None = None
_last_lock = threading.Lock()


def ready_runner(
    network: Network,
    recipe: Recipe,
    device: torch.device,
    runtime: Runtime = "auto",
    *,
    n_images: int,
    step: int,
) -> Runner:
    """The runner used last where it serves again, else one from :func:`make_runner`.

    Getting a network ready costs as much as some dozen pictures: too much for each shard of a
    worker, and for each of many calls with a few pictures. Only networks that are known by their
    name are remembered, as the tensors of others can change.
    """
    global _last
    if network.alias is None:
        if recipe.precision == "bf16" and runtime == "auto":
            runtime = "torch"  # rather than an export for each call
        return make_runner(network.load(), recipe, device, runtime, n_images=n_images, step=step)
    purpose = (network.alias, recipe, str(device), runtime, step)
    with _last_lock:
        if _last is None or _last[0] != purpose or n_images > _last[1].most:
            _last = None  # its memory is let go of before the next one is made
            runner = make_runner(
                network.load(), recipe, device, runtime, n_images=n_images, step=step
            )
            _last = (purpose, runner)
        return _last[1]


def make_runner(
    backbone: Backbone,
    recipe: Recipe,
    device: torch.device,
    runtime: Runtime = "auto",
    *,
    n_images: int,
    step: int,
) -> Runner:
    """The runner that a runtime's name means.

    Parameters
    ----------
    backbone : Backbone
        The network.
    recipe : Recipe
        What to compute.
    device : torch.device
        Where to compute. ONNX Runtime and OpenVINO compute on the CPU.
    runtime : {"auto", "torch", "compile", "onnxruntime", "openvino"}, default="auto"
        "auto" is PyTorch; on a CPU, for as many pictures as are worth it, it goes on with the
        fastest of PyTorch and those of ONNX Runtime and OpenVINO that are installed once
        :meth:`Runner.settle` has found it. For bf16 on a CPU it is OpenVINO from the start, where
        that is installed.
    n_images : int
        How many pictures will be forwarded.
    step : int
        How many of their crops at once.

    Returns
    -------
    runner : Runner

    Raises
    ------
    ParameterError
        If the network cannot be exported to the runtime.
    """
    check_runtime(runtime, recipe.precision, device)
    if runtime == "compile":
        return _CompiledRunner(backbone, recipe, device, step)
    if runtime in _EXPORTED:
        return _exported(runtime, _Export(backbone, recipe), device, step)
    others = _others(recipe, device) if runtime == "auto" else []
    if others and recipe.precision == "bf16":
        with contextlib.suppress(ParameterError):
            return _exported(others[0], _Export(backbone, recipe), device, step)
    is_worth_fusing = n_images >= _WORTH_FUSING
    runner = _TorchRunner(backbone, recipe, device, step, is_worth_fusing=is_worth_fusing)
    if recipe.precision == "auto":
        runner.most = _enough_for(runner, n_images, bool(others))
        if n_images > runner.most:
            runner.most = math.inf
            with contextlib.suppress(ParameterError):
                return _FastestRunner(runner, _Export(backbone, recipe), others)
    return runner


def _others(recipe: Recipe, device: torch.device) -> list[str]:
    """Runtimes beside PyTorch that are installed and do what is asked."""
    if device.type != "cpu" or importlib.util.find_spec("onnx") is None:
        return []
    able = [name for name in _EXPORTED if recipe.precision in _PRECISIONS[name]]
    return [name for name in able if importlib.util.find_spec(name)]


def _enough_for(runner: Runner, n_images: int, may_choose: bool) -> float:
    """For how many pictures nothing more is worth being done to PyTorch's runner."""
    if n_images < _WORTH_FUSING:
        return _WORTH_FUSING - 1
    if not may_choose:
        return math.inf
    if n_images < _WORTH_TIMING:
        return _WORTH_TIMING - 1
    seconds = min(_time_of(runner) for _ in range(2))
    return max(_WORTH_TIMING - 1, _WORTH_EXPORTING / seconds * runner.step)


def check_runtime(runtime: Runtime, precision: str, device: torch.device) -> None:
    """Raise an error if a runtime is not installed or does not do what is asked of it.

    Parameters
    ----------
    runtime : {"auto", "torch", "compile", "onnxruntime", "openvino"}
        As of :func:`make_runner`.
    precision : {"auto", "exact", "bf16"}
        As of :class:`Recipe`.
    device : torch.device
        Where to compute.

    Raises
    ------
    ParameterError
        If the runtime has no such precision or device.
    MissingDependencyError
        If it is not installed.
    """
    if runtime not in _PRECISIONS:
        return
    able = _PRECISIONS[runtime]
    if precision not in able:
        listed = " or ".join(f'"{name}"' for name in able)
        raise ParameterError(
            f'precision must be {listed} with runtime="{runtime}"; got {precision!r}.'
        )
    if runtime == "compile":
        return
    if device.type != "cpu":
        raise ParameterError(f'device must be "cpu" with runtime="{runtime}"; got "{device}".')
    extra = "onnx" if runtime == "onnxruntime" else "openvino"
    for package in ("onnx", runtime):
        if importlib.util.find_spec(package) is None:
            import_optional(package, extra=extra, caller=f'runtime="{runtime}"')


class Runner:
    """Pixels of a batch to its pooled layers. Several threads can call it at once."""

    def __init__(self, backbone: Backbone, recipe: Recipe, device: torch.device, step: int) -> None:
        self.recipe, self.device, self.step = recipe, device, step
        self._lock, self._has_halved = threading.Lock(), False
        self.most = math.inf  # pictures; for more, another runner would be worth making
        self.preprocessing: Preprocessing = backbone.preprocessing.at_size(recipe.image_size)
        mean = torch.tensor(self.preprocessing.mean, device=device).view(1, 3, 1, 1)
        std = torch.tensor(self.preprocessing.std, device=device).view(1, 3, 1, 1)
        self.mean, self.std = mean, std
        # (x / 255 - mean) / std in one step
        self.scale, self.shift = 1 / (255 * std), -mean / std

    def __call__(self, pixels: Pixels) -> list[Array]:
        """(n, n_crops, H, W, 3) uint8 to one (n, ...) float32 array a layer."""
        return self.fetch(self.launch(pixels))

    def launch(self, pixels: Pixels) -> list[list[torch.Tensor]]:
        """Begin, without waiting for a device to finish: layers of each step, on the device."""
        parts: list[list[torch.Tensor]] = []
        done = 0
        while done < len(pixels):
            some = pixels[done : done + max(1, self.step // pixels.shape[1])]
            try:
                with torch.inference_mode():
                    parts.append(self._pooled(some))
                done += len(some)
                continue
            except torch.OutOfMemoryError:
                if len(some) == 1:
                    raise
            # Only here, behind the error, is what the attempt had in memory let go of.
            self._halve(len(some) * pixels.shape[1])
        return parts

    def fetch(self, parts: list[list[torch.Tensor]]) -> list[Array]:
        """What was launched, as one array a layer."""
        return [
            np.concatenate([t.cpu().numpy() for t in tensors])
            for tensors in zip(*parts, strict=True)
        ]

    def settle(self) -> None:
        """Find out what is fastest. Other threads can call the runner meanwhile."""

    def _run(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(n, 3, H, W) normalised pictures to maps."""
        raise NotImplementedError

    def _pooled(self, pixels: Pixels) -> list[torch.Tensor]:
        n, crops = pixels.shape[:2]
        results = []
        for maps in self._run(self._normalised(pixels)):
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
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class _TorchRunner(Runner):
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
        self.dtype = next((p.dtype for p in self.network.parameters()), torch.float32)
        if recipe.precision == "auto" and is_worth_fusing:
            fuse(self.network, self.preprocessing.size)

    def _run(self, x: torch.Tensor) -> list[torch.Tensor]:
        with self._arithmetic():
            maps: list[torch.Tensor] = self.network(x.to(self.dtype))
        return maps

    def _arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        if self.recipe.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        if self.recipe.precision == "exact" and self.device.type == "cuda":
            # Convolutions in full float32; the default is TF32.
            flags = torch.backends.cudnn.flags
            return cast(
                "contextlib.AbstractContextManager[Any]",
                flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False),
            )
        return contextlib.nullcontext()


class _CompiledRunner(_TorchRunner):
    """What torch.compile makes of the network, for batches of one size."""

    def __init__(self, backbone: Backbone, recipe: Recipe, device: torch.device, step: int) -> None:
        super().__init__(backbone, recipe, device, step, is_worth_fusing=False)
        self.network.replica.compile(dynamic=False)
        self._largest, self._compiling = 0, threading.Lock()

    def _run(self, x: torch.Tensor) -> list[torch.Tensor]:
        n = len(x)
        with self._compiling:
            if n > self._largest:
                self._largest = n
                return super()._run(x)
        if n < self._largest:
            x = torch.cat([x, x[:1].expand(self._largest - n, -1, -1, -1)])
        return [maps[:n] for maps in super()._run(x)]


class _OnnxRunner(Runner):
    """ONNX Runtime, on the CPU: one core a call."""

    def __init__(self, export: _Export, device: torch.device, step: int) -> None:
        super().__init__(export.backbone, export.recipe, device, step)
        library = importlib.import_module("onnxruntime")
        options = library.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        self.session = library.InferenceSession(
            export.model, options, providers=["CPUExecutionProvider"]
        )

    def _run(self, x: torch.Tensor) -> list[torch.Tensor]:
        arrays = self.session.run(None, {"x": x.contiguous().numpy()})
        return [torch.from_numpy(array) for array in arrays]


class _OpenVinoRunner(Runner):
    """OpenVINO, on the CPU: one core a call."""

    def __init__(self, export: _Export, device: torch.device, step: int) -> None:
        super().__init__(export.backbone, export.recipe, device, step)
        core = importlib.import_module("openvino").Core()
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.recipe.precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "THROUGHPUT",
        }
        model = core.read_model(io.BytesIO(export.model))
        self.compiled = core.compile_model(model, "CPU", options)
        self.local = threading.local()

    def _run(self, x: torch.Tensor) -> list[torch.Tensor]:
        if not hasattr(self.local, "request"):
            self.local.request = self.compiled.create_infer_request()
        arrays = self.local.request.infer([x.contiguous().numpy()])
        return [torch.from_numpy(np.array(arrays[output])) for output in self.compiled.outputs]


class _FastestRunner(Runner):
    """PyTorch, until one of the other runtimes has turned out to be faster."""

    def __init__(self, runner: Runner, export: _Export, others: list[str]) -> None:
        super().__init__(export.backbone, runner.recipe, runner.device, runner.step)
        self.fastest, self._export, self._others = runner, export, others

    def settle(self) -> None:
        with self._lock:
            others, self._others = self._others, []  # one thread does it
        if not others:
            return
        runners = [self.fastest]
        for name in others:
            with contextlib.suppress(ParameterError):
                runners.append(_exported(name, self._export, self.device, self.step))
        del self._export
        self.fastest = _fastest_of(runners)

    def _run(self, x: torch.Tensor) -> list[torch.Tensor]:
        return self.fastest._run(x)


_EXPORTED: dict[str, Callable[..., Runner]] = {
    "onnxruntime": _OnnxRunner,
    "openvino": _OpenVinoRunner,
}


def _exported(runtime: str, export: _Export, device: torch.device, step: int) -> Runner:
    """The runner of an exported network, compared with the network that it was made of."""
    try:
        runner = _EXPORTED[runtime](export, device, step)
    except Exception as error:
        name = export.backbone.spec.name
        raise ParameterError(f'{name} cannot be run by runtime="{runtime}": {error}') from error
    _check_export(runner, export)
    return runner


class _Export:
    """What a network is as ONNX, for batches of any size."""

    def __init__(self, backbone: Backbone, recipe: Recipe) -> None:
        self.backbone, self.recipe = backbone, recipe
        network = backbone.feature_network(recipe.layers, device=torch.device("cpu"))
        names = [f"layer_{i}" for i in range(len(recipe.layers))]
        try:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "network.onnx")
                write_onnx(network, [self.noise(2, seed=0)], file, inputs=["x"], outputs=names)
                self.model = file.read_bytes()
        except Exception as error:
            raise ParameterError(
                f"{backbone.spec.name} cannot be exported to ONNX: {error}"
            ) from error

    def noise(self, n: int, *, seed: int) -> torch.Tensor:
        """(n, 3, size, size) numbers from 0 to 1."""
        size = self.backbone.preprocessing.at_size(self.recipe.image_size).size
        return torch.rand((n, 3, size, size), generator=torch.Generator().manual_seed(seed))

    @functools.cached_property
    def samples(self) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
        """Some pictures, and what the network makes of them."""
        # Not the one that went through the exporter, which gives other numbers afterwards.
        network = self.backbone.feature_network(self.recipe.layers, device=torch.device("cpu"))
        with torch.inference_mode():
            return [(x, network(x)) for x in (self.noise(n, seed=n) for n in (1, 3))]


def _check_export(runner: Runner, export: _Export) -> None:
    """Compare an exported network with the one that it was made of, for batches of other sizes.

    What the tracer saw for two pictures, such as a Python loop, need not hold for three.
    """
    name = export.backbone.spec.name
    tolerance = 0.2 if export.recipe.precision == "bf16" else 1e-3
    for x, expected in export.samples:
        try:
            found = runner._run(x)
            pairs = list(zip(found, expected, strict=True))
            same = all(
                one.shape == other.shape
                and float((one - other).norm()) <= tolerance * float(other.norm()) + 1e-6
                for one, other in pairs
            )
        except Exception as error:
            raise ParameterError(
                f"{name} cannot be exported to ONNX for batches of any size: {error}"
            ) from error
        if not same:
            raise ParameterError(
                f"{name} exported to ONNX gives other numbers for {len(x)} pictures; use "
                'runtime="torch"'
            )


def _fastest_of(runners: list[Runner]) -> Runner:
    """The one that takes the fewest seconds for a step.

    They take turns, so that what else the machine does slows all of them, and each has its best
    turn counted: of up to three, unless the first is long beside any warming up.
    """
    best = dict.fromkeys(runners, math.inf)
    for _ in range(3):
        for runner in runners:
            best[runner] = min(best[runner], _time_of(runner))
        if min(best.values()) > _LONG:
            break
    return min(runners, key=best.__getitem__)


def _time_of(runner: Runner) -> float:
    """Seconds for one step."""
    size = runner.preprocessing.size
    pixels = np.zeros((max(1, runner.step), 1, size, size, 3), np.uint8)
    start = time.perf_counter()
    runner(pixels)
    return time.perf_counter() - start
