"""Exported networks as OpenVINO runs them."""

from __future__ import annotations

import contextlib
import importlib
import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sktl.engine._fuse import is_same
from sktl.engine._runner import Runner, fitting, joined
from sktl.engine._three_products import has_matrix_units, in_three_products

if TYPE_CHECKING:
    from sktl.engine._exported import Export

__all__ = ["OpenVinoRunner"]

# Crops at once: more gain next to nothing, and what is missing of them is computed for nothing.
_BATCH = 2


class OpenVinoRunner(Runner):
    """OpenVINO, on the CPU: one core a call.

    It computes batches of one size, as it prepares more of a model whose shapes are known.
    """

    def __init__(self, export: Export, device: torch.device, step: int) -> None:
        super().__init__(export.backbone, export.recipe, device, step)
        is_rough = self.recipe.precision == "bf16"
        self._core = importlib.import_module("openvino").Core()
        self._options = {
            "INFERENCE_PRECISION_HINT": "bf16" if is_rough else "f32",
            "PERFORMANCE_HINT": "THROUGHPUT",
        }
        if has_matrix_units() and not is_rough:
            with contextlib.suppress(Exception):  # products of float32 numbers will do
                model = in_three_products(self._core, self._read(export))
                if model is not None:
                    self._compile(model)
                    self.uses_matrix_units = self._is_near(export)
        if not self.uses_matrix_units:
            self._compile(self._read(export))

    def _run(self, x: torch.Tensor) -> list[torch.Tensor]:
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        parts = [self._infer(some) for some in torch.split(x, self._batch)]
        return [joined(maps) for maps in zip(*parts, strict=True)]

    def _infer(self, x: torch.Tensor) -> list[torch.Tensor]:
        n = len(x)
        if n < self._batch:
            x = torch.cat([x, x[:1].expand(self._batch - n, -1, -1, -1)])
        pixels = x.permute(0, 2, 3, 1).contiguous().numpy()
        arrays = self._local.request.infer([pixels], share_inputs=True)
        return [torch.from_numpy(np.array(arrays[out][:n])) for out in self._compiled.outputs]

    def _compile(self, model: Any) -> None:
        self._compiled = self._core.compile_model(model, "CPU", self._options)
        self._batch = int(self._compiled.input().get_shape()[0])
        self._local = threading.local()

    def _is_near(self, export: Export) -> bool:
        return all(is_same(expected, self._run(x)) for x, expected in export.samples)

    def _read(self, export: Export) -> Any:
        """The model, for (n, H, W, 3) pictures."""
        openvino = importlib.import_module("openvino")
        model = self._core.read_model(export.file)
        picture = [3, self.preprocessing.size, self.preprocessing.size]
        model.reshape([1, *picture])
        model.reshape([fitting(_largest(model), _BATCH), *picture])
        steps = openvino.preprocess.PrePostProcessor(model)
        steps.input().tensor().set_layout(openvino.Layout("NHWC"))
        steps.input().model().set_layout(openvino.Layout("NCHW"))
        return steps.build()


def _largest(model: Any) -> int:
    """Bytes of the largest result of an operation."""
    given = ("Constant", "Parameter")
    computed = (op for op in model.get_ops() if op.get_type_name() not in given)
    results = [result for op in computed for result in op.outputs()]
    known = [result for result in results if result.get_partial_shape().is_static]
    sizes: list[int] = [math.prod(r.get_shape()) * r.get_element_type().size for r in known]
    return max(sizes, default=0)
