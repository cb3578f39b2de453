"""The lazily decoded collection that every estimator works on."""

from __future__ import annotations

import operator
import os
import reprlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sktl.exceptions import BadImage, ImageDecodeError, ImageFormatError, ParameterError
from sktl.images._arrays import ArrayFormat
from sktl.images._decode import (
    RGB,
    WHITE,
    BadImageError,
    check_encoded,
    describe,
    is_encoded,
    lay_on,
    plain_jpeg,
    read_pixels,
    read_rgb,
)

__all__ = ["ImageCollection"]


class ImageCollection:
    """Pictures that are decoded only when asked for.

    Made by :func:`sktl.images.as_images`. A slice, a mask or an array of positions gives another
    collection over the same pictures: nothing is copied, so that folds cost nothing.

    Parameters
    ----------
    items : sequence
        The pictures: paths, bytes, PIL images or arrays, or one array of them all.
    kind : str
        What they are.
    array_format : ArrayFormat, default=None
        How pictures that are arrays are read; by default found for each of them.
    background : tuple of 3 ints, default=(255, 255, 255)
        Colour behind transparent pixels, (R, G, B) in 0-255.
    positions : ndarray of int, default=None
        Which of the items the collection has, and in what order; by default all.

    Attributes
    ----------
    shape : tuple of 1 int
        ``(n_images,)``, so that scikit-learn slices a collection as it slices arrays.
    kind : str
        What is held: ``"paths"``, ``"bytes"``, ``"PIL"``, ``"arrays"`` (one array, data set or
        table), ``"ragged arrays"`` (a list of arrays), ``"mixed"``, or ``"pictures"`` (none).
    array_format : ArrayFormat
        How pictures that are arrays are read.
    background : tuple of 3 ints
        Colour behind transparent pixels, (R, G, B) in 0-255.

    Examples
    --------
    >>> import numpy as np
    >>> from sktl.images import as_images
    >>> images = as_images(np.zeros((5, 8, 8), dtype=np.uint8))
    >>> images
    ImageCollection(5 arrays)
    >>> images[[0, 3]]
    ImageCollection(2 arrays)
    >>> images.decode(4).shape
    (8, 8, 3)
    """

    def __init__(
        self,
        items: Any,
        kind: str,
        *,
        array_format: ArrayFormat | None = None,
        background: RGB = WHITE,
        positions: npt.NDArray[np.intp] | None = None,
    ) -> None:
        self._items = items
        self._positions = np.arange(len(items)) if positions is None else positions
        self.kind = kind
        self.array_format = array_format or ArrayFormat()
        self.background = background

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def shape(self) -> tuple[int]:
        """Number of pictures, as the shape of a one-dimensional array."""
        return (len(self),)

    def __repr__(self) -> str:
        return f"ImageCollection({len(self)} {self.kind})"

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        """The raw picture at an integer position; a collection for everything else."""
        if isinstance(key, tuple) and len(key) == 2 and key[1] is Ellipsis:
            key = key[0]  # scikit-learn slices anything with a shape as array[key, ...]
        if not isinstance(key, slice):
            key = np.asarray(key)
            if key.ndim == 0:
                return self._items[self._positions[operator.index(key)]]
            if key.ndim > 1:
                raise IndexError(f"too many dimensions: {key.ndim}, but a collection has one")
            key = key.astype(np.intp) if key.size == 0 else key  # an empty list is float
        return ImageCollection(
            self._items,
            self.kind,
            array_format=self.array_format,
            background=self.background,
            positions=self._positions[key],
        )

    def joined(self, other: ImageCollection) -> ImageCollection:
        """The pictures of this collection and then another's, each decoded as it is there."""
        if self.background != other.background:
            raise ParameterError(
                f"pictures on the background {self.background} cannot be joined with pictures on "
                f"{other.background}; give both collections the same background"
            )
        same = self.array_format == other.array_format and self.kind == other.kind
        return ImageCollection(
            _Joined(self, other),
            self.kind if same else "mixed",
            array_format=self.array_format,
            background=self.background,
        )

    def __getstate__(self) -> dict[str, Any]:
        """A slice sent to another process takes only its own pictures along, by whole paths.

        The other process may work in another folder.
        """
        state = self.__dict__.copy()
        if isinstance(self._items, np.ndarray):
            if len(self) < len(self._items):
                state["_items"] = self._items[self._positions]
                state["_positions"] = np.arange(len(self))
            if self._items.dtype == object:
                state["_items"] = _with_whole_paths(state["_items"])
        return state

    def describe(self, i: int) -> str:
        """Path of picture `i`, or short words for a picture in memory."""
        return describe(self[i])

    def read_rgb(self, i: int) -> Image.Image:
        """Picture `i` as an upright PIL image of mode RGB; raise BadImageError.

        Parameters
        ----------
        i : int
            Its position in the collection.

        Returns
        -------
        image : PIL.Image.Image
        """
        item = self[i]
        if is_encoded(item):
            return read_rgb(item, self.background)
        return self._as_rgb(self._uint8(i, item))

    def read(self, i: int, *, least: int | None = None) -> Image.Image | npt.NDArray[np.uint8]:
        """As `read_rgb`, but as an array where that is had sooner.

        Parameters
        ----------
        i : int
            Its position in the collection.
        least : int, default=None
            If given, an encoded JPEG may be decoded at a half, a quarter or an eighth of its size,
            as long as no side becomes shorter than this, in pixels.

        Returns
        -------
        image : PIL.Image.Image or ndarray of shape (height, width, 3), dtype uint8
            An array may be the caller's own.
        """
        item = self[i]
        if is_encoded(item):
            return read_pixels(item, self.background, least=least)
        array = self._uint8(i, item)
        return array if array.shape[2] == 3 else self._as_rgb(array)

    def plain_jpeg(self, i: int, *, most: int | None = None) -> bytes | None:
        """The file of picture `i`, if decoders other than Pillow's can be trusted with it.

        Parameters
        ----------
        i : int
            Its position in the collection.
        most : int, default=None
            Pixels that it may have, if given.

        Returns
        -------
        encoded : bytes or None
            An upright JPEG in gray or YCbCr that ends as it should; None for everything else, and
            for what is damaged as far as can be told undecoded.
        """
        item = self[i]
        try:
            return plain_jpeg(item, most=most) if is_encoded(item) else None
        except BadImageError:
            return None

    def _uint8(self, i: int, item: Any) -> npt.NDArray[np.uint8]:
        """Picture `i`, which is no file, as (height, width, 1, 3 or 4); raise BadImageError."""
        try:
            return self._format_of(i).to_uint8(_array(item))
        except ImageFormatError as error:
            raise BadImageError(str(error)) from error

    def _as_rgb(self, array: npt.NDArray[np.uint8]) -> Image.Image:
        """(height, width, 1, 3 or 4) to mode RGB."""
        if array.shape[2] == 1:
            return Image.fromarray(np.repeat(array, 3, axis=2))  # (H, W, 1) -> (H, W, 3)
        image = Image.fromarray(array)
        return image if image.mode == "RGB" else lay_on(image, self.background)

    def _format_of(self, i: int) -> ArrayFormat:
        if isinstance(self._items, _Joined):
            return self._items.format_of(int(self._positions[i]))
        return self.array_format

    def decode(self, i: int) -> npt.NDArray[np.uint8]:
        """Decode one picture.

        Parameters
        ----------
        i : int
            Its position in the collection.

        Returns
        -------
        rgb : ndarray of shape (height, width, 3), dtype uint8
            Channels in the order red, green, blue; values 0-255.

        Raises
        ------
        ImageDecodeError
            If the picture cannot be read.
        """
        try:
            return np.array(self.read_rgb(i))
        except BadImageError as error:
            raise ImageDecodeError([BadImage(i, self.describe(i), str(error))], len(self)) from None

    def check(self, positions: Sequence[int] | None = None) -> list[BadImage]:
        """Find what is sure not to decode by headers, shapes and dtypes alone.

        Parameters
        ----------
        positions : sequence of int, default=None
            The pictures to look at; all by default.

        Returns
        -------
        bad : list of BadImage
            Pictures that are missing, empty, unrecognisable, oversized, or no pictures. Damage
            behind the header is only met in decoding.
        """
        bad: list[BadImage] = []
        if self.kind == "arrays":  # checked as a whole when the collection was made
            return bad
        for i in range(len(self)) if positions is None else positions:
            item = self[i]
            try:
                if is_encoded(item):
                    check_encoded(item)
                else:
                    self._format_of(i).check(_array(item))
            except (BadImageError, ImageFormatError) as error:
                bad.append(BadImage(i, describe(item), str(error)))
        return bad


class _Joined:
    """Raw pictures of two collections, one after the other."""

    def __init__(self, first: ImageCollection, second: ImageCollection) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, i: int) -> Any:
        part, i = self._part_of(i)
        return part[i]

    def format_of(self, i: int) -> ArrayFormat:
        part, i = self._part_of(i)
        return part._format_of(i)

    def _part_of(self, i: int) -> tuple[ImageCollection, int]:
        n = len(self.first)
        return (self.first, i) if i < n else (self.second, i - n)


def _with_whole_paths(items: npt.NDArray[Any]) -> npt.NDArray[Any]:
    result = items.copy()
    for i, item in enumerate(items):
        if isinstance(item, (str, os.PathLike)) and not os.path.isabs(item):  # noqa: PTH117
            result[i] = os.path.join(os.getcwd(), item)  # noqa: PTH109, PTH118
    return result


def _array(item: Any) -> npt.NDArray[Any]:
    if not hasattr(item, "__array__"):
        raise BadImageError(f"not a picture but {reprlib.repr(item)}")
    return np.asarray(item)
