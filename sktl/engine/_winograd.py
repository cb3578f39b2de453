"""3 x 3 convolutions of OpenVINO's models with a quarter of their multiplications.

A tile of 4 x 4 results takes 144 multiplications a channel. With matrices A, B and G of small
numbers, the tile is A' (G w G' * B' d B) A, of the 3 x 3 weights w and the 6 x 6 numbers d that it
depends on, where * multiplies number by number: 36 multiplications, as G w G' is computed once.
Summed over the channels they are 36 products of matrices, which are what cores are best at. The
results are float32's but for some 1e-6 of a tile's.

Winograd, "Arithmetic Complexity of Computations", SIAM 1980; Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016, arXiv:1509.09308, whose F(4 x 4, 3 x 3) it is.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["has_fast_products", "in_tiles", "most_in_tiles", "part_in_tiles"]

Array = npt.NDArray[np.float32]
Places = npt.NDArray[np.int32]

_RESULTS, _NUMBERS = 4, 6  # of a tile, in either direction
_B = ((4, 0, 0, 0, 0, 0), (0, -4, 4, -2, 2, 4), (-5, -4, -4, -1, -1, 0),
      (0, 1, -1, 2, -2, -5), (1, 1, 1, 1, 1, 0), (0, 0, 0, 0, 0, 1))  # fmt: skip
_G = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))  # / 24
_A = ((1, 0, 0, 0), (1, 1, 1, 1), (1, -1, 1, -1), (1, 2, 4, 8), (1, -2, 4, -8), (0, 0, 0, 1))

# Cutting into tiles takes time with each channel, of those that come in and those that go out; what
# it saves, with each pair of them. From half their harmonic mean on it pays.
_FEWEST_CHANNELS = 32
# Tiles of small maps are mostly empty: the part of the multiplications that has to be saved.
_SAVED = 0.5
# With fewer tiles, fetching the weights, four times as many then, is what takes the time.
_FEWEST_TILES = 16
# Bytes of the tiles that are computed one after the other, for the next step to find them in the
# caches.
_CACHED = 3 << 20
# At larger pictures, more at once, as each part makes the model longer.
_MOST_PARTS = 64
# What part of all multiplications of convolutions some of them are, and most of them.
_SOME, _MOST = 0.15, 0.7


class _Rows(NamedTuple):
    """Maps of some pictures as rows of numbers, one a place, in any order."""

    values: Any  # what gives an array of shape (n_rows, n_channels)
    places: Places  # (n, height, width): the row of each place


def has_fast_products() -> bool:
    """Whether the cores are of a kind for which OpenVINO has fast products of matrices.

    For those of other kinds it may have convolutions in tiles of its own.
    """
    return bool(torch.cpu.get_capabilities().get("avx2"))


def in_tiles(core: Any, model: Any, *, least: float = _SOME) -> Any:
    """A float32 model with its 3 x 3 convolutions computed in tiles.

    Parameters
    ----------
    core : openvino.Core
        What is to compile it. Any will do.
    model : openvino.Model
        The model, for batches of one size. It is changed.
    least : float, default=0.15
        What part of all multiplications of convolutions has to be in those.

    Returns
    -------
    model : openvino.Model
        The same.

    Raises
    ------
    Exception
        If too few multiplications are in convolutions for which it pays, or this release of
        OpenVINO has other names for what is needed.
    """
    convolutions = [op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"]
    worth_it = [op for op in convolutions if _is_worth_it(op)]
    if sum(map(_multiplications, worth_it)) <= least * sum(map(_multiplications, convolutions)):
        raise ValueError("other convolutions take most of the time")
    known: dict[tuple[str, int], _Rows] = {}
    for op in worth_it:
        source = op.input_value(0)
        key = source.get_node().get_name(), source.get_index()
        if key not in known:
            known[key] = _rows_of(source)
        last, bias, is_rectified = _and_what_follows(op)
        rows = _convolved(known[key], op, bias, is_rectified=is_rectified)
        maps = _maps_of(rows)
        known[maps.get_name(), 0] = rows  # for a convolution that follows
        last.output(0).replace(maps.output(0))
    return model


def most_in_tiles(core: Any, model: Any) -> Any:
    """As :func:`in_tiles`, where that are most of the multiplications."""
    return in_tiles(core, model, least=_MOST)


def part_in_tiles(network: torch.nn.Module) -> float:
    """What part of a network's convolutions, by their weights, can be computed in tiles."""
    total = suitable = 0
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            shape = module.out_channels, module.in_channels // module.groups, *module.kernel_size
            total += math.prod(shape)
            is_suitable = _is_suitable(shape, module.stride, module.dilation)
            suitable += math.prod(shape) * (is_suitable and module.groups == 1)
    return suitable / max(total, 1)


