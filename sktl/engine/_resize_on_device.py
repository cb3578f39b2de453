"""Resizing on a device, to the same bits as Pillow's."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from sktl.engine._resize_like_pillow import BITS, goes_across_first, is_like_pillow, resize_weights

__all__ = ["MOST_LEVELS", "resize_part", "resizes_like_pillow"]

# Each of Pillow's weights is the sum of a high and a low part here, so that all that is multiplied
# and added are whole numbers below 2**24: float32 holds these exactly, whatever the order.
_LOW_BITS, _EXACT = 12, 1 << 24
# Levels of a picture, each of which takes 8 bytes of the device, for each thread that decodes.
MOST_LEVELS = 1 << 23


class _Weights(NamedTuple):
    start: int  # the part of the line that is looked at
    stop: int
    matrix: torch.Tensor  # (2 * n, stop - start), the high parts above the low ones


def resize_part(
    pixels: npt.NDArray[np.uint8] | torch.Tensor,
    size: tuple[int, int],
    box: tuple[int, int, int, int],
    interpolation: str,
    device: torch.device,
) -> torch.Tensor | None:
    """Resize a picture on a device, and cut a part out.

    Parameters
    ----------
    pixels : ndarray or Tensor of shape (height, width, 3), dtype uint8
        The picture; a tensor is on the device.
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
    if math.prod(seen.shape) > MOST_LEVELS:
        return None
    x = seen if isinstance(seen, torch.Tensor) else _sent(seen, device)
    x = x.permute(1, 0, 2).float()  # (H, W, 3) -> (W, H, 3)
    x = _rounded(across.matrix @ x.flatten(1))  # (w, H * 3)
    x = x.view(right - left, -1, 3).transpose(0, 1)  # (w, H, 3) -> (H, w, 3)
    x = _rounded(down.matrix @ x.flatten(1).float())  # (h, w * 3)
    return x.view(bottom - top, right - left, 3).to(torch.uint8)


def _sent(pixels: npt.NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    x = torch.from_numpy(pixels.copy())
    if device.type == "cuda":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def _rounded(sums: torch.Tensor) -> torch.Tensor:
    """(2 * n, m) sums of high parts above those of low parts, to (n, m) levels from 0 to 255."""
    high, low = sums.to(torch.int32).chunk(2)
    return (((high << _LOW_BITS) + low + (1 << (BITS - 1))) >> BITS).clamp_(0, 255)


@functools.lru_cache(maxsize=128)  # about a megabyte each, on the device
def _weights(
    n_in: int, n_out: int, start: int, stop: int, interpolation: str, device: torch.device
) -> _Weights | None:
    """As :func:`resize_weights`, in a matrix that multiplies the part of the line that counts."""
    first, some = resize_weights(n_in, n_out, start, stop, interpolation)
    columns = first[:, None] + np.arange(some.shape[1])
    start, stop = int(columns[0, 0]), int(columns[-1, -1]) + 1
    whole = np.zeros((len(some), stop - start), np.int64)
    np.put_along_axis(whole, columns - start, some, axis=1)
    high = (whole + (1 << (_LOW_BITS - 1))) >> _LOW_BITS
    low = whole - (high << _LOW_BITS)
    if 255 * np.abs(low).sum(axis=1).max() >= _EXACT:
        return None
    matrix = torch.from_numpy(np.concatenate([high, low]).astype(np.float32))
    if device.type == "cuda":  # not to wait for what it is at work on
        return _Weights(start, stop, matrix.pin_memory().to(device, non_blocking=True))
    return _Weights(start, stop, matrix.to(device))


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

    def resize(pixels: Any, size: Any, box: Any) -> Any:
        part = resize_part(pixels, size, box, interpolation, device)
        return None if part is None else part.cpu().numpy()

    return is_like_pillow(resize, interpolation)
