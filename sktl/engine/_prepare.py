"""One decoded picture to the pixels that a network sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from sktl.engine._resize_compiled import resize_compiled
from sktl.engine._resize_like_pillow import goes_across_first, size_of
from sktl.engine._resize_on_device import resize_part, resizes_like_pillow
from sktl.utils._devices import is_out_of_memory

if TYPE_CHECKING:
    from sktl.backbones import Preprocessing

__all__ = ["Crops", "n_crops", "prepare", "prepare_on"]

Picture = Image.Image | npt.NDArray[np.uint8]
Crops = Literal["center", "ten"]
# A picture of 10 x 10,000 pixels would be resized to 256 x 256,000. Beyond this size only the
# part that is cut out is resized: the same but for the rounding of the cut's position.
_MOST_PIXELS = 1 << 24
_IN_TORCH = ("bilinear", "bicubic")


def n_crops(crops: Crops) -> int:
    """How many cuts of each picture the network sees."""
    return 10 if crops == "ten" else 1


def prepare(
    image: Picture,
    preprocessing: Preprocessing,
    crops: Crops = "center",
    *,
    exact: bool = True,
) -> npt.NDArray[np.uint8]:
    """Resize and crop, as the reference transforms of torchvision and timm do on PIL images.

    Scaling and normalising are left to the device.

    Parameters
    ----------
    image : PIL.Image.Image of mode RGB, or ndarray of shape (height, width, 3), dtype uint8
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
    if size_of(image) == (width, height):
        return _cut(np.asarray(image), left, top, size, crops)
    if crops == "center" and width * height > _MOST_PIXELS:
        whole = _as_pil(image)
        return np.asarray(_resize_part(whole, (width, height), left, top, size, resample))[None]
    if exact or preprocessing.interpolation not in _IN_TORCH:
        seen = (left, top, left + size, top + size) if crops == "center" else (0, 0, width, height)
        part = resize_compiled(image, (width, height), seen, preprocessing.interpolation)
        if part is not None:
            return part[None] if crops == "center" else _cut(part, left, top, size, crops)
        image = _as_pil(image)
        if crops == "center" and width > size and goes_across_first(image.size, (width, height)):
            # What will be cut off on the sides need not be resized along the height as well.
            image = image.resize((width, image.height), resample)
            image = image.crop((left, 0, left + size, image.height))
            width, left = size, 0
        pixels = np.asarray(image.resize((width, height), resample))
    else:
        pixels = _resize_in_torch(image, width, height, preprocessing.interpolation)
    return _cut(pixels, left, top, size, crops)


def _resize_part(
    image: Image.Image,
    resized: tuple[int, int],
    left: int,
    top: int,
    size: int,
    resample: Image.Resampling,
) -> Image.Image:
    """The square that will be cut out, resized in the order in which Pillow resizes the whole.

    Between the two passes, numbers are rounded and cut off at black and white.
    """
    across, down = image.width / resized[0], image.height / resized[1]

    def go_across(image: Image.Image) -> Image.Image:
        box = (left * across, 0, (left + size) * across, image.height)
        return image.resize((size, image.height), resample, box=box)

    def go_down(image: Image.Image) -> Image.Image:
        box = (0, top * down, image.width, (top + size) * down)
        return image.resize((image.width, size), resample, box=box)

    if goes_across_first(image.size, resized):
        return go_down(go_across(image))
    return go_across(go_down(image))


def _cut(
    pixels: npt.NDArray[np.uint8], left: int, top: int, size: int, crops: Crops
) -> npt.NDArray[np.uint8]:
    """(H, W, 3) to (n_crops, size, size, 3)."""
    if crops == "center":
        return pixels[None, top : top + size, left : left + size]
    right, bottom = pixels.shape[1] - size, pixels.shape[0] - size
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (top, left)]
    views = (pixels, pixels[:, ::-1])  # (H, W, C), mirrored along W
    return np.stack([v[y : y + size, x : x + size] for v in views for y, x in corners])


def prepare_on(
    device: torch.device, image: Picture | torch.Tensor, preprocessing: Preprocessing
) -> torch.Tensor | npt.NDArray[np.uint8]:
    """The centre of a picture, resized by the device where that gives the same as `prepare`.

    Parameters
    ----------
    device : torch.device
        Where the pixels are wanted.
    image : PIL.Image.Image of mode RGB, ndarray or Tensor of shape (height, width, 3), dtype uint8
        The decoded picture; a tensor is on the device.
    preprocessing : Preprocessing
        Sizes and interpolation.

    Returns
    -------
    pixels : Tensor or ndarray of shape (1, size, size, 3), dtype uint8
        A tensor is on the device, which may still be at work; what was resized here, or not at all,
        is an array.
    """
    size, interpolation = preprocessing.size, preprocessing.interpolation
    width, height = _resized(image, preprocessing)
    left, top = _centre(width, size), _centre(height, size)
    try:
        if size_of(image) != (width, height) and resizes_like_pillow(interpolation, device):
            box = (left, top, left + size, top + size)
            pixels = image if isinstance(image, torch.Tensor) else np.asarray(image)
            part = resize_part(pixels, (width, height), box, interpolation, device)
            if part is not None:
                return part[None]
    except RuntimeError as error:
        if not is_out_of_memory(error):  # without room for this, there may be some for the batch
            raise
    on_host = image.cpu().numpy() if isinstance(image, torch.Tensor) else image
    return prepare(on_host, preprocessing)


def _resize_in_torch(
    image: Picture, width: int, height: int, interpolation: str
) -> npt.NDArray[np.uint8]:
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # (H, W, 3) -> (1, 3, H, W)
    x = torch.nn.functional.interpolate(x, (height, width), mode=interpolation, antialias=True)
    resized: npt.NDArray[np.uint8] = x[0].permute(1, 2, 0).numpy()
    return resized


def _as_pil(image: Picture) -> Image.Image:
    return Image.fromarray(image) if isinstance(image, np.ndarray) else image


def _centre(length: int, size: int) -> int:
    """Where the cut begins."""
    return round((length - size) / 2)


def _resized(image: Picture | torch.Tensor, preprocessing: Preprocessing) -> tuple[int, int]:
    """Width and height after resizing."""
    resize = preprocessing.resize
    width, height = size_of(image)
    if not preprocessing.keep_aspect:
        return resize, resize
    if width <= height:
        return resize, int(resize * height / width)
    return int(resize * width / height), resize
