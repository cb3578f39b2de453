"""What one look at a picture tells: size, mode, light, sharpness, and what it is compared by."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
from PIL import Image

from sktl.images import ImageCollection
from sktl.images._decode import BadImageError, is_encoded
from sktl.images._digest import digest_picture
from sktl.utils._progress import ProgressBar
from sktl.utils._quiet import PILLOW_QUIET

__all__ = ["THUMB", "Look", "look_at"]

THUMB = 32
# Sharpness is measured at the size that networks see, whatever the camera's was.
_SHARPNESS_SIZE = 256
_CHUNK = 32


@dataclass
class Look:
    """One picture, looked at.

    Attributes
    ----------
    source : str
        The path, or a short description of a picture in memory.
    format : str or None
        Pillow's name of the file format; None for arrays.
    mode : str or None
        Pillow's name of the pixel format in the file, such as "L" or "CMYK".
    n_bytes : int or None
        Size of the encoded picture.
    width, height : int or None
        Size in pixels, upright.
    brightness : float
        Mean gray value, 0-255.
    contrast : float
        Standard deviation of the gray values.
    highlight : float
        The gray value that 1 % of the pixels exceed.
    sharpness : float
        Variance of the Laplacian by that of the gray values.
    broken : str or None
        Why it cannot be read.
    digest : bytes or None
        Digest of the decoded pixels.
    thumb : ndarray of shape (32, 32), dtype uint8, or None
        The gray picture, squeezed.
    """

    source: str
    format: str | None = None
    mode: str | None = None
    n_bytes: int | None = None
    width: int | None = None
    height: int | None = None
    brightness: float = np.nan
    contrast: float = np.nan
    highlight: float = np.nan
    sharpness: float = np.nan
    broken: str | None = None
    digest: bytes | None = None
    thumb: npt.NDArray[np.uint8] | None = None


def look_at(
    images: ImageCollection, *, n_jobs: int | None = None, progress: bool = False
) -> list[Look]:
    """Look at every picture, in threads; what cannot be read is marked as broken."""
    chunks = (images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK))
    parallel = joblib.Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")
    looks: list[Look] = []
    with ProgressBar(total=len(images), unit="image", delay=3, disable=not progress) as bar:
        for some in parallel(joblib.delayed(_look_at_chunk)(chunk) for chunk in chunks):
            looks += some
            bar.update(len(some))
    return looks


def _look_at_chunk(images: ImageCollection) -> list[Look]:
    return [_look_at_one(images, i) for i in range(len(images))]


def _look_at_one(images: ImageCollection, i: int) -> Look:
    item = images[i]
    look = Look(images.describe(i))
    bad = images.check([i])
    if bad:
        look.broken = bad[0].reason
        look.n_bytes = _n_bytes(item)
        return look
    if is_encoded(item):
        look.n_bytes = _n_bytes(item)
        look.format, look.mode, (look.width, look.height) = _header(item)
    else:
        look.mode = _array_mode(images, item)
    try:
        rgb = images.read_rgb(i)
    except BadImageError as error:
        look.broken = str(error)
        return look
    look.width, look.height = rgb.size
    look.digest = digest_picture(rgb)
    gray = rgb.convert("L")  # ITU-R BT.601 luma
    histogram = np.array(gray.histogram(), dtype=np.float64) / (gray.width * gray.height)
    levels = np.arange(256)
    look.brightness = float(histogram @ levels)
    look.contrast = float(np.sqrt(histogram @ (levels - look.brightness) ** 2))
    look.highlight = float(np.searchsorted(np.cumsum(histogram), 0.99 - 1e-9))
    look.sharpness = _sharpness(gray)
    look.thumb = np.asarray(gray.resize((THUMB, THUMB), Image.Resampling.BILINEAR))
    return look


def _n_bytes(item: Any) -> int | None:
    if isinstance(item, (str, os.PathLike)):
        return os.stat(item).st_size if os.path.exists(item) else None  # noqa: PTH110, PTH116
    if isinstance(item, (bytes, bytearray, memoryview)):
        return len(item)
    return None


def _header(item: Any) -> tuple[str | None, str, tuple[int, int]]:
    if isinstance(item, Image.Image):
        return item.format, item.mode, item.size
    source = io.BytesIO(item) if isinstance(item, (bytes, bytearray, memoryview)) else item
    with PILLOW_QUIET, Image.open(source) as image:
        return image.format, image.mode, image.size


def _array_mode(images: ImageCollection, item: Any) -> str:
    array = np.asarray(item)
    layout = images.array_format.check(array)
    shape: Iterable[int] = images.array_format.image_shape or array.shape
    channels = dict(zip(layout, shape, strict=True)).get("C", 1)
    return {1: "L", 3: "RGB", 4: "RGBA"}[channels]


def _sharpness(gray: Image.Image) -> float:
    """Variance of the Laplacian (Pech-Pacheco et al. 2000), the longer side at most 256 pixels.

    Divided by the variance of the gray values: otherwise low contrast would pass for blur.
    """
    longer = max(gray.size)
    if longer > _SHARPNESS_SIZE:
        size = [max(1, round(side * _SHARPNESS_SIZE / longer)) for side in gray.size]
        gray = gray.resize((size[0], size[1]), Image.Resampling.BILINEAR, reducing_gap=3.0)
    x = np.asarray(gray).astype(np.int32)  # (H, W)
    if min(x.shape) < 3 or x.min() == x.max():
        return np.nan
    around = x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:]
    return float((around - 4 * x[1:-1, 1:-1]).var() / x.var())
