"""Networks as OpenVINO runs them."""

from __future__ import annotations

import importlib
import math
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from sktl.engine._runner import Pixels, Runner, joined
from sktl.utils._tracing import traced

if TYPE_CHECKING:
    from sktl.engine._exported import Export

__all__ = ["OpenVinoRunner", "as_openvino", "is_out_of_reach", "of_pixels"]

# Crops at once; more where the weights take that many times the memory of the largest map, as
# fetching them takes a part of the time then.
_BATCH, _LARGER_BATCH = 2, 4
_HEAVY = 10

# The process that has used OpenVINO. In those that are forked from it, the threads that would
# compute are missing, and whoever asks for something waits forever.
_used_in: int | None = None


def is_out_of_reach() -> bool:
    """Whether OpenVINO cannot compute in this process, as it has in one that it comes from."""
    return _used_in not in (None, os.getpid())


class OpenVinoRunner(Runner):
    """OpenVINO, on the CPU: one core a call.

    It computes batches of one size, as it prepares more of a model whose shapes are known. What
    makes another model of its model, for speed, is `rewrite`.
    """

    def __init__(
        self,
        export: Export,
        device: torch.device,
        step: int,
        rewrite: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        global _used_in
        super().__init__(export.backbone, export.recipe, device, step)
        _used_in = os.getpid()
        self.rewrite, self.keeps_waiting = rewrite, True
        core = importlib.import_module("openvino").Core()
        model = export.openvino.clone()
        if rewrite is not None:
            model = rewrite(core, model)
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.recipe.precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "THROUGHPUT",
            # Threads that may not leave their core wait there for those that decode.
            "ENABLE_CPU_PINNING": False,
        }
        self.n_bytes = 2 * _sizes(model)[0]  # as they are, and as its programs want them
        self._compiled = core.compile_model(model, "CPU", options)
        self._batch = int(self._compiled.input().get_shape()[0])
        self._local = threading.local()

    def maps(self, pixels: Pixels) -> list[torch.Tensor]:
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        pixels = np.ascontiguousarray(pixels).reshape(-1, *pixels.shape[2:])
        starts = range(0, len(pixels), self._batch)
        parts = [self._infer(pixels[i : i + self._batch]) for i in starts]
        return [joined(maps) for maps in zip(*parts, strict=True)]

    def _infer(self, pixels: npt.NDArray[np.uint8]) -> list[torch.Tensor]:
        n = len(pixels)
        if n < self._batch:
            pixels = np.concatenate([pixels, np.repeat(pixels[:1], self._batch - n, axis=0)])
        arrays = self._local.request.infer([pixels], share_inputs=True)
        return [torch.from_numpy(np.array(arrays[out][:n])) for out in self._compiled.outputs]


def as_openvino(network: torch.nn.Module, pixels: torch.Tensor) -> Any:
    """A network as a model of OpenVINO.

    Parameters
    ----------
    network : nn.Module
        The network.
    pixels : Tensor of shape (n, 3, size, size)
        What it is traced with.

    Returns
    -------
    model : openvino.Model
        For batches of a size that suits it, float32 and of shape (size, size, 3) each. Its
        constants are the network's tensors.

    Raises
    ------
    Exception
        Of the tracer, of OpenVINO or of the network.
    """
    # As openvino.convert_model does, but for its telemetry.
    openvino = importlib.import_module("openvino")
    frontends = importlib.import_module("openvino.frontend").FrontEndManager()
    decoders = importlib.import_module("openvino.frontend.pytorch.ts_decoder")
    passes = importlib.import_module("openvino._offline_transformations")
    frontend = frontends.load_by_framework("pytorch")
    decoder = decoders.TorchScriptPythonDecoder(traced(network, pixels))
    model = frontend.convert(frontend.load(decoder))  # the decoder has to outlive this
    picture = list(pixels.shape[1:])
    model.reshape([1, *picture])
    weights, largest = _sizes(model)
    model.reshape([_LARGER_BATCH if weights > _HEAVY * largest else _BATCH, *picture])
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    model = steps.build()
    passes.apply_moc_transformations(model, False)  # batch normalisations become convolutions'
    return model


def of_pixels(model: Any, mean: Sequence[float], std: Sequence[float]) -> Any:
    """The model of a network as one that takes uint8 pixels and normalises them itself."""
    openvino = importlib.import_module("openvino")
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8)
    scaled = steps.input().preprocess().convert_element_type(openvino.Type.f32)
    scaled.mean([255 * value for value in mean]).scale([255 * value for value in std])
    return steps.build()


def _sizes(model: Any) -> tuple[int, int]:
    """Bytes of all constants, and of the largest result of an operation."""
    constants: list[int] = []
    results = [0]
    for op in model.get_ops():
        for result in op.outputs():
            if result.get_partial_shape().is_static:
                n_bytes = math.prod(result.get_shape()) * result.get_element_type().size
                (constants if op.get_type_name() == "Constant" else results).append(n_bytes)
    return sum(constants), max(results)
