"""Resizing on a core by compiled loops: the bits of Pillow in a third of its time."""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sktl.engine._resize_like_pillow import (
    BITS,
    INTERPOLATIONS,
    goes_across_first,
    is_like_pillow,
    resize_weights,
    size_of,
)

__all__ = ["CompiledResize", "resize_compiled"]

Pixels = npt.NDArray[np.uint8]
Whole = npt.NDArray[np.int32]
Loops = Callable[[Pixels, Whole, Whole, Whole, Whole, Pixels], None]

_weights = functools.lru_cache(maxsize=256)(resize_weights)
# To load Numba and the loops takes as long as they save in so many pictures of 500 x 375 pixels. To
# compile them, which is done once, takes four times that.
_WORTH_LOADING = 400
_MOST_PIXELS = 1 << 24  # of a picture, of which there may be a copy for each thread
_ROWS = 64  # that are resized along the width together


class CompiledResize:
    """Resizes and cuts pictures by loops that Numba compiles, once there are many pictures.

    It leaves to Pillow the first pictures, those of other threads while it compiles, and all where
    Numba is missing or gives other numbers than the installed Pillow.
    """

    def __init__(self) -> None:
        self._asked = itertools.count(1)
        self._compiling = threading.Lock()
        self._is_settled = False
        self._loops: Loops | None = None

    def __call__(
        self,
        image: Image.Image | Pixels,
        size: tuple[int, int],
        box: tuple[int, int, int, int],
        interpolation: str,
    ) -> Pixels | None:
        """Resize a picture and cut a part out.

        Parameters
        ----------
        image : PIL.Image.Image of mode RGB, or ndarray of shape (height, width, 3), dtype uint8
            The picture.
        size : tuple of 2 ints
            Width and height of the whole after resizing.
        box : tuple of 4 ints
            Left, top, right and bottom of the part, in pixels of the resized picture.
        interpolation : str
            As of :class:`sktl.backbones.Preprocessing`.

        Returns
        -------
        part : ndarray of shape (bottom - top, right - left, 3), dtype uint8, or None
            None if it is left to Pillow, as pictures are that it resizes along the height first.
        """
        if not self._is_settled and next(self._asked) > _WORTH_LOADING:
            self._settle()
        if self._loops is None or interpolation not in INTERPOLATIONS:
            return None
        width, height = size_of(image)
        if width * height > _MOST_PIXELS or not goes_across_first((width, height), size):
            return None
        return _resize(self._loops, np.asarray(image), size, box, interpolation)

    def _settle(self) -> None:
        if not self._compiling.acquire(blocking=False):
            return
        try:
            if not self._is_settled:
                self._loops = _compiled()
        finally:
            self._is_settled = True
            self._compiling.release()


resize_compiled = CompiledResize()


def _compiled() -> Loops | None:
    """The loops below, if they can be compiled and give the pixels of the installed Pillow."""
    for is_kept in (True, False):
        # There may be no Numba, one that is too old for NumPy, or no folder for what it compiles.
        with contextlib.suppress(Exception):
            import numba

            loops: Loops = numba.njit(nogil=True, cache=is_kept)(_loops)
            if loops is _loops:  # NUMBA_DISABLE_JIT=1
                return None
            ways = (is_like_pillow(functools.partial(_trial, loops, x), x) for x in INTERPOLATIONS)
            return loops if all(ways) else None
    return None


def _trial(loops: Loops, interpolation: str, pixels: Pixels, size: Any, box: Any) -> Pixels:
    return _resize(loops, pixels, size, box, interpolation)


def _resize(
    loops: Loops,
    pixels: Pixels,
    size: tuple[int, int],
    box: tuple[int, int, int, int],
    interpolation: str,
) -> Pixels:
    left, top, right, bottom = box
    across = _weights(pixels.shape[1], size[0], left, right, interpolation)
    down = _weights(pixels.shape[0], size[1], top, bottom, interpolation)
    part = np.empty((bottom - top, right - left, 3), np.uint8)
    pixels = pixels.reshape(len(pixels), -1).view()
    pixels.flags.writeable = False  # loops are compiled once more for arrays that can be written
    loops(pixels, *across, *down, part)
    return part


def _loops(
    pixels: Pixels,  # (height, 3 width)
    first_across: Whole,
    across: Whole,
    first_down: Whole,
    down: Whole,
    part: Pixels,  # (h, w, 3), to be filled
) -> None:
    half = np.int32(1 << (BITS - 1))
    w = len(across)
    left, right = first_across[0], first_across[-1] + across.shape[1]
    first, last = first_down[0], first_down[-1] + down.shape[1]
    width = right - left
    resized = np.empty((last - first, 3 * w), np.uint8)
    words = np.empty((_ROWS, width), np.uint32)  # red in the lowest byte
    columns = np.empty((width, _ROWS), np.uint32)
    red, green, blue = np.empty((3, _ROWS), np.int32)
    for top in range(first, last, _ROWS):
        n_rows = min(_ROWS, last - top)
        for i in range(n_rows):
            row = pixels[top + i, 3 * left : 3 * right]
            for x in range(width):
                words[i, x] = (
                    np.uint32(row[3 * x])
                    | np.uint32(row[3 * x + 1]) << np.uint32(8)
                    | np.uint32(row[3 * x + 2]) << np.uint32(16)
                )
        for x in range(width):
            for i in range(n_rows):
                columns[x, i] = words[i, x]
        for j in range(w):
            red[:] = green[:] = blue[:] = half
            for k in range(across.shape[1]):
                weight = across[j, k]
                column = columns[first_across[j] - left + k]
                for i in range(_ROWS):
                    red[i] += weight * np.int32(column[i] & 255)
                    green[i] += weight * np.int32((column[i] >> 8) & 255)
                    blue[i] += weight * np.int32((column[i] >> 16) & 255)
            for i in range(n_rows):
                row = resized[top - first + i]
                row[3 * j] = min(max(red[i] >> BITS, 0), 255)
                row[3 * j + 1] = min(max(green[i] >> BITS, 0), 255)
                row[3 * j + 2] = min(max(blue[i] >> BITS, 0), 255)
    sums = np.empty(3 * w, np.int32)
    for y in range(len(down)):
        sums[:] = half
        for k in range(down.shape[1]):
            weight = down[y, k]
            row = resized[first_down[y] - first + k]
            for x in range(3 * w):
                sums[x] += weight * np.int32(row[x])
        out = part[y].reshape(-1)
        for x in range(3 * w):
            out[x] = min(max(sums[x] >> BITS, 0), 255)
