"""Which program runs a network: what was asked for, or what is fastest."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import math
import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Literal

import torch

from sktl.backbones._registry import ON_CLEAR
from sktl.engine._exported import EXPORTED, Export, exported
from sktl.engine._openvino import is_out_of_reach
from sktl.engine._prepare import n_crops
from sktl.engine._runner import CompiledRunner, Pixels, Runner, TorchRunner, times_of
from sktl.engine._three_products import has_matrix_units
from sktl.exceptions import MissingDependencyError, ParameterError
from sktl.utils._optional import import_optional

if TYPE_CHECKING:
    from sktl.backbones import Backbone
    from sktl.engine._network import Network
    from sktl.engine._recipe import Recipe

__all__ = [
    "RUNTIMES",
    "Runtime",
    "check_runtime",
    "make_runner",
    "ready_runner",
]

Runtime = Literal["auto", "torch", "compile", "onnxruntime", "openvino"]
RUNTIMES = ("auto", "torch", "compile", "onnxruntime", "openvino")

_PRECISIONS = {
    "compile": ("auto", "bf16"),
    "onnxruntime": ("auto",),
    "openvino": ("auto", "bf16"),
}
# What has to be installed; the first one is the name of the extra.
_PACKAGES = {"onnxruntime": ("onnx", "onnxruntime"), "openvino": ("openvino",)}
# Finding what can be fused costs as much as a few pictures.
_WORTH_FUSING = 32
# Finding out how long a picture takes costs as much as a dozen of them.
_WORTH_TIMING = 256
# Seconds of a core that exporting a network and timing it against PyTorch takes, with something to
# spare: at least so many, and more for each of its modules and each byte of its weights.
_EXPORTING, _PER_MODULE, _PER_BYTE = 1.0, 6e-3, 2e-8
# Part of the time of forwarding that is saved, or more; with matrix units; and without, of those
# convolutions that are computed in tiles, beside it.
_SAVED, _SAVED_WITH_MATRIX_UNITS, _SAVED_IN_TILES = 0.2, 0.5, 0.3
# What part of another's time a runner has to take for a third one not to be worth exporting.
_FASTER = 0.95

_FORKED = (
    "OpenVINO cannot be used in a process that was forked from one that has used it: pass "
    'runtime="torch", or have multiprocessing start processes by "spawn"'
)

# The runners used last, and what each is for: as many as work one after the other on the same
# pictures, unless they are large.
_READY_MOST, _READY_BYTES = 3, 500_000_000
_ready: OrderedDict[Any, Runner] = OrderedDict()
_ready_lock = threading.Lock()


def _let_go() -> None:
    with _ready_lock:
        _ready.clear()


def _begin_anew() -> None:
    """In a child that was forked, in which threads are missing that its parent's runners need."""
    global _ready_lock
    _ready_lock = threading.Lock()
    # OpenVINO's would end the process, not only themselves: they are kept beyond its end.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(list(_ready.values())))
    _ready.clear()


ON_CLEAR.append(_let_go)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def ready_runner(
    network: Network,
    recipe: Recipe,
    device: torch.device,
    runtime: Runtime = "auto",
    **sizes: int,
) -> Runner:
    """One of the runners used last where it serves again, else one from :func:`make_runner`.

    Getting a network ready costs as much as some dozen pictures: too much for each shard of a
    worker, and for each of many calls with a few pictures. Only networks that are known by their
    name are remembered, as the tensors of others can change.
    """
    if network.alias is None:
        return make_runner(network.load(), recipe, device, runtime, **sizes)
    purpose = network.alias, recipe, str(device), runtime, sizes["step"]
    with _ready_lock:
        if purpose in _ready and sizes["n_images"] <= _ready[purpose].most:
            _ready.move_to_end(purpose)
            return _ready[purpose]
        _ready.pop(purpose, None)
        backbone = network.load()
        n_bytes = sum(parameter.nbytes for parameter in backbone.module.parameters())
        # Their memory is let go of before the next one is made.
        while _ready and (
            len(_ready) >= _READY_MOST
            or n_bytes + sum(other.n_bytes for other in _ready.values()) > _READY_BYTES
        ):
            _ready.popitem(last=False)
        _ready[purpose] = make_runner(backbone, recipe, device, runtime, **sizes)
        return _ready[purpose]


