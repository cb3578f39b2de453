"""Feature maps to feature vectors."""

from __future__ import annotations

import math
from typing import Literal

import torch

__all__ = ["POOLINGS", "Pooling", "pool", "pooled_shape"]

Pooling = Literal["avg", "max", "avgmax", "gem", "flatten", "none"]
POOLINGS: tuple[Pooling, ...] = ("avg", "max", "avgmax", "gem", "flatten", "none")


def pool(
    maps: torch.Tensor, pooling: Pooling, *, p: float = 3.0, eps: float = 1e-6
) -> torch.Tensor:
    """Reduce each feature map to one number, or keep them all.

    Parameters
    ----------
    maps : Tensor of shape (N, C, H, W) or (N, D)
        Feature maps. Vectors have nothing to be reduced and are returned as they are.
    pooling : {"avg", "max", "avgmax", "gem", "flatten", "none"}
        Mean or maximum over the positions; the mean of these two; the generalised mean
        ``mean(max(x, eps) ** p) ** (1 / p)``; all values in the order C, H, W; or no change.
    p : float, default=3.0
        Exponent of "gem".
    eps : float, default=1e-6
        Smallest value that enters "gem".

    Returns
    -------
    pooled : Tensor of shape (N, C), (N, C * H * W) or, with "none", (N, C, H, W)

    References
    ----------
    F. Radenovic, G. Tolias, O. Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation",
    IEEE TPAMI 41(7), 2019, equation 1 ("gem").

    Examples
    --------
    >>> import torch
    >>> from sktl.nn import pool
    >>> maps = torch.tensor([[[[1.0, 3.0]], [[0.0, 8.0]]]])  # (N, C, H, W) = (1, 2, 1, 2)
    >>> pool(maps, "avg"), pool(maps, "avgmax")
    (tensor([[2., 4.]]), tensor([[2.5000, 6.0000]]))
    """
    if maps.ndim == 2 or pooling == "none":
        return maps
    if pooling == "flatten":
        return maps.flatten(1)  # (N, C, H, W) -> (N, C * H * W)
    if pooling == "avg":
        return maps.mean((2, 3))
    if pooling == "max":
        return maps.amax((2, 3))
    if pooling == "avgmax":
        return (maps.mean((2, 3)) + maps.amax((2, 3))) / 2
    if pooling == "gem":
        return maps.clamp(min=eps).pow(p).mean((2, 3)).pow(1 / p)
    raise ValueError(f"pooling must be one of {POOLINGS}; got {pooling!r}")


def pooled_shape(shape: tuple[int, ...], pooling: Pooling) -> tuple[int, ...]:
    """Shape that `pool` leaves of the maps of one picture.

    Parameters
    ----------
    shape : tuple of ints
        (C, H, W) or (D,).
    pooling : {"avg", "max", "avgmax", "gem", "flatten", "none"}
        As in :func:`pool`.

    Returns
    -------
    shape : tuple of ints

    Examples
    --------
    >>> from sktl.nn import pooled_shape
    >>> pooled_shape((512, 7, 7), "avg"), pooled_shape((512, 7, 7), "flatten")
    ((512,), (25088,))
    """
    if len(shape) == 1 or pooling == "none":
        return shape
    return (math.prod(shape),) if pooling == "flatten" else shape[:1]
