"""Networks handed over to other programs than PyTorch, and compared with what they were."""

from __future__ import annotations

import contextlib
import functools
import importlib
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sktl.engine._fuse import is_same
from sktl.engine._openvino import OpenVinoRunner, as_openvino, of_pixels
from sktl.engine._runner import Pixels, Runner, times_of
from sktl.engine._three_products import has_matrix_units, in_three_products
from sktl.engine._winograd import has_fast_products, in_tiles, most_in_tiles
from sktl.exceptions import ParameterError
from sktl.utils._devices import noise
from sktl.utils._float32 import full_float32
from sktl.utils._tracing import write_onnx

if TYPE_CHECKING:
    from sktl.backbones import Backbone
    from sktl.engine._recipe import Recipe

__all__ = ["EXPORTED", "Export", "OnnxRunner", "exported"]

# How far what a runner gives may be from the network, relative to its norm.
_TOLERANCE = 1e-3
_REWRITTEN = 5e-4
_ROUGH = 0.2
# What part of a dark picture is black.
_DARK = 0.99


class OnnxRunner(Runner):
    """ONNX Runtime, on the CPU: one core a call."""

    def __init__(self, export: Export, device: torch.device, step: int) -> None:
        super().__init__(export.backbone, export.recipe, device, step)
        library = importlib.import_module("onnxruntime")
        options = library.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        self.n_bytes = export.onnx.stat().st_size
        self.session = library.InferenceSession(
            export.onnx, options, providers=["CPUExecutionProvider"]
        )

    def _run(self, x: torch.Tensor) -> list[torch.Tensor]:
        arrays = self.session.run(None, {"x": x.contiguous().numpy()})
        return [torch.from_numpy(array) for array in arrays]


EXPORTED: dict[str, Callable[..., Runner]] = {
    "openvino": OpenVinoRunner,
    "onnxruntime": OnnxRunner,
}


def exported(runtime: str, export: Export, device: torch.device, step: int) -> Runner:
    """The runner of an exported network, compared with the network that it was made of."""
    is_rough = export.recipe.precision == "bf16"
    if runtime == "openvino" and not is_rough:
        rewritten = _rewritten(export, device, step)
        if rewritten:
            return rewritten
    try:
        runner = EXPORTED[runtime](export, device, step)
    except Exception as error:
        name = export.backbone.spec.name
        raise ParameterError(f'{name} cannot be run by runtime="{runtime}": {error}') from error
    _check(runner, export, _ROUGH if is_rough else _TOLERANCE)
    return runner


def _rewritten(export: Export, device: torch.device, step: int) -> Runner | None:
    """OpenVINO's, with convolutions in the way that is faster than its own, if there is one."""
    ways: tuple[Callable[[Any, Any], Any], ...] = ()
    if has_matrix_units():
        ways = in_three_products, most_in_tiles
    elif has_fast_products():
        ways = (in_tiles,)
    runners: list[Runner] = []
    for rewrite in ways:
        with contextlib.suppress(Exception):  # the next one, or OpenVINO's own, will do
            runner = OpenVinoRunner(export, device, step, rewrite)
            _check(runner, export, _REWRITTEN)
            runners.append(runner)
    if len(runners) < 2:
        return runners[0] if runners else None
    times = times_of(runners)
    return runners[times.index(min(times))]


class Export:
    """A network for other runtimes, which take from it what they need."""

    def __init__(self, backbone: Backbone, recipe: Recipe) -> None:
        self.backbone, self.recipe = backbone, recipe

    def network(self) -> torch.nn.Module:
        """A copy on the CPU. One that went through an exporter gives other numbers afterwards."""
        return self.backbone.feature_network(self.recipe.layers, device=torch.device("cpu"))

    @functools.cached_property
    def openvino(self) -> Any:
        """The network as a model of OpenVINO, for pixels."""
        model = as_openvino(self.network(), self._noise(2, seed=0))
        return of_pixels(model, self.backbone.preprocessing.mean, self.backbone.preprocessing.std)

    @functools.cached_property
    def onnx(self) -> Path:
        """The network as an ONNX file, for batches of any size."""
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        file = Path(folder, "network.onnx")
        names = [f"layer_{i}" for i in range(len(self.recipe.layers))]
        write_onnx(self.network(), [self._noise(2, seed=0)], file, inputs=["x"], outputs=names)
        return file

    def _noise(self, n: int, *, seed: int) -> torch.Tensor:
        """(n, 3, size, size) numbers from 0 to 1."""
        size = self.backbone.preprocessing.at_size(self.recipe.image_size).size
        return noise(n, size, seed=seed)

    @functools.cached_property
    def samples(self) -> list[tuple[Pixels, list[torch.Tensor]]]:
        """Pixels of some pictures, and what the network makes of them."""
        network, preprocessing = self.network(), self.backbone.preprocessing
        mean, std = (
            torch.tensor(values).view(1, 3, 1, 1)
            for values in (preprocessing.mean, preprocessing.std)
        )
        # Pictures of all kinds of pixels, and one that is black for the most part: what is zero
        # has to stay zero, as networks can make much of little.
        noise, dots = self._noise(3, seed=3), self._noise(1, seed=1)
        samples: list[tuple[Pixels, list[torch.Tensor]]] = []
        for x in ((noise * 256).byte(), 255 * (dots > _DARK).byte()):
            pixels = x.permute(0, 2, 3, 1)[:, None].numpy()
            with torch.inference_mode(), full_float32("cpu"):
                samples.append((pixels, network((x / 255 - mean) / std)))
        return samples


def _check(runner: Runner, export: Export, tolerance: float) -> None:
    """Compare an exported network with the one that it was made of, for other numbers of pictures.

    What the tracer saw for two pictures, such as a Python loop, need not hold for three.
    """
    name = export.backbone.spec.name
    try:
        samples = export.samples
    except Exception as error:
        raise ParameterError(f"{name} cannot be checked: {error}") from error
    for pixels, expected in samples:
        try:
            same = is_same(expected, runner.maps(pixels), tolerance, least=1e-6)
        except Exception as error:
            raise ParameterError(
                f"{name} cannot be exported for batches of any size: {error}"
            ) from error
        if not same:
            raise ParameterError(
                f"{name} gives other numbers for {len(pixels)} pictures when exported; use "
                'runtime="torch"'
            )
