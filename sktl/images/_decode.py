"""One encoded picture (path, bytes or PIL image) to RGB, 8 bits a channel."""

from __future__ import annotations

import contextlib
import functools
import io
import operator
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageColor, UnidentifiedImageError

from sktl.exceptions import BadImage, ImageDecodeError, ParameterError
from sktl.images._jpeg import decode_jpeg
from sktl.utils._quiet import PILLOW_QUIET

__all__ = [
    "RGB",
    "WHITE",
    "Background",
    "BadImageError",
    "check_encoded",
    "decode_image",
    "describe",
    "is_encoded",
    "is_surely_opaque",
    "lay_on",
    "parse_background",
    "plain_jpeg",
    "read_pixels",
    "read_rgb",
]

RGB = tuple[int, int, int]
WHITE: RGB = (255, 255, 255)
_JPEG, _END_OF_JPEG = b"\xff\xd8\xff", b"\xff\xd9"
_YCBCR = [1, 2, 3]  # what such a JPEG calls its components
# Whose headers say whether they are transparent; a PNG's chunk may also come behind its pixels.
_OUTSPOKEN = ("PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PCX", "PPM", "TGA")
_SEE_THROUGH = b"tRNS"
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"),
    *("DIB", "ICO", "JPEG2000", "MPO", "PCX", "PPM", "TGA"),
)
Background = str | RGB

# Two threads may meet at the same PIL image, whose lazy load is not safe to run twice at once.
# Many locks, because different pictures are loaded side by side.
_PIL_LOADS = [threading.Lock() for _ in range(64)]

_ROWS = 64
_PHOTOMETRIC = 262  # a tag of TIFF: what zero means
_UPRIGHT = {  # EXIF orientation to what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImageError(Exception):
    """Why one picture cannot be read; gathered into an ImageDecodeError by those who see many."""


def decode_image(item: Any, *, background: Background = "white") -> npt.NDArray[np.uint8]:
    """Decode one picture to RGB.

    Grayscale, palette, CMYK, YCbCr and Lab pictures are converted; 16-bit and float samples are
    scaled, not clipped; transparency is laid on `background`; the EXIF orientation is applied; of
    an animation the first frame is taken, or that at which a PIL image stands. Embedded colour
    profiles are ignored.

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
    ParameterError
        If `background` is no colour.

    Notes
    -----
    Of colour with 16 bits a channel Pillow keeps the high byte, at most one level below rounding.

    Examples
    --------
    >>> from PIL import Image
    >>> from sktl.images import decode_image
    >>> decode_image(Image.new("L", (4, 2), 255)).shape
    (2, 4, 3)
    """
    colour = parse_background(background)
    try:
        if not is_encoded(item):
            raise BadImageError(f"a {type(item).__name__} is not a path, bytes or a PIL image")
        return np.array(read_rgb(item, colour))
    except BadImageError as error:
        raise ImageDecodeError([BadImage(0, describe(item), str(error))], 1) from error


def is_encoded(item: Any) -> bool:
    """Whether `item` is a picture that Pillow reads: a path, bytes or a PIL image."""
    return isinstance(item, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image))


def is_surely_opaque(encoded: bytes) -> bool:
    """Whether a picture will be decoded without transparency, as far as can be told undecoded."""
    if encoded.startswith(_JPEG):
        return True
    if _SEE_THROUGH in encoded:
        return False
    try:
        with PILLOW_QUIET, _open(encoded) as image:
            return image.format in _OUTSPOKEN and not image.has_transparency_data
    except BadImageError:
        return False


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


def parse_background(background: Background) -> RGB:
    """The colour as (R, G, B); raise ParameterError if it is none."""
    try:
        if isinstance(background, str):
            background = ImageColor.getrgb(background)[:3]
        red, green, blue = (operator.index(level) for level in background)
        if min(red, green, blue) >= 0 and max(red, green, blue) <= 255:
            return red, green, blue
    except (TypeError, ValueError):
        pass
    raise ParameterError(
        'background must be the name of a colour, such as "white" or "#ff8000", or '
        f"(R, G, B) in 0-255; got {background!r}"
    )


def check_encoded(item: Any) -> None:
    """Look at the header only; raise BadImageError for what is sure not to decode."""
    if isinstance(item, Image.Image):
        _check_size(item)
        _check_file(item)
    else:
        with PILLOW_QUIET, _open(item):
            pass


