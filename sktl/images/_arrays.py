"""Pictures that already are numbers: which axis is which, and which values are black and white."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sktl.exceptions import ImageFormatError

__all__ = [
    "LAYOUTS",
    "ArrayFormat",
    "Layout",
    "ValueRange",
    "dtype_value_range",
    "find_layout",
    "find_row_value_range",
    "find_value_range",
]

Layout = Literal["HW", "HWC", "CHW"]
ValueRange = tuple[float, float]
LAYOUTS: tuple[Layout, ...] = ("HW", "HWC", "CHW")
_CHANNELS = (1, 3, 4)
_DTYPE_RANGES: dict[tuple[str, int], ValueRange] = {
    ("b", 1): (0, 1),
    ("u", 1): (0, 255),
    ("u", 2): (0, 65535),
}
_SAY_RANGE = "say which values are black and white, as in as_images(X, value_range=(0, 255))"


@dataclass(frozen=True)
class ArrayFormat:
    """How to read one picture out of an array.

    Attributes
    ----------
    layout : {"HW", "HWC", "CHW"} or None
        Order of the axes; None finds it for each picture (ragged lists).
    value_range : tuple of 2 floats or None
        The values of black and white; None takes those of the dtype.
    image_shape : tuple of ints or None
        The shape that flattened rows are given first.
    """

    layout: Layout | None = None
    value_range: ValueRange | None = None
    image_shape: tuple[int, ...] | None = None

    def check(self, array: npt.NDArray[Any]) -> Layout:
        """The layout of one picture; raise ImageFormatError if its shape or dtype rule it out."""
        if 0 in array.shape:
            raise ImageFormatError("has no pixels")
        if self.value_range is None:
            dtype_value_range(array.dtype)
        elif array.dtype.kind not in "biuf":
            raise ImageFormatError(f"pictures must hold real numbers; got dtype {array.dtype}")
        shape = self.image_shape or array.shape
        return find_layout(shape, "a picture of shape", self.layout)

    def to_uint8(self, array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """One picture as (height, width, 1, 3 or 4) uint8; raise ImageFormatError."""
        layout = self.check(array)
        if self.image_shape is not None:
            array = array.reshape(self.image_shape)
        if layout == "HW":
            array = array[:, :, None]
        elif layout == "CHW":
            array = array.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
        low, high = self.value_range or find_value_range(array)
        if array.dtype == np.uint8 and (low, high) == (0, 255):
            return np.ascontiguousarray(array)
        darkest, brightest = _extremes(array)
        if darkest < low or brightest > high:
            raise ImageFormatError(
                f"values run from {darkest:g} to {brightest:g}, "
                f"outside of value_range=({low:g}, {high:g})"
            )
        values = array.astype(np.float64)
        return np.round((values - low) * (255.0 / (high - low))).astype(np.uint8)


def find_layout(shape: Sequence[int], what: str, layout: Layout | None = None) -> Layout:
    """The order of the axes of one picture, from its shape alone; ambiguity is an error.

    A `layout` that is known is only held against the shape.
    """
    shape = tuple(shape)
    fitting = [known for known in LAYOUTS if _fits(shape, known)]
    if layout is not None:
        if layout not in fitting:
            raise ImageFormatError(
                f'{what} {shape} cannot have layout="{layout}"; C is 1, 3 or 4 channels'
            )
        return layout
    if len(fitting) > 1:
        raise ImageFormatError(
            f"{what} {shape} can be channels-last or channels-first; "
            'say which: as_images(X, layout="HWC") or layout="CHW"'
        )
    if not fitting:
        raise ImageFormatError(
            f"{what} {shape} must be (height, width), (height, width, C) or "
            "(C, height, width) with C = 1, 3 or 4 channels"
        )
    return fitting[0]


def _fits(shape: tuple[int, ...], layout: Layout) -> bool:
    if len(shape) != len(layout):
        return False
    return layout == "HW" or shape[layout.index("C")] in _CHANNELS


def dtype_value_range(dtype: np.dtype[Any]) -> ValueRange | None:
    """Black and white as the dtype gives them; None for floats, whose values have to be seen."""
    if dtype.kind == "f":
        return None
    if (dtype.kind, dtype.itemsize) not in _DTYPE_RANGES:
        raise ImageFormatError(
            f"pictures of dtype {dtype} do not say which value is white. Convert them to uint8, "
            f"or {_SAY_RANGE}"
        )
    return _DTYPE_RANGES[dtype.kind, dtype.itemsize]


def find_value_range(array: npt.NDArray[Any]) -> ValueRange:
    """Black and white by the dtype; only floats are looked at, and only to refuse them."""
    known = dtype_value_range(array.dtype)
    if known is None and array.size:
        low, high = _extremes(array)
        if low < 0 or high > 1:
            raise ImageFormatError(
                f"float pictures must have values in [0, 1]; got {low:g} to {high:g}. "
                f"Scale them, or {_SAY_RANGE}"
            )
    return known or (0, 1)


def find_row_value_range(rows: npt.NDArray[Any]) -> ValueRange:
    """Black and white of flattened rows, whose usual sources keep small integers in wide dtypes.

    Beside what :func:`find_value_range` knows, whole numbers up to 1, up to 16 (scikit-learn's
    digits), up to 255 (MNIST from OpenML) and up to 65535 are taken for what they are.
    """
    if (rows.dtype.kind, rows.dtype.itemsize) in _DTYPE_RANGES or rows.size == 0:
        return _DTYPE_RANGES.get((rows.dtype.kind, rows.dtype.itemsize), (0, 1))
    low, high = _extremes(rows)
    if low >= 0:
        whole = rows.dtype.kind != "f" or bool(np.all(np.trunc(rows) == rows))
        for white in (1, 16, 255, 65535) if whole else (1,):
            if high <= white:
                return 0, white
    raise ImageFormatError(
        f"rows with values from {low:g} to {high:g} do not say which value is white; {_SAY_RANGE}"
    )


def _extremes(array: npt.NDArray[Any]) -> tuple[float, float]:
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise ImageFormatError("pictures must have finite values; got NaN or infinity")
    return low, high
