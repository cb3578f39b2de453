"""What every estimator whose X is pictures shares with the others."""

from __future__ import annotations

from typing import Any

from sktl.images._collection import ImageCollection
from sktl.images._recognise import as_images
from sktl.utils._sklearn import record_columns, rows_of_numbers, validate_rows

__all__ = ["ImageEstimatorMixin"]


class ImageEstimatorMixin:
    """Reads X as pictures, the same way in fit and afterwards.

    The estimator has the parameters `image_shape`, `value_range` and `background`, with the
    meaning they have in :func:`sktl.images.as_images`.
    """

    image_shape: tuple[int, ...] | None
    value_range: tuple[float, float] | None
    background: str | tuple[int, int, int]

    def _read_images(self, X: Any, *, reset: bool) -> ImageCollection:
        """X as a collection; `reset` records its columns and value range, as fit must.

        The range of flattened rows is found once, in fit: a dark batch must not look brighter
        than the same pictures among others.
        """
        if isinstance(X, ImageCollection):
            return X
        if self.image_shape is None or not rows_of_numbers(X):
            record_columns(self, X, reset=reset)
            return as_images(
                X,
                image_shape=self.image_shape,
                value_range=self.value_range,
                background=self.background,
            )
        X = validate_rows(self, X, reset=reset)
        known = None if reset else getattr(self, "value_range_", None)
        images = as_images(X, image_shape=self.image_shape, value_range=known or self.value_range)
        if reset:
            self.value_range_ = images.array_format.value_range
        return images

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        rows = self.image_shape is not None
        tags.input_tags.two_d_array = rows
        tags.input_tags.three_d_array = True
        tags.input_tags.string = not rows
        tags.input_tags.positive_only = False
        return tags
