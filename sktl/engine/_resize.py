"""Resizing on a device, to the same bits as Pillow's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

__all__ = ["goes_across_first", "resize_part", "resizes_like_pillow"]

Numbers = npt.NDArray[np.float64]

# Pillow resizes along one side, rounds to 8 bits, and resizes along the other, with weights that
# are whole multiples of 2**-22. Here each of them is the sum of a high and a low part, so that all
# that is multiplied and added are whole numbers below 2**24: float32 holds these exactly, whatever
# the order.
_BITS, _LOW_BITS, _EXACT = 22, 12, 1 << 24
# Levels of a picture, each of which takes 8 bytes of the device, for each thread that decodes.
_MOST_LEVELS = 1 << 23


class _Weights(NamedTuple):
    start: int  # the part of the line that is looked at
    stop: int
    matrix: torch.Tensor  # (2 * n, stop - start), the high parts above the low ones


def resize_part(
    pixels: npt.NDArray[np.uint8],
    size: tuple[int, int],
    box: tuple[int, int, int, int],
    interpolation: str,
    device: torch.device,
) -> torch.Tensor | None:
    """Resize a picture on a device, and cut a part out.

    Parameters
    ----------
    pixels : ndarray of shape (height, width, 3), dtype uint8
        The picture.
    size : tuple of 2 ints
        Width and height of the whole after resizing.
    box : tuple of 4 ints
        Left, top, right and bottom of the part, in pixels of the resized picture.
    interpolation : {"bilinear", "bicubic"}
        With antialiasing.
    device : torch.device
        Where to resize.

    Returns
    -------
    part : Tensor of shape (bottom - top, right - left, 3), dtype uint8, or None
        On the device; it may still be at work. None for a picture that is large, or reduced so
        much that the numbers would not be exact, and for a tall one, which Pillow resizes along its
        height first.

    References
    ----------
    ``libImaging/Resample.c`` of Pillow.
    """
    height, width = pixels.shape[:2]
    left, top, right, bottom = box
    if not goes_across_first((width, height), size):
        return None
    across = _weights(width, size[0], left, right, interpolation, device)
    down = _weights(height, size[1], top, bottom, interpolation, device)
    if across is None or down is None:
        return None
    seen = pixels[down.start : down.stop, across.start : across.stop]
    if seen.size > _MOST_LEVELS:
        return None
    x = torch.from_numpy(seen.copy())
    if device.type == "cuda":
        x = x.pin_memory()
    x = x.to(device, non_blocking=True).permute(1, 0, 2).float()  # (H, W, 3) -> (W, H, 3)
    x = _rounded(across.matrix @ x.flatten(1))  # (w, H * 3)
    x = x.view(right - left, -1, 3).transpose(0, 1)  # (w, H, 3) -> (H, w, 3)
    x = _rounded(down.matrix @ x.flatten(1).float())  # (h, w * 3)
    return x.view(bottom - top, right - left, 3).to(torch.uint8)


def goes_across_first(old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Whether every Pillow resizes a picture of the (width, height) `old` along its width first.

    Since some version (13.0.0 does), it takes the height first where that saves work.
    """
    return old[1] - new[1] <= max(0, 2 * (old[0] - new[0]))


def _rounded(sums: torch.Tensor) -> torch.Tensor:
    """(2 * n, m) sums of high parts above those of low parts, to (n, m) levels from 0 to 255."""
    high, low = sums.to(torch.int32).chunk(2)
    return (((high << _LOW_BITS) + low + (1 << (_BITS - 1))) >> _BITS).clamp_(0, 255)


@functools.lru_cache(maxsize=64)  # about a megabyte each, on the device
def _weights(
    n_in: int, n_out: int, first: int, last: int, interpolation: str, device: torch.device
) -> _Weights | None:
    """What the `n_in` pixels of a line count for those from `first` to `last` of `n_out`."""
    support, kernel = _KERNELS[interpolation]
    scale = n_in / n_out
    stretch = max(scale, 1.0)
    centre = (np.arange(first, last)[:, None] + 0.5) * scale
    begin = np.trunc(centre - support * stretch + 0.5).clip(0)
    end = np.trunc(centre + support * stretch + 0.5).clip(None, n_in)
    start, stop = int(begin.min()), int(end.max())
    x = np.arange(start, stop)
    weights = kernel(np.abs((x - centre + 0.5) * (1 / stretch)))
    weights[(x < begin) | (x >= end)] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    whole = np.trunc(weights * (1 << _BITS) + np.copysign(0.5, weights)).astype(np.int64)
    high = (whole + (1 << (_LOW_BITS - 1))) >> _LOW_BITS
    low = whole - (high << _LOW_BITS)
    if 255 * np.abs(low).sum(axis=1).max() >= _EXACT:
        return None
    matrix = torch.from_numpy(np.concatenate([high, low]).astype(np.float32))
    return _Weights(start, stop, matrix.to(device))


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


@functools.cache
def resizes_like_pillow(interpolation: str, device: torch.device) -> bool:
    """Whether a device gives what the installed Pillow gives, by a trial.

    Parameters
    ----------
    interpolation : str
        As of :class:`sktl.backbones.Preprocessing`.
    device : torch.device
        Where to resize.

    Returns
    -------
    does : bool
    """
    if interpolation not in _KERNELS:
        return False
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    size, box = (67, 50), (3, 2, 61, 47)
    expected = Image.fromarray(pixels).resize(size, Image.Resampling[interpolation.upper()])
    found = resize_part(pixels, size, box, interpolation, device)
    return found is not None and np.array_equal(found.cpu(), np.asarray(expected.crop(box)))
