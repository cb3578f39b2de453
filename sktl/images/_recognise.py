"""From whatever a user calls X to an ImageCollection."""

from __future__ import annotations

import dataclasses
import operator
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sktl.exceptions import ImageFormatError, ParameterError
from sktl.images._arrays import (
    LAYOUTS,
    ArrayFormat,
    Layout,
    ValueRange,
    dtype_value_range,
    find_layout,
    find_row_value_range,
    find_value_range,
)
from sktl.images._collection import ImageCollection
from sktl.images._decode import RGB, Background, is_encoded, parse_background
from sktl.utils._sklearn import is_sparse

__all__ = ["as_images"]


def as_images(
    X: Any,
    *,
    image_shape: tuple[int, ...] | None = None,
    value_range: ValueRange | None = None,
    layout: Layout | None = None,
    background: Background | None = None,
) -> ImageCollection:
    """Make a lazily decoded collection of pictures from anything that holds pictures.

    Parameters
    ----------
    X : array-like of n_images pictures
        One of

        - a list, array or Series of paths (str or Path), of encoded bytes, or of PIL images;
        - a DataFrame with one such column;
        - an array, a CPU tensor or an h5py data set of shape (n, H, W), (n, H, W, C) or
          (n, C, H, W) with 1, 3 or 4 channels: uint8, uint16, bool, or float in [0, 1];
        - a list of such arrays without the first axis, of any sizes;
        - an array or DataFrame of flattened rows, shape (n, H * W * C), with `image_shape`;
        - an ImageCollection, returned as it is unless an option is given.
    image_shape : tuple of 2 or 3 ints, default=None
        Shape of one picture in flattened rows, such as (28, 28) or (32, 32, 3); one entry may be
        -1, as in :func:`numpy.reshape`.
    value_range : tuple of 2 floats, default=None
        The values of black and white in arrays. By default those of the dtype: 0-255, 0-65535,
        False-True, and 0-1 for floats. Flattened rows of whole numbers up to 1, 16, 255 or 65535
        are recognised by the largest value of all rows.
    layout : {"HW", "HWC", "CHW"}, default=None
        Order of the axes of one picture, where its shape leaves it open.
    background : str or tuple of 3 ints, default=None
        Colour behind transparent pixels; by default white, or that of the collection.

    Returns
    -------
    images : ImageCollection of length n_images
        Nothing has been decoded yet.

    Raises
    ------
    ImageFormatError
        If X is not understood, or can be understood in two ways.
    ParameterError
        If an option cannot be right.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktl.images import as_images
    >>> images = as_images(load_digits().data, image_shape=(8, 8))
    >>> len(images), images.decode(0).shape
    (1797, (8, 8, 3))
    >>> as_images(["cat.jpg", "dog.png"])
    ImageCollection(2 paths)
    """
    options = _check_options(image_shape, value_range, layout)
    colour = None if background is None else parse_background(background)
    if isinstance(X, ImageCollection):
        return _with_options(X, options, colour)
    colour = colour or parse_background("white")
    X = _unwrap(X)
    if _is_hdf5(X):
        X = _HDF5Pictures(X)
        array_format = _stacked_format(X, options, look=False)
        return ImageCollection(X, "arrays", array_format=array_format, background=colour)
    if isinstance(X, np.ndarray) and X.dtype.kind in "biuf":
        array_format = _stacked_format(X, options, look=True)
        return ImageCollection(X, "arrays", array_format=array_format, background=colour)
    items = _object_items(X)
    options = dataclasses.replace(options, image_shape=None)  # it is for rows
    return ImageCollection(items, _kind(items), array_format=options, background=colour)


def _unwrap(X: Any) -> Any:
    """Foreign containers to arrays or lists, recognised without importing their packages."""
    if is_encoded(X):
        remedy = "Pass a list of them: [x]"
        if isinstance(X, (str, os.PathLike)) and os.path.isdir(X):  # noqa: PTH112 (never an error)
            remedy = "load_image_folder lists those of a folder"
        raise ImageFormatError(
            f"X must hold several pictures; got one {type(X).__name__}. {remedy}"
        )
    if hasattr(X, "columns") and hasattr(X, "iloc"):  # pandas, and what behaves like it
        return _unwrap_table(X)
    if hasattr(X, "iloc"):
        return X.to_numpy(dtype=object)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(X, torch.Tensor):
        if X.device.type != "cpu":
            raise ImageFormatError(f"X is a tensor on the device {X.device}; pass X.cpu()")
        return _numbers(X)
    if is_sparse(X):
        raise ImageFormatError("X is a sparse matrix; pass X.toarray() with image_shape=")
    if isinstance(X, (list, tuple)):
        return _stack_rows(X)
    if isinstance(X, np.ndarray) or _is_hdf5(X):
        return X
    if hasattr(X, "__array__"):
        return np.asarray(X)
    if isinstance(X, Mapping) or not (hasattr(X, "__len__") and hasattr(X, "__getitem__")):
        keys = ", ".join(map(repr, list(X)[:5])) if isinstance(X, Mapping) else ""
        remedy = f"what one of its keys ({keys}) holds, or list(X.values())" if keys else "list(X)"
        raise ImageFormatError(
            "X must be a list, array, Series, DataFrame, tensor or h5py data set of pictures; got "
            f"{type(X).__name__}" + (f". Pass {remedy}" if hasattr(X, "__iter__") else "")
        )
    return X


