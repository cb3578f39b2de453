"""The pixels a set of weights was trained to see."""

from __future__ import annotations

import dataclasses
import math
import numbers
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sktl.exceptions import ParameterError

__all__ = ["IMAGENET", "Preprocessing"]

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the input of a network: resize, crop, scale, normalise.

    Attributes
    ----------
    size : int, default=224
        Side of the square that the network sees, in pixels.
    resize : int, default=256
        Length that the shorter side is given before the centre `size` x `size` is cut out.
    keep_aspect : bool, default=True
        If False, both sides are given the length `resize`.
    interpolation : str, default="bilinear"
        "nearest", "bilinear", "bicubic", "lanczos", "box" or "hamming", with Pillow's antialiasing.
    mean, std : tuple of 3 floats
        For each of red, green and blue: ``(x / 255 - mean) / std``.

    Raises
    ------
    ParameterError
        For a `size` that the resized picture does not have, an unknown interpolation, or what
        cannot be a mean or a deviation.

    Examples
    --------
    >>> from sktl.backbones import Preprocessing
    >>> Preprocessing().at_size(112)
    Preprocessing(size=112, resize=128, keep_aspect=True, interpolation='bilinear', \
mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    """

    size: int = 224
    resize: int = 256
    keep_aspect: bool = True
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        sizes: Any = (self.size, self.resize)
        are_whole = all(isinstance(n, numbers.Integral) and not isinstance(n, bool) for n in sizes)
        if not (are_whole and 1 <= self.size <= self.resize):
            raise ParameterError(
                "size must be a whole number from 1 to resize, as it is cut out of the resized "
                f"picture; got size={self.size!r}, resize={self.resize!r}. at_size() changes both"
            )
        if self.interpolation not in get_args(Interpolation):
            known = ", ".join(get_args(Interpolation))
            raise ParameterError(
                f"interpolation must be one of {known}; got {self.interpolation!r}"
            )
        for name, low in (("mean", -math.inf), ("std", 0.0)):
            values: Any = getattr(self, name)
            fits = isinstance(values, (tuple, list)) and len(values) == 3
            if not (fits and all(_is_number(value) and low < value for value in values)):
                rule = "finite numbers" if name == "mean" else "finite numbers above 0"
                raise ParameterError(f"{name} must be three {rule}; got {values!r}")
            object.__setattr__(self, name, tuple(map(float, values)))
        for name, size in (("size", self.size), ("resize", self.resize)):
            object.__setattr__(self, name, int(size))  # NumPy's numbers are no JSON

    def at_size(self, size: int | None) -> Preprocessing:
        """The same for another input size, with the share that the crop keeps unchanged.

        The length that is resized to is rounded down, as timm does.

        Parameters
        ----------
        size : int or None
            Side of the square that the network sees, in pixels; None is its own.

        Returns
        -------
        preprocessing : Preprocessing
        """
        if size is None or size == self.size:
            return self
        resize = max(size, size * self.resize // self.size)
        return dataclasses.replace(self, size=int(size), resize=resize)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)


IMAGENET = Preprocessing()
"""What torchvision's reference training used; assumed for networks that say nothing else."""
