"""Convolutions of OpenVINO's models as sums of three of bfloat16 numbers, near float32's.

A number of 24 bits is the sum of two of 8 bits, but for 2^-17 of it: x = x1 + x2, w = w1 + w2.
Three of the four products of their parts, x1 w1 + x2 w1 + x1 w2, are x w but for some 2^-16 of it.
Cores whose matrix units (AMX) multiply bfloat16 numbers some eight times as fast as their vector
units multiply those of float32, and add them up in float32, are faster so, where each number is
used often enough to pay for cutting it in two.

Henry, Tang and Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For
Higher-Precision Computations", ARITH 2019, arXiv:1904.06376.
"""

from __future__ import annotations

import importlib
import math
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["has_matrix_units", "in_three_products"]

# Multiplications and additions with each number that comes in, from which on cutting it pays.
_WORTH_CUTTING = 500
# With fewer channels the matrix units would stay half empty.
_FEWEST_CHANNELS = 32
# With fewer places of a map and pictures, fetching the weights is what takes the time.
_FEWEST_PLACES = 64
# What OpenVINO makes multiplications of. Those that a network has are in its weights by now.
_SCALING = ("Divide", "Subtract")
# The names that OpenVINO's format has for an operation whose result has a type of its own.
_VERSION = "type_relaxed_opset1"
_TYPES = {"type_relax": "true", "input_data_types": "", "output_data_types": "f32"}
_MARK = "three_products_"


def has_matrix_units() -> bool:
    """Whether the cores multiply matrices of bfloat16 numbers by AMX."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def in_three_products(core: Any, model: Any) -> Any:
    """A float32 model with its large convolutions computed in three products.

    Parameters
    ----------
    core : openvino.Core
        What is to compile it.
    model : openvino.Model
        The model, for batches of one size. It is changed.

    Returns
    -------
    model : openvino.Model
        Another one.

    Raises
    ------
    Exception
        If no convolution is large enough, or this release of OpenVINO has other names for what is
        needed.
    """
    ops = importlib.import_module("openvino.opset13")
    cut: dict[tuple[str, int], Any] = {}
    convolutions = [op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"]
    for op in filter(_is_worth_it, convolutions):
        source = op.input_value(0)
        key = source.get_node().get_name(), source.get_index()
        if key not in cut:
            first = ops.convert(source, "bf16")
            rest = ops.subtract(source, ops.convert(first, "f32"))
            cut[key] = ops.concat([first, ops.convert(rest, "bf16"), first], 1)
        options = op.get_attributes()
        products = ops.convolution(
            cut[key],
            ops.constant(_weights(op.input_value(1).get_node().data)),
            **{name: options[name] for name in ("strides", "pads_begin", "pads_end", "dilations")},
            auto_pad=options["auto_pad"],
        )
        products.set_friendly_name(_MARK + op.get_friendly_name())
        op.output(0).replace(ops.convert(products, "f32").output(0))
    if not cut:
        raise ValueError("no convolution is large enough")
    return _with_float32_sums(core, model)


def _is_worth_it(convolution: Any) -> bool:
    weights = convolution.input_value(1).get_node()
    if weights.get_type_name() != "Constant":
        return False
    n_out, n_in, *kernel = weights.get_output_shape(0)
    uses = 2 * n_out * math.prod(kernel) / math.prod(convolution.get_attributes()["strides"])
    n_places = math.prod(convolution.output(0).get_shape()) // n_out
    is_large = n_in >= _FEWEST_CHANNELS and n_places >= _FEWEST_PLACES and uses >= _WORTH_CUTTING
    return is_large and not _is_scaled(convolution)


def _is_scaled(operation: Any) -> bool:
    """Whether OpenVINO will multiply what an operation gives, be it with a bias, by a constant.

    It would multiply the weights instead, which are of another type than it expects then.
    """
    following = [port.get_node() for port in operation.output(0).get_target_inputs()]
    return any(
        op.get_type_name() in _SCALING or (op.get_type_name() == "Add" and _is_scaled(op))
        for op in following
    )


def _weights(weights: npt.NDArray[np.float32]) -> Any:
    """(n_out, n_in, ...) float32 to a (n_out, 3 n_in, ...) tensor of bfloat16."""
    openvino = importlib.import_module("openvino")
    n_out, n_in, *kernel = weights.shape
    tensor = openvino.Tensor(openvino.Type.bf16, openvino.Shape([n_out, 3 * n_in, *kernel]))
    parts = torch.from_numpy(tensor.data.view(np.int16)).view(torch.bfloat16)
    first, again, rest = torch.split(parts, n_in, dim=1)  # for x1, x2 and x1
    whole = torch.from_numpy(np.array(weights))
    first.copy_(whole)
    again.copy_(first)
    rest.copy_(whole.sub_(first))
    return tensor


def _with_float32_sums(core: Any, model: Any) -> Any:
    """The model with the marked convolutions giving the sums that they add up as they are.

    A convolution of bfloat16 numbers would round them. The operation that does not is made by
    OpenVINO's own passes alone; models that are read from files can have it.
    """
    openvino = importlib.import_module("openvino")
    core.get_versions("CPU")  # the CPU's operations are known once it is loaded
    # The weights' file stays open: some systems delete it, and so the folder, when it is closed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder, "model.xml")
        openvino.serialize(model, file)
        tree = ElementTree.parse(file)
        marked = (x for x in tree.iter("layer") if x.get("name", "").startswith(_MARK))
        for layer in marked:
            layer.set("version", _VERSION)
            for data in layer.iterfind("data"):
                data.attrib.update(_TYPES)
            for port in layer.iterfind("output/port"):
                port.set("precision", "FP32")
        tree.write(file)
        return core.read_model(file)
