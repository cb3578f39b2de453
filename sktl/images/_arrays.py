"""Pictures that already are numbers: which axis is which, and which values are black and white."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sktl.exceptions import ImageFormatError

__all__ = ["ArrayFormat", "Layout", "ValueRange", "find_layout", "find_value_range"]

Layout = Literal["HW", "HWC", "CHW"]
ValueRange = tuple[float, float]
_CHANNELS = (1, 3, 4)
_SAY_LAYOUT = 'as_images(X, layout="HWC"), layout="CHW" or layout="HW"'


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

    def to_uint8(self, picture: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """One picture as (height, width, 1, 3 or 4) uint8; raise ImageFormatError."""
        array = np.asarray(picture)
        if self.image_shape is not None:
            array = array.reshape(self.image_shape)
        layout = self.layout or find_layout(array.shape, "a picture of")
        if layout == "HW":
            array = array[:, :, None]
        elif layout == "CHW":
            array = array.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
        if 0 in array.shape:
            raise ImageFormatError("has no pixels")
        low, high = self.value_range or find_value_range(array)
        if array.dtype == np.uint8 and (low, high) == (0, 255):
            return np.ascontiguousarray(array)
        values = array.astype(np.float64)
        # NaN fails both comparisons, so that it is caught here too.
        if not (values.min() >= low and values.max() <= high):
            raise ImageFormatError(
                f"values run from {array.min():g} to {array.max():g}, "
                f"outside of value_range=({low:g}, {high:g})"
            )
        return np.round((values - low) * (255.0 / (high - low))).astype(np.uint8)


def find_layout(shape: Sequence[int], what: str) -> Layout:
    """The order of the axes of one picture, from its shape alone; ambiguity is an error."""
    if len(shape) == 2:
        return "HW"
    if len(shape) == 3:
        last, first = shape[2] in _CHANNELS, shape[0] in _CHANNELS
        if last and first:
            raise ImageFormatError(
                f"{what} shape {tuple(shape)} can be channels-last or channels-first; "
                f"say which: {_SAY_LAYOUT}"
            )
        if last:
            return "HWC"
        if first:
            return "CHW"
    raise ImageFormatError(
        f"{what} shape {tuple(shape)} is neither (height, width) nor (height, width, C) nor "
        "(C, height, width) with C = 1, 3 or 4 channels"
    )


def find_value_range(array: npt.NDArray[Any]) -> ValueRange:
    """Black and white by the dtype; only floats are looked at, and only to refuse them."""
    if array.dtype == np.uint8:
        return 0, 255
    if array.dtype == np.uint16:
        return 0, 65535
    if array.dtype == np.bool_:
        return 0, 1
    if array.dtype.kind == "f":
        if array.size == 0 or (array.min() >= 0 and array.max() <= 1):
            return 0, 1
        raise ImageFormatError(
            f"float pictures must have values in [0, 1]; got {array.min():g} to {array.max():g}. "
            "Say which values are black and white, as in as_images(X, value_range=(0, 255))"
        )
    raise ImageFormatError(
        f"pictures of dtype {array.dtype} do not say which value is white. Convert them to uint8, "
        "or say which values are black and white, as in as_images(X, value_range=(0, 255))"
    )


def find_row_value_range(rows: npt.NDArray[Any]) -> ValueRange:
    """Black and white of flattened rows, whose usual sources keep small integers in wide dtypes.

    Beside what :func:`find_value_range` knows, whole numbers up to 16 (scikit-learn's digits), up
    to 255 (MNIST from OpenML) and up to 65535 are taken for what they are.
    """
    if rows.dtype in (np.uint8, np.uint16, np.bool_) or rows.size == 0:
        return find_value_range(rows) if rows.size else (0, 255)
    low, high = float(rows.min()), float(rows.max())
    if low >= 0 and high <= 1 and rows.dtype.kind == "f":
        return 0, 1
    if low >= 0 and bool(np.all(np.mod(rows, 1) == 0)):
        for white in (16, 255, 65535):
            if high <= white:
                return 0, white
    raise ImageFormatError(
        f"rows with values from {low:g} to {high:g} do not say which value is white; "
        "say which values are black and white, as in value_range=(0, 255)"
    )