def read_rgb(item: Any, background: RGB) -> Image.Image:
    """Decode to a PIL image of mode RGB, upright; raise BadImageError."""
    with _naming_damage():
        if isinstance(item, Image.Image):
            return _to_rgb(_load_copy(item), background, item)
        with _open(item) as image:
            return _loaded(image, background)


def read_pixels(
    item: Any, background: RGB, *, least: int | None = None
) -> Image.Image | npt.NDArray[np.uint8]:
    """As `read_rgb`, but as (height, width, 3) uint8 where that is had sooner.

    With `least`, an encoded JPEG may be decoded at a half, a quarter or an eighth of its size, as
    long as no side becomes shorter than that.
    """
    if isinstance(item, Image.Image):
        return read_rgb(item, background)
    with _naming_damage(), _open(item) as image:
        is_reduced = least is not None and _reduce(image, least)
        is_plain = image.format == "JPEG" and image.mode in ("RGB", "L") and _turn(image) is None
        if is_plain and not is_reduced:
            encoded = item if isinstance(item, (bytes, bytearray, memoryview)) else _whole(image)
            pixels = decode_jpeg(encoded)
            if pixels is not None:
                return pixels
        return _loaded(image, background)


def plain_jpeg(item: Any, *, most: int | None = None) -> bytes | None:
    """The file of a picture if it is a JPEG that all decoders understand alike, and complete.

    It is upright, in gray or YCbCr, and has at most `most` pixels. Raise BadImageError for what is
    sure not to decode.
    """
    if isinstance(item, Image.Image):
        return None
    with _naming_damage(), _open(item) as image:
        if image.format != "JPEG" or (most is not None and image.width * image.height > most):
            return None
        components = [component[0] for component in image.layer]  # type: ignore[attr-defined]
        is_ycbcr = components == _YCBCR and image.info.get("adobe_transform", 1) == 1
        if not (is_ycbcr or image.mode == "L") or _turn(image) is not None:
            return None
        encoded = bytes(item) if not isinstance(item, (str, os.PathLike)) else _whole(image)
        return encoded if encoded.endswith(_END_OF_JPEG) else None


def _loaded(image: Image.Image, background: RGB) -> Image.Image:
    """Decode a picture that was opened."""
    image.load()
    return _to_rgb(_upright(image), background, image)


def _whole(image: Any) -> bytes:
    """The file that a picture was opened from."""
    file = image.fp
    position = file.tell()
    file.seek(0)
    encoded: bytes = file.read()
    file.seek(position)
    return encoded


