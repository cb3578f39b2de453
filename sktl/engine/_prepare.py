"""One decoded picture to the pixels that a network sees."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from sktl.engine._resize import resize_part, resizes_like_pillow

if TYPE_CHECKING:
    from sktl.backbones import Preprocessing

__all__ = ["Crops", "n_crops", "prepare", "prepare_on"]

Crops = Literal["center", "ten"]
# A picture of 10 x 10,000 pixels would be resized to 256 x 256,000. Beyond this size only the
# part that is cut out is resized: the same but for the rounding of the cut's position.
_MOST_PIXELS = 1 << 24
_IN_TORCH = ("bilinear", "bicubic")


def n_crops(crops: Crops) -> int:
    """How many cuts of each picture the network sees."""
    return 10 if crops == "ten" else 1


def prepare(
    image: Image.Image,
    preprocessing: Preprocessing,
    crops: Crops = "center",
    *,
    exact: bool = True,
) -> npt.NDArray[np.uint8]:
    """Resize and crop, as the reference transforms of torchvision and timm do on PIL images.

    Scaling and normalising are left to the device.

    Parameters
    ----------
    image : PIL.Image.Image of mode RGB
        The decoded picture.
    preprocessing : Preprocessing
        Sizes and interpolation.
    crops : {"center", "ten"}, default="center"
        The centre, or the four corners and the centre, each also mirrored (Krizhevsky et al.
        2012).
    exact : bool, default=True
        Whether to resize with Pillow. If not, PyTorch does it, in half the time; some pixels then
        differ by 1.

    Returns
    -------
    pixels : ndarray of shape (n_crops, size, size, 3), dtype uint8
        RGB, values 0-255.

    Examples
    --------
    >>> from PIL import Image
    >>> from sktl.backbones import Preprocessing
    >>> from sktl.engine import prepare
    >>> prepare(Image.new("RGB", (640, 480)), Preprocessing(), "ten").shape
    (10, 224, 224, 3)
    """
    size = preprocessing.size
    resample = Image.Resampling[preprocessing.interpolation.upper()]
    width, height = _resized(image, preprocessing)
    left, top = _centre(width, size), _centre(height, size)
    if crops == "center" and width * height > _MOST_PIXELS:
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        return np.asarray(image.resize((size, size), resample, box=box))[None]
    if exact or preprocessing.interpolation not in _IN_TORCH:
        pixels = np.asarray(image.resize((width, height), resample))
    else:
        pixels = _resize_in_torch(image, width, height, preprocessing.interpolation)
    if crops == "center":
        return pixels[None, top : top + size, left : left + size]
    right, bottom = width - size, height - size
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (top, left)]
    views = (pixels, pixels[:, ::-1])  # (H, W, C), mirrored along W
    return np.stack([v[y : y + size, x : x + size] for v in views for y, x in corners])


def prepare_on(
    device: torch.device, image: Image.Image, preprocessing: Preprocessing
) -> torch.Tensor:
    """The centre of a picture, resized by the device where that gives the same as `prepare`.

    Parameters
    ----------
    device : torch.device
        Where the pixels are wanted.
    image : PIL.Image.Image of mode RGB
        The decoded picture.
    preprocessing : Preprocessing
        Sizes and interpolation.

    Returns
    -------
    pixels : Tensor of shape (1, size, size, 3), dtype uint8
        On the device; it may still be at work.
    """
    size, interpolation = preprocessing.size, preprocessing.interpolation
    width, height = _resized(image, preprocessing)
    if image.size != (width, height) and resizes_like_pillow(interpolation, device):
        left, top = _centre(width, size), _centre(height, size)
        box = (left, top, left + size, top + size)
        # A device that has no room gets its batch, and says so if that is too much for it as well.
        with contextlib.suppress(torch.OutOfMemoryError):
            part = resize_part(np.asarray(image), (width, height), box, interpolation, device)
            if part is not None:
                return part[None]
    return torch.from_numpy(prepare(image, preprocessing).copy()).to(device)


def _resize_in_torch(
    image: Image.Image, width: int, height: int, interpolation: str
) -> npt.NDArray[np.uint8]:
    pixels = np.array(image)
    if (width, height) == image.size:
        return pixels
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # (H, W, 3) -> (1, 3, H, W)
    x = torch.nn.functional.interpolate(x, (height, width), mode=interpolation, antialias=True)
    resized: npt.NDArray[np.uint8] = x[0].permute(1, 2, 0).numpy()
    return resized


def _centre(length: int, size: int) -> int:
    """Where the cut begins."""
    return round((length - size) / 2)


def _resized(image: Image.Image, preprocessing: Preprocessing) -> tuple[int, int]:
    """Width and height after resizing."""
    resize = preprocessing.resize
    if not preprocessing.keep_aspect:
        return resize, resize
    if image.width <= image.height:
        return resize, int(resize * image.height / image.width)
    return int(resize * image.width / image.height), resize
