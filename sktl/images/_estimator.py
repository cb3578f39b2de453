"""What every estimator whose X is pictures shares with the others."""

from __future__ import annotations

from typing import Any

from sktl.exceptions import ImageFormatError
from sktl.images._collection import ImageCollection
from sktl.images._recognise import as_images
from sktl.utils._sklearn import record_columns, rows_of_numbers, validate_rows

__all__ = ["ImageEstimatorMixin"]


_DEFAULT_BACKGROUND = "white"


class ImageEstimatorMixin:
    """Reads X as pictures, the same way in fit and afterwards.

    The estimator has the parameters `image_shape`, `value_range` and `background`, with the
    meaning they have in :func:`sktl.images.as_images`.
    """

    image_shape: tuple[int, ...] | None
    value_range: tuple[float, float] | None
    background: str | tuple[int, int, int]

    def _read_images(self, X: Any, *, reset: bool) -> ImageCollection:
        """X as a collection of at least one picture; `reset` records its columns, as fit must."""
        if self.image_shape is not None and rows_of_numbers(X):
            images = self._read_rows(X, reset=reset)
        else:
            record_columns(self, X, reset=reset)
            if reset:
                vars(self).pop("value_range_", None)
            images = self._as_images(X, self.value_range)
        if len(images) == 0:
            raise ImageFormatError("X has 0 pictures; a minimum of 1 is required")
        return images

    def _read_rows(self, X: Any, *, reset: bool) -> ImageCollection:
        """Flattened rows, whose value range is found once, in fit.

        A dark batch must not look brighter than the same pictures among others.
        """
        rows = validate_rows(self, X, reset=reset)
        known = None if reset else getattr(self, "value_range_", None)
        images = self._as_images(rows, known or self.value_range)
        if reset:
            self.value_range_ = images.array_format.value_range
        return images

    def _as_images(self, X: Any, value_range: tuple[float, float] | None) -> ImageCollection:
        if isinstance(X, ImageCollection):  # which has options of its own
            background = None if self.background == _DEFAULT_BACKGROUND else self.background
            return as_images(X, value_range=value_range, background=background)
        return as_images(
            X,
            image_shape=self.image_shape,
            value_range=value_range,
            background=self.background,
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        rows = self.image_shape is not None
        tags.input_tags.two_d_array = rows
        tags.input_tags.three_d_array = True
        tags.input_tags.string = not rows
        tags.input_tags.positive_only = False
        return tags
