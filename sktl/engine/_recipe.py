"""What is to be computed of each picture."""

from __future__ import annotations

import operator
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

    def __post_init__(self) -> None:
        # NumPy's numbers, which searches pass, are no JSON.
        layers = (x if isinstance(x, str) else operator.index(x) for x in self.layers)
        object.__setattr__(self, "layers", tuple(layers))
        if self.image_size is not None:
            object.__setattr__(self, "image_size", operator.index(self.image_size))
