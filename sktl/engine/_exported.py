"""Networks exported to ONNX, and the programs beside PyTorch that run them."""

from __future__ import annotations

import functools
import importlib
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sktl.engine._openvino import OpenVinoRunner
from sktl.engine._runner import Runner
from sktl.exceptions import ParameterError
from sktl.utils._onnx import write_onnx

if TYPE_CHECKING:
    from sktl.backbones import Backbone
    from sktl.engine._recipe import Recipe

__all__ = ["EXPORTED", "Export", "OnnxRunner", "exported"]


class OnnxRunner(Runner):
    """ONNX Runtime, on the CPU: one core a call."""

    def __init__(self, export: Export, device: torch.device, step: int) -> None:
        super().__init__(export.backbone, export.recipe, device, step)
        library = importlib.import_module("onnxruntime")
        options = library.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        self.session = library.InferenceSession(
            export.file, options, providers=["CPUExecutionProvider"]
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
    try:
        runner = EXPORTED[runtime](export, device, step)
    except Exception as error:
        name = export.backbone.spec.name
        raise ParameterError(f'{name} cannot be run by runtime="{runtime}": {error}') from error
    _check_export(runner, export)
    return runner


class Export:
    """What a network is as ONNX, for batches of any size."""

    def __init__(self, backbone: Backbone, recipe: Recipe) -> None:
        self.backbone, self.recipe = backbone, recipe
        network = backbone.feature_network(recipe.layers, device=torch.device("cpu"))
        names = [f"layer_{i}" for i in range(len(recipe.layers))]
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.file = Path(folder, "network.onnx")
        try:
            write_onnx(network, [self.noise(2, seed=0)], self.file, inputs=["x"], outputs=names)
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


def _check_export(runner: Runner, export: Export) -> None:
    """Compare an exported network with the one that it was made of, for other numbers of pictures.

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