def _unwrap_table(X: Any) -> Any:
    if len(X.columns) == 1:
        return X.iloc[:, 0].to_numpy(dtype=object)
    numberless = [
        name
        for name, dtype in zip(X.columns, X.dtypes, strict=True)
        if getattr(dtype, "kind", "O") not in "biuf"
    ]
    if numberless:
        named = ", ".join(repr(name) for name in numberless[:5])
        raise ImageFormatError(
            "X must be a DataFrame with one column of pictures, or of numbers only (flattened "
            f"rows); of its {len(X.columns)} columns these hold no numbers: {named}. Pass the one "
            f"with the pictures, as in X[{numberless[0]!r}], or drop what is no pixel"
        )
    values = X.to_numpy()
    # Columns of pandas' nullable dtypes, or of numbers and bools, only meet as objects.
    return X.to_numpy(dtype=float, na_value=np.nan) if values.dtype == object else values


def _stack_rows(X: list[Any] | tuple[Any, ...]) -> Any:
    """A list of rows of numbers is the table they make: one range of values holds for all."""
    first = X[0] if len(X) else None
    if isinstance(first, (list, tuple, np.ndarray)) and len(np.shape(_to_array(first, 0))) == 1:
        rows = [_to_array(row, i) for i, row in enumerate(X)]
        if rows[0].dtype.kind in "biuf":
            if len({row.shape for row in rows}) > 1:
                raise ImageFormatError("X is a list of rows of numbers that differ in length")
            return np.stack(rows)
    return X


def _to_array(item: Any, i: int) -> npt.NDArray[Any]:
    if isinstance(item, tuple) and len(item) == 2 and _is_picture(item[0]):
        raise ImageFormatError(
            f"X[{i}] must be one picture; got it beside something else "
            f"({type(item[1]).__name__}), as data sets of PyTorch have it. Pass "
            "[picture for picture, _ in X]"
        )
    try:
        return np.asarray(item)
    except ValueError as error:  # nested lists of unequal lengths
        raise ImageFormatError(
            f"X[{i}] must be one picture; got a {type(item).__name__} that is no array: {error}"
        ) from error


def _object_items(X: Any) -> npt.NDArray[np.object_]:
    """A one-dimensional object array, one picture an entry."""
    if isinstance(X, np.ndarray):
        if X.ndim == 2 and X.shape[1] == 1:
            X = X[:, 0]
        if X.ndim != 1:
            raise ImageFormatError(
                f"X of dtype {X.dtype} and shape {X.shape} does not hold pictures: an array must "
                "hold real numbers, or one path or picture a row"
            )
        X = X.tolist()
    items = np.empty(len(X), dtype=object)
    for i, item in enumerate(X):
        items[i] = _unwrap_item(item, i)
    return items


def _numbers(tensor: Any) -> npt.NDArray[Any]:
    """A CPU tensor as an array; NumPy has no bfloat16."""
    detached = tensor.detach()
    array: npt.NDArray[Any] = (
        detached.float() if str(detached.dtype) == "torch.bfloat16" else detached
    ).numpy()
    return array


def _unwrap_item(item: Any, i: int) -> Any:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(item, torch.Tensor):
        return _numbers(item.cpu())
    if isinstance(item, (list, tuple)):
        if len(item) == 1 and is_encoded(item[0]):
            return item[0]
        array = _to_array(item, i)
        if array.dtype.kind not in "biuf":
            raise ImageFormatError(f"X[{i}] must be one picture; got a {type(item).__name__}")
        return array
    if isinstance(item, (int, float, complex, np.number)) and not _is_missing(item):
        raise ImageFormatError(
            f"X must hold pictures; X[{i}] is the number {item!r}. "
            "Rows of numbers need shape (n, n_pixels) and image_shape="
        )
    return item


def _is_picture(item: Any) -> bool:
    return is_encoded(item) or len(getattr(item, "shape", ())) > 1


def _is_missing(item: Any) -> bool:
    return isinstance(item, float) and item != item


