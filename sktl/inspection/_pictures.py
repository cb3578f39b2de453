"""The pictures in X, as the estimator reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from sktl.exceptions import BadImage, ImageDecodeError, ImageFormatError, ParameterError
from sktl.images import ImageCollection, as_images
from sktl.images._decode import BadImageError
from sktl.utils._parameters import require_labels
from sktl.utils._sklearn import rows_of_numbers

__all__ = [
    "check_count",
    "known_labels",
    "labels_of",
    "pictures_of",
    "read_pictures",
    "rows_of",
    "thumbnail",
]


def pictures_of(X: Any, estimator: Any = None) -> ImageCollection:
    """X as a collection of at least one picture, read as the estimator or its steps read it."""
    images = X if isinstance(X, ImageCollection) else _as_images(X, estimator)
    if len(images) == 0:
        raise ImageFormatError("X has 0 pictures; a minimum of 1 is required")
    return images


def _as_images(X: Any, estimator: Any) -> ImageCollection:
    """X as a collection, read with the `image_shape` and so on of the estimator or its steps."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    parameters = estimator.get_params() if hasattr(estimator, "get_params") else {}
    names = ["value_range", "background", *(["image_shape"] if rows_of_numbers(X) else [])]
    options = {}
    for name in names:
        for key, value in parameters.items():
            if key.rpartition("__")[2] == name and value is not None:
                options[name] = value
    if "image_shape" in options:  # flattened rows, whose range was found in fit
        for part in (estimator, *parameters.values()):
            if hasattr(part, "value_range_"):
                options["value_range"] = part.value_range_
                break
    return as_images(X, **options)


def labels_of(y: Any, n: int) -> npt.NDArray[Any]:
    """Labels as an array, one for each of n pictures; raise ParameterError."""
    labels = np.asarray(y)
    if labels.shape != (n,):
        raise ParameterError(f"y must have one label a picture, {n}; got shape {labels.shape}")
    return labels


def known_labels(y: Any, n: int, name: str = "y") -> npt.NDArray[Any]:
    """Labels as an array, one for each of n pictures and none missing; raise ParameterError."""
    labels = labels_of(y, n)
    require_labels(y, name)
    return labels


def check_count(name: str, value: Any, minimum: int = 1) -> int:
    """An integer of at least `minimum`; raise ParameterError."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < minimum:
        raise ParameterError(f"{name} must be an integer of at least {minimum}; got {value!r}")
    return int(value)


def rows_of(table: pd.DataFrame) -> Iterator[Any]:
    """The rows of a table, with its columns as attributes and the index as `Index`."""
    return iter(table.itertuples())


def read_pictures(images: ImageCollection, positions: Any = None) -> list[Image.Image]:
    """Decoded pictures; one error names all that cannot be read."""
    pictures, bad = [], []
    for i in range(len(images)) if positions is None else positions:
        try:
            pictures.append(images.read_rgb(int(i)))
        except BadImageError as error:
            bad.append(BadImage(int(i), images.describe(int(i)), str(error)))
    if bad:
        raise ImageDecodeError(bad, len(images))
    return pictures


def thumbnail(images: ImageCollection, i: int, side: int = 320) -> npt.NDArray[np.uint8]:
    """Picture `i` as (height, width, 3), shrunk to a longer side of at most `side` pixels."""
    (picture,) = read_pictures(images, [i])
    picture.thumbnail((side, side))
    return np.asarray(picture)