def make_runner(
    backbone: Backbone,
    recipe: Recipe,
    device: torch.device,
    runtime: Runtime = "auto",
    *,
    n_images: int,
    step: int,
    n_threads: int = 1,
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
        "auto" is PyTorch; on a CPU, for as many pictures as make it worth it, it goes on with
        OpenVINO, or else ONNX Runtime, if that is installed and :meth:`Runner.settle` has found it
        to be faster. For bf16 on a CPU it is OpenVINO from the start, where that is installed.
    n_images : int
        How many pictures will be forwarded.
    step : int
        How many of their crops at once.
    n_threads : int, default=1
        How many threads will call it.

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
        return CompiledRunner(backbone, recipe, device, step)
    if runtime in EXPORTED:
        return exported(runtime, Export(backbone, recipe), device, step)
    if runtime == "auto" and recipe.precision == "bf16" and is_out_of_reach():
        # Whoever sent this shard has OpenVINO, and will take for its rounding what comes back.
        raise ParameterError(_FORKED)
    others = _others(recipe, device) if runtime == "auto" else []
    if others and recipe.precision == "bf16":
        with contextlib.suppress(ParameterError):
            return exported(others[0], Export(backbone, recipe), device, step)
    is_worth_fusing = n_images >= _WORTH_FUSING
    runner = TorchRunner(backbone, recipe, device, step, is_worth_fusing=is_worth_fusing)
    if recipe.precision == "auto":
        enough = _enough_for(runner, n_images, n_threads, others)
        if n_images <= enough:
            runner.most = enough
            return runner
        return _FastestRunner(runner, Export(backbone, recipe), others)
    return runner


def _others(recipe: Recipe, device: torch.device) -> list[str]:
    """Runtimes beside PyTorch that are installed and do what is asked."""
    able = []
    for name in EXPORTED:
        with contextlib.suppress(ParameterError, MissingDependencyError):
            check_runtime(name, recipe.precision, device)
            able.append(name)
    return able


def bf16_runtime(
    network: Network, recipe: Recipe, device: torch.device | None, runtime: Runtime
) -> Runtime | None:
    """Whose bfloat16 the features will be: runtimes round in different places.

    Parameters
    ----------
    network : Network
        One without a name is PyTorch's by default, rather than exported for each call.
    recipe : Recipe
    device : torch.device or None
        None is the CPU.
    runtime : {"auto", "torch", "compile", "onnxruntime", "openvino"}

    Returns
    -------
    name : {"torch", "compile", "openvino"} or None
        None for other precisions, in which the runtime makes no difference.
    """
    if recipe.precision != "bf16":
        return None
    if runtime != "auto":
        return runtime
    if network.alias is None or not _others(recipe, device or torch.device("cpu")):
        return "torch"
    return "openvino"


def _enough_for(runner: TorchRunner, n_images: int, n_threads: int, others: list[str]) -> float:
    """For how many pictures nothing more is worth being done to PyTorch's runner."""
    if n_images < _WORTH_FUSING:
        return _WORTH_FUSING - 1
    if not others:
        return math.inf
    if n_images < _WORTH_TIMING:
        return _WORTH_TIMING - 1
    [seconds] = times_of([runner])
    seconds *= n_crops(runner.recipe.crops) / runner.step  # of a picture
    cost = _EXPORTING + _PER_MODULE * runner.n_modules + _PER_BYTE * runner.n_bytes
    saved = _SAVED
    if "openvino" in others and has_matrix_units():
        saved = _SAVED_WITH_MATRIX_UNITS
    elif "openvino" in others:
        saved += _SAVED_IN_TILES * runner.part_in_tiles
    # While one thread exports, the others go on, and save nothing yet.
    return max(_WORTH_TIMING - 1, cost / seconds * (1 / saved + n_threads - 1))


def check_runtime(runtime: str, precision: str, device: torch.device) -> None:
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
        If the runtime has no such precision or device, or it is OpenVINO and this process was
        forked from one that has used it.
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
    if runtime == "openvino" and is_out_of_reach():
        raise ParameterError(_FORKED)
    for package in _PACKAGES[runtime]:
        if importlib.util.find_spec(package) is None:
            extra = _PACKAGES[runtime][0]
            import_optional(package, extra=extra, caller=f'runtime="{runtime}"')


class _FastestRunner(Runner):
    """PyTorch, until one of the other runtimes has turned out to be faster."""

    def __init__(self, runner: Runner, export: Export, others: list[str]) -> None:
        super().__init__(export.backbone, runner.recipe, runner.device, runner.step)
        self.fastest, self._export, self._others = runner, export, others
        self.n_bytes = runner.n_bytes

    def settle(self) -> None:
        with self._lock:
            others, self._others = self._others, []  # one thread does it
        if not others:
            return
        for name in others:
            with contextlib.suppress(ParameterError):
                runner = exported(name, self._export, self.device, self.step)
                before, after = times_of([self.fastest, runner])
                if after < before:
                    self.fastest = runner
                if after < _FASTER * before:
                    break
        del self._export
        self.keeps_waiting, self.n_bytes = self.fastest.keeps_waiting, self.fastest.n_bytes

    def maps(self, pixels: Pixels) -> list[torch.Tensor]:
        return self.fastest.maps(pixels)
