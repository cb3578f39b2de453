"""Random changes of training pictures that leave their label as it is."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.base import BaseEstimator

from sktl.utils._parameters import ParameterChecks

__all__ = ["Augmentation", "as_augmentation"]

FillMode = Literal["reflect", "nearest", "constant"]
_PADDING = {"reflect": "reflection", "nearest": "border", "constant": "zeros"}


class Augmentation(BaseEstimator):
    """Random changes of training pictures, in the terms of Keras's ImageDataGenerator.

    Each picture of a batch is changed by draws of its own. Shift, rotation, shear and zoom are one
    affine map, sampled bilinearly, so that the picture is blurred once.

    Parameters
    ----------
    horizontal_flip, vertical_flip : bool, default=False
        Whether half of the pictures are mirrored left-right or top-bottom.
    width_shift, height_shift : float, default=0.0
        Largest shift, as a share of the width or height.
    rotation : float, default=0.0
        Largest rotation, in degrees.
    shear : float, default=0.0
        Largest shear angle, in degrees.
    zoom : float, default=0.0
        Width and height of what is seen are scaled by factors between ``1 - zoom`` and
        ``1 + zoom``, as in Keras: below 1, the picture is enlarged.
    fill_mode : {"reflect", "nearest", "constant"}, default="reflect"
        What is seen beyond the border: the picture mirrored, its border pixels, or black.
    random_crop : bool, default=False
        Whether the network's square is cut out anywhere in the central square of the resized
        picture, not in its centre.
    color_jitter : float, default=0.0
        Brightness, contrast and saturation are scaled by factors between ``1 - color_jitter`` and
        ``1 + color_jitter``.
    random_erasing : float, default=0.0
        Share of the pictures in which a rectangle of 2 to 33 % of the area is made gray.
    trivial : bool, default=False
        Whether one random change of random strength is applied first (TrivialAugment).

    References
    ----------
    Z. Zhong et al., "Random Erasing Data Augmentation", AAAI 2020 (`random_erasing`).
    S. G. Müller, F. Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation",
    ICCV 2021 (`trivial`).

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sktl.training import Augmentation
    >>> pixels = torch.zeros((4, 3, 32, 32))
    >>> Augmentation(horizontal_flip=True, rotation=10)(pixels, np.random.default_rng(0)).shape
    torch.Size([4, 3, 32, 32])
    """

    def __init__(
        self,
        horizontal_flip: bool = False,
        vertical_flip: bool = False,
        width_shift: float = 0.0,
        height_shift: float = 0.0,
        rotation: float = 0.0,
        shear: float = 0.0,
        zoom: float = 0.0,
        fill_mode: FillMode = "reflect",
        random_crop: bool = False,
        color_jitter: float = 0.0,
        random_erasing: float = 0.0,
        trivial: bool = False,
    ) -> None:
        self.horizontal_flip = horizontal_flip
        self.vertical_flip = vertical_flip
        self.width_shift = width_shift
        self.height_shift = height_shift
        self.rotation = rotation
        self.shear = shear
        self.zoom = zoom
        self.fill_mode = fill_mode
        self.random_crop = random_crop
        self.color_jitter = color_jitter
        self.random_erasing = random_erasing
        self.trivial = trivial

    def check(self, checks: ParameterChecks) -> None:
        """Note what is wrong with the parameters."""
        checks.choice("augment__fill_mode", self.fill_mode, tuple(_PADDING))
        for name in ("horizontal_flip", "vertical_flip", "random_crop", "trivial"):
            value = getattr(self, name)
            is_switch = isinstance(value, (bool, np.bool_))
            checks.that(f"augment__{name}", value, is_switch, "True or False")
        for name, most in (
            ("width_shift", 1), ("height_shift", 1), ("rotation", 180), ("shear", 89),
            ("zoom", 0.99), ("color_jitter", 1), ("random_erasing", 1),
        ):  # fmt: skip
            checks.number(f"augment__{name}", getattr(self, name), most=most)

    def __call__(
        self, pixels: torch.Tensor, rng: np.random.Generator, size: int | None = None
    ) -> torch.Tensor:
        """Change a batch of pictures.

        Parameters
        ----------
        pixels : Tensor of shape (N, 3, H, W), float, values 0-255
            The pictures. They are not changed themselves.
        rng : numpy.random.Generator
            Where every draw comes from.
        size : int, default=None
            Side of the square that is cut out, in pixels; that of the pictures by default.

        Returns
        -------
        changed : Tensor of shape (N, 3, size, size), float, values 0-255
        """
        if self.trivial:
            pixels = _trivial(pixels, rng)
        pixels = self._cropped(pixels, rng, size or pixels.shape[-1])
        pixels = _flipped(pixels, rng, 3) if self.horizontal_flip else pixels
        pixels = _flipped(pixels, rng, 2) if self.vertical_flip else pixels
        if any((self.width_shift, self.height_shift, self.rotation, self.shear, self.zoom)):
            maps = torch.from_numpy(self._affine(len(pixels), rng)).to(pixels)
            grid = F.affine_grid(maps, list(pixels.shape), align_corners=False)
            pixels = F.grid_sample(
                pixels,
                grid,
                mode="bilinear",
                padding_mode=_PADDING[self.fill_mode],
                align_corners=False,
            )
        if self.color_jitter:
            pixels = self._jittered(pixels, rng)
        return self._erased(pixels, rng) if self.random_erasing else pixels

    def _affine(self, n: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """(n, 2, 3) maps from places in the result to places in the picture, both in -1 to 1."""

        def draw(most: float, middle: float = 0.0) -> npt.NDArray[np.float64]:
            return rng.uniform(middle - most, middle + most, n)

        angle, shear = np.radians(draw(self.rotation)), np.radians(draw(self.shear))
        across, down = draw(self.zoom, 1.0), draw(self.zoom, 1.0)
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], 1)  # (n, 2, 2)
        slant = np.zeros((n, 2, 2))
        slant[:, 0, 0], slant[:, 0, 1], slant[:, 1, 1] = 1, -np.sin(shear), np.cos(shear)
        scale = np.zeros((n, 2, 2))
        scale[:, 0, 0], scale[:, 1, 1] = across, down
        # The whole width is 2 in these units.
        shift = np.stack([2 * draw(self.width_shift), 2 * draw(self.height_shift)], -1)
        return np.concatenate([turn @ slant @ scale, shift[:, :, None]], axis=2).astype(np.float32)

    def _cropped(self, pixels: torch.Tensor, rng: np.random.Generator, size: int) -> torch.Tensor:
        room = pixels.shape[-1] - size
        if room <= 0:
            return pixels
        if not self.random_crop:
            first = round(room / 2)
            return pixels[:, :, first : first + size, first : first + size]
        places = rng.integers(0, room + 1, (len(pixels), 2))
        return torch.stack(
            [picture[:, y : y + size, x : x + size]
             for picture, (y, x) in zip(pixels, places.tolist(), strict=True)]
        )  # fmt: skip

    def _jittered(self, pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        factors = rng.uniform(1 - self.color_jitter, 1 + self.color_jitter, (3, len(pixels)))
        bright, contrast, saturation = torch.from_numpy(factors).to(pixels)[..., None, None, None]
        pixels = (pixels * bright).clamp(0, 255)
        mean = _gray(pixels).mean((1, 2, 3), keepdim=True)
        pixels = (mean + contrast * (pixels - mean)).clamp(0, 255)
        gray = _gray(pixels)
        jittered: torch.Tensor = (gray + saturation * (pixels - gray)).clamp(0, 255)
        return jittered

    def _erased(self, pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        pixels = pixels.clone()
        height, width = pixels.shape[2:]
        for picture in pixels:
            erases, share = rng.random() < self.random_erasing, rng.uniform(0.02, 0.33)
            aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            h = min(height, round(math.sqrt(share * height * width * aspect)))
            w = min(width, round(math.sqrt(share * height * width / aspect)))
            y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
            if erases:
                picture[:, y : y + h, x : x + w] = 127.5
        return pixels


LIGHT = {
    "horizontal_flip": True, "width_shift": 0.1, "height_shift": 0.1, "rotation": 10,
    "shear": 5, "zoom": 0.1,
}  # fmt: skip


def as_augmentation(augment: Any) -> Augmentation | None:
    """The augmentation that the parameter of an estimator means.

    Parameters
    ----------
    augment : Augmentation, "light", "trivial" or None
        "light" is a flip, shifts of 0.1, rotation of 10 degrees, shear of 5 degrees and zoom of
        0.1, with reflected borders.

    Returns
    -------
    augmentation : Augmentation or None
    """
    if augment == "light":
        return Augmentation(**LIGHT)  # type: ignore[arg-type]
    if augment == "trivial":
        return Augmentation(horizontal_flip=True, trivial=True)
    return augment  # type: ignore[no-any-return]


def _flipped(pixels: torch.Tensor, rng: np.random.Generator, axis: int) -> torch.Tensor:
    chosen = torch.from_numpy(rng.random(len(pixels)) < 0.5).to(pixels.device)
    return torch.where(chosen[:, None, None, None], pixels.flip(axis), pixels)


def _gray(pixels: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) to (N, 1, H, W), with the weights of ITU-R BT.601."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=pixels.device, dtype=pixels.dtype)
    return (pixels * weights[:, None, None]).sum(1, keepdim=True)


def _trivial(pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    from torchvision.transforms import v2

    change = v2.TrivialAugmentWide()
    whole = pixels.round().clamp(0, 255).to(torch.uint8)
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.default_generator.manual_seed(int(rng.integers(2**62)))
        changed = torch.stack([change(picture) for picture in whole])
    return changed.to(pixels.dtype)