def _multiplications(convolution: Any) -> int:
    of_each_result = convolution.get_input_shape(1)[1:]
    return math.prod([*of_each_result, *convolution.get_output_shape(0)])


def _is_suitable(weights: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> bool:
    n_out, n_in, *kernel = weights
    is_plain = kernel == [3, 3] and list(strides) == list(dilations) == [1, 1]
    return is_plain and n_in * n_out >= _FEWEST_CHANNELS * (n_in + n_out)


def _is_worth_it(convolution: Any) -> bool:
    options = convolution.get_attributes()
    n, _, *size = convolution.get_output_shape(0)
    n_tiles = n * math.prod(-(-length // _RESULTS) for length in size)
    multiplications = n_tiles * _NUMBERS**2 / (9 * n * math.prod(size))
    return (
        convolution.input_value(1).get_node().get_type_name() == "Constant"
        and _is_suitable(convolution.get_input_shape(1), options["strides"], options["dilations"])
        and min(_padding(convolution)) >= 0
        and n_tiles >= _FEWEST_TILES
        and multiplications <= 1 - _SAVED
    )


def _padding(convolution: Any) -> tuple[int, int]:
    """Rows above a map, and columns to the left of it, of one for which tiles are suitable."""
    options = convolution.get_attributes()
    if options["auto_pad"].startswith("same"):
        return 1, 1
    top, left = options["pads_begin"]
    return top, left


def _and_what_follows(convolution: Any) -> tuple[Any, Array | None, bool]:
    """The last operation of a convolution, its bias and a ReLU, as far as it has them.

    Returns
    -------
    last : openvino.Node
    bias : ndarray of shape (1, n_out) or None
    is_rectified : bool
    """
    last, bias, is_rectified = convolution, None, False
    following = _only_use(last)
    if following is not None and following.get_type_name() == "Add":
        n_out = convolution.get_output_shape(0)[1]
        added = [value.get_node() for value in following.input_values()]
        constants = [node for node in added if node.get_type_name() == "Constant"]
        if constants and list(constants[0].get_output_shape(0)) == [1, n_out, 1, 1]:
            last, bias = following, np.array(constants[0].data).reshape(1, n_out)
            following = _only_use(last)
    if following is not None and following.get_type_name() == "Relu":
        last, is_rectified = following, True
    return last, bias, is_rectified


def _only_use(operation: Any) -> Any:
    uses = list(operation.output(0).get_target_inputs())
    return uses[0].get_node() if len(uses) == 1 else None


def _convolved(rows: _Rows, convolution: Any, bias: Array | None, *, is_rectified: bool) -> _Rows:
    ops = _ops()
    n_out, n_in = convolution.get_input_shape(1)[:2]
    needed, n_high, n_wide = _needed(rows, convolution)
    zeros = ops.constant(np.zeros((1, n_in), np.float32))
    source = ops.concat([rows.values, zeros], 0)
    weights = ops.constant(_weights(convolution.input_value(1).get_node().data))
    ahead, behind = (ops.constant(_in_both_directions(m).T.copy()) for m in (_B, _A))

    def computed(needed: Places) -> Any:
        """(36, t) places that t tiles depend on to (16 t, n_out) results."""
        t = needed.shape[1]
        numbers = _reshaped(_taken(source, needed), _NUMBERS**2, t * n_in)
        numbers = ops.matmul(ahead, numbers, False, False)
        sums = ops.matmul(_reshaped(numbers, _NUMBERS**2, t, n_in), weights, False, True)
        results = ops.matmul(behind, _reshaped(sums, _NUMBERS**2, t * n_out), False, False)
        results = _reshaped(results, _RESULTS**2 * t, n_out)
        if bias is not None:
            results = ops.add(results, ops.constant(bias))
        return ops.relu(results) if is_rectified else results

    n_tiles = needed.shape[1]
    n_parts = -(-needed.size * max(n_in, n_out) * 4 // _CACHED)
    n_parts = min(n_parts, n_tiles, _MOST_PARTS)
    parts = np.array_split(np.arange(n_tiles, dtype=np.int32), n_parts)
    values = ops.concat([computed(needed[:, part]) for part in parts], 0)
    within = np.arange(_RESULTS**2, dtype=np.int32)[:, None]
    begun = [_RESULTS**2 * part[0] + within * len(part) + part - part[0] for part in parts]
    tiles = np.concatenate(begun, axis=1).reshape(_RESULTS, _RESULTS, -1, n_high, n_wide)
    places = tiles.transpose(2, 3, 0, 4, 1).reshape(-1, n_high * _RESULTS, n_wide * _RESULTS)
    height, width = convolution.get_output_shape(0)[2:]
    return _Rows(values.output(0), places[:, :height, :width])


def _needed(rows: _Rows, convolution: Any) -> tuple[Places, int, int]:
    """Which rows the tiles of a convolution depend on.

    Returns
    -------
    needed : ndarray of shape (36, n * n_high * n_wide)
        Row numbers. The one behind the last row stands for padding.
    n_high, n_wide : int
        Tiles of a picture.
    """
    n, height, width = rows.places.shape
    top, left = _padding(convolution)
    n_high, n_wide = (-(-length // _RESULTS) for length in convolution.get_output_shape(0)[2:])
    reach = _NUMBERS - _RESULTS
    padding = rows.values.get_shape()[0]
    padded = np.full((n, n_high * _RESULTS + reach, n_wide * _RESULTS + reach), padding, np.int32)
    padded[:, top : top + height, left : left + width] = rows.places
    windows = np.lib.stride_tricks.sliding_window_view(padded, (_NUMBERS, _NUMBERS), axis=(1, 2))
    tiles = windows[:, ::_RESULTS, ::_RESULTS]  # (n, n_high, n_wide, 6, 6)
    return tiles.transpose(3, 4, 0, 1, 2).reshape(_NUMBERS**2, -1), n_high, n_wide


def _weights(weights: Array) -> Array:
    """(n_out, n_in, 3, 3) to (36, n_out, n_in)."""
    n_out, n_in = weights.shape[:2]
    products: Array = _in_both_directions(_G) @ weights.reshape(n_out * n_in, 9).T
    products /= 24**2
    return products.reshape(-1, n_out, n_in)


def _in_both_directions(matrix: Sequence[Sequence[int]]) -> Array:
    return np.kron(matrix, matrix).astype(np.float32)


def _rows_of(maps: Any) -> _Rows:
    """Those of maps of shape (n, n_channels, height, width)."""
    ops = _ops()
    n, n_channels, height, width = maps.get_shape()
    n_rows = n * height * width
    values = _reshaped(ops.transpose(maps, np.array([0, 2, 3, 1])), n_rows, n_channels)
    return _Rows(values.output(0), np.arange(n_rows, dtype=np.int32).reshape(n, height, width))


def _maps_of(rows: _Rows) -> Any:
    """The maps, of shape (n, n_channels, height, width), that rows are of."""
    ops = _ops()
    values = _taken(rows.values, rows.places)
    last = _reshaped(values, *rows.places.shape, rows.values.get_shape()[1])
    return ops.transpose(last, np.array([0, 3, 1, 2]))


def _taken(rows: Any, places: Places) -> Any:
    return _ops().gather(rows, places.reshape(-1), np.int32(0))


def _reshaped(values: Any, *shape: int) -> Any:
    return _ops().reshape(values, np.array(shape), False)


def _ops() -> Any:
    return importlib.import_module("openvino.opset13")