def _kind(items: npt.NDArray[np.object_]) -> str:
    kinds = {
        "paths" if isinstance(item, (str, os.PathLike))
        else "bytes" if isinstance(item, (bytes, bytearray, memoryview))
        else "PIL" if isinstance(item, Image.Image)
        else "mixed" if item is None or _is_missing(item)
        else "ragged arrays"
        for item in items
    }  # fmt: skip
    return kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "pictures"


def _stacked_format(X: Any, options: ArrayFormat, *, look: bool) -> ArrayFormat:
    """How to read an array whose first axis counts the pictures; `look` at its values, or not."""
    rows = len(X.shape) == 2 and options.image_shape is not None
    if rows:
        shape = _row_shape(options.image_shape, X.shape[1])
        layout = find_layout(shape, "image_shape", options.layout)
    else:
        shape, layout = None, _stacked_layout(X.shape, options.layout)
    value_range = options.value_range
    if value_range is None:
        find = find_row_value_range if rows else find_value_range
        value_range = find(X) if look else dtype_value_range(X.dtype)
    return ArrayFormat(layout, value_range, shape)


def _stacked_layout(shape: tuple[int, ...], layout: Layout | None) -> Layout:
    if len(shape) == 2:
        raise ImageFormatError(
            f"X of shape {shape} looks like flattened rows; say the shape of one picture, "
            "as in image_shape=(28, 28)"
        )
    if len(shape) < 3:
        raise ImageFormatError(
            f"X of shape {shape} does not hold pictures; arrays of numbers must have shape "
            "(n, H, W), (n, H, W, C) or (n, C, H, W)"
        )
    if len(shape) == 3 and shape[2] in (1, 3, 4) and layout is None:
        raise ImageFormatError(
            f"X of shape {shape} looks like one picture. Pass X[None] for one picture, or "
            f'as_images(X, layout="HW") for {shape[0]} gray pictures of {shape[1]} x {shape[2]}'
        )
    return find_layout(shape[1:], "pictures of shape", layout)


def _row_shape(image_shape: Any, n_values: int) -> tuple[int, ...]:
    """`image_shape` without its -1; raise ImageFormatError if rows do not fit it."""
    try:
        shape: tuple[int, ...] = np.broadcast_to(np.uint8(0), n_values).reshape(image_shape).shape
    except ValueError as error:
        raise ImageFormatError(
            f"image_shape={image_shape} does not fit rows of {n_values} values"
        ) from error
    return shape


def _with_options(
    images: ImageCollection, options: ArrayFormat, background: RGB | None
) -> ImageCollection:
    changes = {
        name: value for name, value in dataclasses.asdict(options).items() if value is not None
    }
    if not changes and background is None:
        return images
    result: ImageCollection = images[:]
    result.array_format = dataclasses.replace(images.array_format, **changes)
    result.background = background or images.background
    return result


def _check_options(image_shape: Any, value_range: Any, layout: Any) -> ArrayFormat:
    if image_shape is not None:
        try:
            image_shape = tuple(operator.index(n) for n in image_shape)
        except TypeError:
            image_shape = (image_shape,)
        if len(image_shape) not in (2, 3):
            raise ParameterError(
                "image_shape must be 2 or 3 whole numbers, such as (28, 28) or (32, 32, 3); "
                f"got {image_shape!r}"
            )
    if layout not in (None, *LAYOUTS):
        raise ParameterError(f'layout must be "HW", "HWC" or "CHW"; got {layout!r}')
    return ArrayFormat(layout, _check_range(value_range), image_shape)


def _check_range(value_range: Any) -> ValueRange | None:
    if value_range is None:
        return None
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low = high = 0.0
    if not (low < high and np.isfinite([low, high]).all()):
        raise ParameterError(
            f"value_range must be the two values of black and white, such as (0, 255); "
            f"got {value_range!r}"
        )
    return low, high


def _is_hdf5(X: Any) -> bool:
    h5py = sys.modules.get("h5py")
    return h5py is not None and isinstance(X, h5py.Dataset)


class _HDF5Pictures:
    """A data set in an HDF5 file, opened again in each process that reads it."""

    def __init__(self, dataset: Any) -> None:
        # Absolute, because the other process may work in another folder.
        self.path, self.name = str(Path(dataset.file.filename).absolute()), dataset.name
        self.shape, self.dtype = dataset.shape, dataset.dtype
        self._dataset = dataset

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, i: int) -> npt.NDArray[Any]:
        if not self._dataset:  # an h5py data set is false once its file is closed
            import h5py

            self._dataset = h5py.File(self.path, "r")[self.name]
        picture: npt.NDArray[Any] = self._dataset[int(i)]
        return picture

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_dataset": None}
