"""What is to be computed of each picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sktl.engine._prepare import Crops
from sktl.nn.pooling import Pooling

__all__ = ["PRECISIONS", "Precision", "Recipe"]

Precision = Literal["auto", "exact", "bf16"]
PRECISIONS = ("auto", "exact", "bf16")


@dataclass(frozen=True)
class Recipe:
    """Everything beside the network and the picture that decides the numbers.

    Attributes
    ----------
    layers : tuple of str or int
        Names or stage indices.
    pooling : str
        As in :func:`sktl.nn.pool`.
    image_size : int or None
        Side of the square that the network sees, in pixels; None for that of the weights.
    crops : {"center", "ten"}
        Cuts of each picture, whose features are averaged.
    precision : {"auto", "exact", "bf16"}
        As in :class:`sktl.CNNFeatures`.
    """

    layers: tuple[str | int, ...] = ("bottleneck",)
    pooling: Pooling = "avg"
    image_size: int | None = None
    crops: Crops = "center"
    precision: Precision = "auto"
