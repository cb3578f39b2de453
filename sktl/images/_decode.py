"""One encoded picture (path, bytes or PIL image) to RGB, 8 bits a channel."""

from __future__ import annotations

import io
import os
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageColor, ImageOps, UnidentifiedImageError

__all__ = ["BadImageError", "check_encoded", "decode_image", "is_encoded", "read_rgb"]

Background = str | tuple[int, int, int]

# Two threads may meet at the same PIL image, whose lazy load is not safe to run twice at once.
_PIL_LOAD = threading.Lock()


class BadImageError(Exception):
    """Why one picture cannot be read; gathered into an ImageDecodeError by those who see many."""


def decode_image(item: Any, *, background: Background = "white") -> npt.NDArray[np.uint8]:
    """Decode one picture to RGB.

    Grayscale, palette, CMYK, YCbCr and Lab pictures are converted; 16-bit and float samples are
    scaled, not clipped; transparency is laid on `background`; the EXIF orientation is applied; of
    an animation the first frame is taken.

    Parameters
    ----------
    item : str, Path, bytes or PIL.Image.Image
        The picture. A PIL image is not modified, but a lazily opened one is loaded.
    background : str or tuple of 3 ints, default="white"
        Colour behind transparent pixels: a name that Pillow knows, or (R, G, B) in 0-255.

    Returns
    -------
    rgb : ndarray of shape (height, width, 3), dtype uint8
        Channels in the order red, green, blue; values 0-255.

    Raises
    ------
    ImageDecodeError
        If the picture is missing, empty, damaged, too large or of no known format. Its size
        limit is Pillow's own, ``PIL.Image.MAX_IMAGE_PIXELS``.

    Examples
    --------
    >>> from PIL import Image
    >>> from sktl.images import decode_image
    >>> decode_image(Image.new("L", (4, 2), 255)).shape
    (2, 4, 3)
    """
    from sktl.exceptions import BadImage, ImageDecodeError

    try:
        if not is_encoded(item):
            raise BadImageError(f"a {type(item).__name__} is not a path, bytes or a PIL image")
        return np.array(read_rgb(item, background))
    except BadImageError as error:
        raise ImageDecodeError([BadImage(0, describe(item), str(error))], 1) from error


def is_encoded(item: Any) -> bool:
    """Whether `item` is a picture that Pillow reads: a path, bytes or a PIL image."""
    return isinstance(item, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image))


def describe(item: Any) -> str:
    """Short words for a picture in messages."""
    if isinstance(item, (str, os.PathLike)):
        return os.fspath(item)
    if isinstance(item, (bytes, bytearray, memoryview)):
        return f"<{len(item)} bytes>"
    if isinstance(item, Image.Image):
        return f"<PIL image {item.mode} {item.width}x{item.height}>"
    shape = getattr(item, "shape", None)
    return f"<array {tuple(shape)}>" if shape is not None else f"<{type(item).__name__}>"


def check_encoded(item: Any) -> None:
    """Look at the header only; raise BadImageError for what is sure not to decode."""
    if isinstance(item, Image.Image):
        _check_size(item)
    else:
        with _open(item):
            pass


def read_rgb(item: Any, background: Background) -> Image.Image:
    """Decode to a PIL image of mode RGB, upright; raise BadImageError."""
    try:
        if isinstance(item, Image.Image):
            _check_size(item)
            with _PIL_LOAD:
                item.load()
            return _to_rgb(item, background)
        with _open(item) as image:
            image.load()
            return _to_rgb(image, background)
    except BadImageError:
        raise
    except MemoryError:
        raise
    # Pillow's decoders raise whatever their format's parser stumbles over: OSError, SyntaxError,
    # ValueError, struct.error, IndexError, zlib.error and more have all been seen.
    except Exception as error:
        raise BadImageError(f"damaged: {error or type(error).__name__}") from error


def _open(item: Any) -> Image.Image:
    try:
        if isinstance(item, (bytes, bytearray, memoryview)):
            if len(item) == 0:
                raise BadImageError("empty (0 bytes)")
            image = Image.open(io.BytesIO(item))
        else:
            image = Image.open(item)
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError(_why_unidentified(item)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError(f"too large: {error}") from error
    except FileNotFoundError as error:
        raise BadImageError("file not found") from error
    except IsADirectoryError as error:
        raise BadImageError("a folder, not a picture") from error
    except MemoryError:
        raise
    except Exception as error:  # as in read_rgb
        raise BadImageError(f"cannot be opened: {error or type(error).__name__}") from error
    try:
        _check_size(image)
    except BadImageError:
        image.close()
        raise
    return image


def _why_unidentified(item: Any) -> str:
    if isinstance(item, (str, os.PathLike)) and os.path.getsize(item) == 0:
        return "empty (0 bytes)"
    return "not a picture in a format that Pillow recognises"


def _check_size(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise BadImageError(
            f"too large: {image.width} x {image.height} pixels, over the limit of {limit} "
            "(PIL.Image.MAX_IMAGE_PIXELS) that guards against decompression bombs"
        )
    if image.width == 0 or image.height == 0:
        raise BadImageError("has no pixels")


def _to_rgb(image: Image.Image, background: Background) -> Image.Image:
    image = ImageOps.exif_transpose(image)  # always a copy, so the caller's image stays as it is
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith(("I", "F")):
        return _wide_samples_to_rgb(image)
    if image.has_transparency_data:
        colour = ImageColor.getrgb(background) if isinstance(background, str) else background
        canvas = Image.new("RGBA", image.size, (*colour[:3], 255))
        return Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None  # it returns None only when asked to work in place
        return converted
    return image.convert("RGB")


def _wide_samples_to_rgb(image: Image.Image) -> Image.Image:
    """Gray of 16 or 32 bits or float, to 8 bits by its nominal range (Pillow itself would clip)."""
    samples = np.asarray(image)
    white = 65535.0 if image.mode.startswith("I;16") else _nominal_white(samples)
    gray = np.round(samples.astype(np.float64) * (255.0 / white)).astype(np.uint8)
    return Image.fromarray(gray).convert("RGB")


def _nominal_white(samples: npt.NDArray[Any]) -> float:
    """The sample value that stands for white in a picture whose format does not say."""
    low, high = float(samples.min()), float(samples.max())
    if np.isfinite(low) and np.isfinite(high) and low >= 0:
        whites = (1.0, 255.0, 65535.0) if samples.dtype.kind == "f" else (65535.0,)
        for white in whites:
            if high <= white:
                return white
    raise BadImageError(
        f"its samples run from {low:g} to {high:g}, a range with no agreed white; "
        "rescale them to [0, 1] or to 16 bits and pass arrays instead"
    )
