"""What resizing to the same bits as Pillow's needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

__all__ = [
    "BITS",
    "INTERPOLATIONS",
    "Weights",
    "goes_across_first",
    "is_like_pillow",
    "resize_weights",
    "size_of",
]

Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.float64]

# Pillow resizes along one side, rounds to 8 bits, and resizes along the other, with weights that
# are whole multiples of 2**-22.
BITS = 22


class Weights(NamedTuple):
    """What the pixels of a line count for those of a resized line."""

    first: npt.NDArray[np.int32]  # (n,), the first one that counts
    whole: npt.NDArray[np.int32]  # (n, k), of it and those after it, in units of 2**-BITS


def size_of(image: Image.Image | Pixels | torch.Tensor) -> tuple[int, int]:
    """Width and height."""
    if isinstance(image, Image.Image):
        return image.size
    height, width = image.shape[:2]
    return width, height


def goes_across_first(old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Whether every Pillow resizes a picture of the (width, height) `old` along its width first.

    Since some version (13.0.0 does), it takes the height first where that saves work.
    """
    return old[1] - new[1] <= max(0, 2 * (old[0] - new[0]))


def resize_weights(n_in: int, n_out: int, start: int, stop: int, interpolation: str) -> Weights:
    """What the `n_in` pixels of a line count for those from `start` to `stop` of `n_out`.

    Parameters
    ----------
    n_in, n_out : int
        Lengths of the line and of the resized line.
    start, stop : int
        The part of the resized line that is wanted, without `stop`.
    interpolation : {"bilinear", "bicubic"}
        With antialiasing.

    Returns
    -------
    weights : Weights

    References
    ----------
    ``libImaging/Resample.c`` of Pillow.
    """
    support, kernel = _KERNELS[interpolation]
    scale = n_in / n_out
    stretch = max(scale, 1.0)
    centre = (np.arange(start, stop)[:, None] + 0.5) * scale
    begin = np.trunc(centre - support * stretch + 0.5).clip(0)
    end = np.trunc(centre + support * stretch + 0.5).clip(None, n_in)
    k = int((end - begin).max())
    first = begin.clip(None, n_in - k)
    x = first + np.arange(k)
    weights = kernel(np.abs((x - centre + 0.5) * (1 / stretch)))
    weights[(x < begin) | (x >= end)] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    whole = np.trunc(weights * (1 << BITS) + np.copysign(0.5, weights))
    return Weights(first[:, 0].astype(np.int32), whole.astype(np.int32))


def is_like_pillow(
    resize: Callable[[Pixels, tuple[int, int], tuple[int, int, int, int]], Pixels | None],
    interpolation: str,
) -> bool:
    """Whether a way to resize gives what the installed Pillow gives, by a trial.

    Parameters
    ----------
    resize : callable
        Takes the pixels of a picture, its new width and height, and the left, top, right and bottom
        of the part that is wanted.
    interpolation : str
        As of :class:`sktl.backbones.Preprocessing`.

    Returns
    -------
    does : bool
    """
    if interpolation not in INTERPOLATIONS:
        return False
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    size, box = (67, 50), (3, 2, 61, 47)
    expected = Image.fromarray(pixels).resize(size, Image.Resampling[interpolation.upper()])
    found = resize(pixels, size, box)
    return found is not None and np.array_equal(found, np.asarray(expected.crop(box)))


def _triangle(x: Numbers) -> Numbers:
    return np.maximum(1.0 - x, 0.0)


def _cubic(x: Numbers) -> Numbers:
    """Keys' kernel with a = -.5."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


_KERNELS: dict[str, tuple[float, Callable[[Numbers], Any]]] = {
    "bilinear": (1.0, _triangle),
    "bicubic": (2.0, _cubic),
}
INTERPOLATIONS = tuple(_KERNELS)