@contextlib.contextmanager
def _naming_damage() -> Iterator[None]:
    """Raise BadImageError for all that decoders raise."""
    try:
        with PILLOW_QUIET:
            yield
    except (BadImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError(_too_large(str(error))) from error
    # Pillow's decoders raise whatever their format's parser stumbles over: OSError, SyntaxError,
    # ValueError, struct.error, IndexError, zlib.error and more have all been seen.
    except Exception as error:
        raise BadImageError(f"damaged: {_words(error)}") from error


def _load_copy(image: Image.Image) -> Image.Image:
    """A copy of the caller's image, upright."""
    _check_size(image)
    with _PIL_LOADS[id(image) % len(_PIL_LOADS)]:
        _check_file(image)
        tile = getattr(image, "tile", None)
        try:
            image.load()
        except Exception:
            # Pillow forgets its tiles before it notices some damage, and would hand out what is
            # there without a word the next time.
            if tile:
                image.tile = tile  # type: ignore[attr-defined]
            raise
        upright = _upright(image)
        return image.copy() if upright is image else upright


@functools.cache
def _formats() -> tuple[str, ...]:
    """Formats of photographs; Pillow reads others too, EPS by running a program on it."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _open(item: Any) -> Image.Image:
    try:
        if isinstance(item, (bytes, bytearray, memoryview)):
            if len(item) == 0:
                raise BadImageError("empty (0 bytes)")
            image = Image.open(io.BytesIO(item), formats=_formats())
        else:
            image = Image.open(item, formats=_formats())
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError(_why_unidentified(item)) from error
    except Image.DecompressionBombError as error:
        raise BadImageError(_too_large(str(error))) from error
    except FileNotFoundError as error:
        raise BadImageError("file not found") from error
    except IsADirectoryError as error:
        raise BadImageError("a folder, not a picture; see load_image_folder") from error
    except MemoryError:
        raise
    except Exception as error:  # as in read_rgb
        raise BadImageError(f"cannot be opened: {_words(error)}") from error
    try:
        _check_size(image)
    except BadImageError:
        image.close()
        raise
    return image


def _why_unidentified(item: Any) -> str:
    if isinstance(item, (str, os.PathLike)) and Path(item).stat().st_size == 0:
        return "empty (0 bytes)"
    return "not a picture in a format that Pillow recognises"


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _check_file(image: Image.Image) -> None:
    """Pixels that are still in a file need it open."""
    if getattr(image, "tile", None) and getattr(image, "fp", None) is None:
        raise BadImageError("its file was closed before the pixels were loaded, or is damaged")


def _check_size(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise BadImageError(_too_large(f"{image.width} x {image.height} pixels"))
    if image.width == 0 or image.height == 0:
        raise BadImageError("has no pixels")


def _too_large(what: str) -> str:
    return (
        f"too large: {what} (PIL.Image.MAX_IMAGE_PIXELS, the limit that guards against "
        f"decompression bombs, is {Image.MAX_IMAGE_PIXELS})"
    )


def _reduce(image: Image.Image, least: int) -> bool:
    """Have a JPEG decoded at a part of its size, where that is a whole number of pixels."""
    if image.format not in ("JPEG", "MPO"):
        return False
    for part in (8, 4, 2):
        (width, beyond), (height, below) = divmod(image.width, part), divmod(image.height, part)
        if min(width, height) >= least and not beyond and not below:
            image.draft(None, (width, height))
            return True
    return False


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What undoes the EXIF orientation; metadata too damaged to be read say nothing about it."""
    with contextlib.suppress(Exception):
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return None


def _upright(image: Image.Image) -> Image.Image:
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, background: RGB, source: Image.Image) -> Image.Image:
    """An upright image in mode RGB; `source` is what it was made of, whose format is known."""
    if image.mode.startswith(("I", "F")):
        image = _narrow(image, source)
    if image.mode == "La":  # gray with premultiplied alpha, which knows one way out only
        image = image.convert("LA")
    if image.has_transparency_data:
        return lay_on(image, background)
    return image if image.mode == "RGB" else image.convert("RGB")


def lay_on(image: Image.Image, background: RGB) -> Image.Image:
    """A transparent picture on one colour, in mode RGB."""
    canvas = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")


def _narrow(image: Image.Image, source: Image.Image) -> Image.Image:
    """Gray of 16 or 32 bits or float, to 8 bits by its nominal range (Pillow itself would clip)."""
    samples = np.asarray(image)
    white = _nominal_white(samples, is_16_bit=image.mode != "I" or source.format == "PPM")
    levels = np.empty(samples.shape, np.uint8)
    for top in range(0, len(samples), _ROWS):  # not all at once, in eight times the memory
        rows = samples[top : top + _ROWS].astype(np.float64)
        levels[top : top + _ROWS] = np.round(rows * (255.0 / white))
    # In some TIFF files zero is white, which Pillow heeds for 8 bits only.
    is_negative = getattr(source, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    gray = Image.fromarray(255 - levels if is_negative else levels)
    see_through = image.info.get("transparency")  # the one gray value that PNG may name
    if isinstance(see_through, int):
        gray.putalpha(Image.fromarray(np.where(samples == see_through, 0, 255).astype(np.uint8)))
    return gray


def _nominal_white(samples: npt.NDArray[Any], *, is_16_bit: bool) -> float:
    """The sample value that stands for white in a picture whose format does not say.

    Small whole numbers of 32 bits may be meant to be of 8 bits, or dark ones of 16.
    """
    low, high = float(samples.min()), float(samples.max())
    is_open = samples.dtype.kind != "f" and not is_16_bit and 0 < high <= 255
    if np.isfinite(low) and np.isfinite(high) and low >= 0 and not is_open:
        whites = (1.0, 255.0, 65535.0) if samples.dtype.kind == "f" else (65535.0,)
        for white in whites:
            if high <= white:
                return white
    raise BadImageError(
        f"its samples run from {low:g} to {high:g}, a range with no agreed white; "
        "rescale them to [0, 1] or to 16 bits and pass arrays instead"
    )
