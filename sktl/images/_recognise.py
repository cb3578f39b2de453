"""From whatever a user calls X to an ImageCollection."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sktl.exceptions import ImageFormatError, ParameterError
from sktl.images._arrays import (
    ArrayFormat,
    Layout,
    ValueRange,
    find_layout,
    find_row_value_range,
    find_value_range,
)
from sktl.images._collection import ImageCollection
from sktl.images._decode import Background, is_encoded

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
        False-True, and 0-1 for floats. Flattened rows of whole numbers up to 16, 255 or 65535 are
        recognised by their largest value.
    layout : {"HW", "HWC", "CHW"}, default=None
        Order of the axes of one picture, where its shape leaves it open.
    background : str or tuple of 3 ints, default="white"
        Colour behind transparent pixels.

    Returns
    -------
    images : ImageCollection of length n_images
        Nothing has been decoded yet.

    Raises
    ------
    ImageFormatError
        If X is not understood, or can be understood in two ways.

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
    options = ArrayFormat(layout, _check_range(value_range), image_shape)
    if isinstance(X, ImageCollection):
        return _with_options(X, options, background)
    background = "white" if background is None else background
    if is_encoded(X) or isinstance(X, dict) or X is None:
        raise ImageFormatError(
            f"X must hold several pictures; got one {type(X).__name__}. Pass a list: [x]"
        )
    X = _unwrap(X)
    if _is_hdf5(X):
        X = _HDF5Pictures(X)
        array_format = _stacked_format(X, options, scan_values=False)
        return ImageCollection(X, "arrays", array_format=array_format, background=background)
    if isinstance(X, np.ndarray) and X.dtype.kind in "biufc":
        if X.ndim == 2:
            array_format = _row_format(X, options)
        else:
            array_format = _stacked_format(X, options, scan_values=True)
        return ImageCollection(X, "arrays", array_format=array_format, background=background)
    items = _object_items(X)
    return ImageCollection(items, _kind(items), array_format=options, background=background)


def _unwrap(X: Any) -> Any:
    """Foreign containers to arrays or lists, recognised without importing their packages."""
    if hasattr(X, "columns") and hasattr(X, "iloc"):  # pandas, and what behaves like it
        if len(X.columns) == 1:
            return X.iloc[:, 0].to_numpy(dtype=object)
        if all(getattr(dtype, "kind", "O") in "biuf" for dtype in X.dtypes):
            return X.to_numpy()
        raise ImageFormatError(
            "X must be a DataFrame with one column of pictures or with numeric columns of "
            f"flattened rows; got the columns {list(X.columns)}. Choose one: X[['path']], "
            "or a ColumnTransformer that does"
        )
    if hasattr(X, "iloc"):
        return X.to_numpy(dtype=object)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(X, torch.Tensor):
        if X.is_cuda:
            raise ImageFormatError("X is a tensor on a GPU; pass X.cpu()")
        return X.detach().numpy()
    if hasattr(X, "toarray") and hasattr(X, "nnz"):
        raise ImageFormatError("X is a sparse matrix; pass X.toarray() with image_shape=")
    if not isinstance(X, (list, tuple, np.ndarray)) and not _is_hdf5(X):
        if hasattr(X, "__array__"):
            return np.asarray(X)
        if not (hasattr(X, "__len__") and hasattr(X, "__getitem__")):
            raise ImageFormatError(
                f"X must be a list, array, Series, DataFrame, tensor or h5py data set of pictures; "
                f"got {type(X).__name__}"
            )
    return X


def _object_items(X: Any) -> npt.NDArray[np.object_]:
    """A one-dimensional object array, one picture an entry."""
    if isinstance(X, np.ndarray):
        if X.ndim == 2 and X.shape[1] == 1:
            X = X[:, 0]
        if X.ndim != 1:
            raise ImageFormatError(
                f"an X of dtype {X.dtype} must have one picture a row; got shape {X.shape}"
            )
        X = X.tolist()
    items = np.empty(len(X), dtype=object)
    for i, item in enumerate(X):
        items[i] = _unwrap_item(item, i)
    return items


def _unwrap_item(item: Any, i: int) -> Any:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(item, torch.Tensor):
        return item.detach().cpu().numpy()
    if isinstance(item, (list, tuple)):
        if len(item) == 1 and is_encoded(item[0]):
            return item[0]
        array = np.asarray(item)
        if array.dtype.kind not in "biuf":
            raise ImageFormatError(f"X[{i}] must be one picture; got a {type(item).__name__}")
        return array
    if isinstance(item, (int, float, complex, np.number)) and not _is_missing(item):
        raise ImageFormatError(
            f"X must hold pictures; X[{i}] is the number {item!r}. "
            "Rows of numbers need shape (n, n_pixels) and image_shape="
        )
    return item


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


def _stacked_format(X: Any, options: ArrayFormat, *, scan_values: bool) -> ArrayFormat:
    """Layout and range of an array whose first axis counts the pictures, checked as a whole."""
    if options.image_shape is not None and len(X.shape) == 2:
        layout = options.layout or find_layout(options.image_shape, "image_shape:")
    else:
        options = dataclasses.replace(options, image_shape=None)
        layout = options.layout or _stacked_layout(X.shape)
    value_range = options.value_range
    if value_range is None and (scan_values or X.dtype.kind != "f"):
        value_range = find_value_range(X if scan_values else np.empty(0, X.dtype))
    return dataclasses.replace(options, layout=layout, value_range=value_range)


def _stacked_layout(shape: tuple[int, ...]) -> Layout:
    if len(shape) == 2:
        raise ImageFormatError(
            f"X of shape {shape} looks like flattened rows; say the shape of one picture, "
            "as in image_shape=(28, 28)"
        )
    if len(shape) == 3 and shape[2] in (1, 3, 4):
        raise ImageFormatError(
            f"X of shape {shape} looks like one picture. Pass X[None] for one picture, or "
            f'as_images(X, layout="HW") for {shape[0]} gray pictures of {shape[1]} x {shape[2]}'
        )
    if len(shape) < 3:
        raise ImageFormatError(f"X of shape {shape} does not hold pictures")
    return find_layout(shape[1:], "pictures of")


def _row_format(X: npt.NDArray[Any], options: ArrayFormat) -> ArrayFormat:
    if options.image_shape is None:
        _stacked_layout(X.shape)  # raises, with the remedy
    shape = tuple(int(n) for n in options.image_shape or ())
    try:
        # One real row of zeros resolves a -1 and checks the number of pixels.
        shape = np.broadcast_to(np.uint8(0), X.shape[1]).reshape(shape).shape
    except ValueError as error:
        raise ImageFormatError(
            f"image_shape={options.image_shape} does not fit rows of {X.shape[1]} values"
        ) from error
    return ArrayFormat(
        options.layout or find_layout(shape, "image_shape:"),
        options.value_range or find_row_value_range(X),
        shape,
    )


def _with_options(
    images: ImageCollection, options: ArrayFormat, background: Background | None
) -> ImageCollection:
    changes = {
        name: value for name, value in dataclasses.asdict(options).items() if value is not None
    }
    if not changes and background is None:
        return images
    result = images[:]
    result.array_format = dataclasses.replace(images.array_format, **changes)
    result.background = images.background if background is None else background
    return result


def _check_range(value_range: Any) -> ValueRange | None:
    if value_range is None:
        return None
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high:
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
        self.path, self.name = dataset.file.filename, dataset.name
        self.shape, self.dtype = dataset.shape, dataset.dtype
        self._dataset = dataset

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, i: int) -> npt.NDArray[Any]:
        if not self._dataset:  # an h5py data set is false once its file is closed
            import h5py

            self._dataset = h5py.File(self.path, "r")[self.name]
        picture: npt.NDArray[Any] = self._dataset[int(i)]
        return picture

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_dataset": None}
