"""Mixup and CutMix: pictures and labels of a batch, mixed with each other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

__all__ = ["Mixed", "cutmix", "mixup"]


class Mixed(NamedTuple):
    """A batch of mixed pictures.

    Attributes
    ----------
    x : Tensor of shape (N, C, H, W)
        The mixed pictures.
    other : Tensor of shape (N,), int64
        Position in the batch of the picture that was mixed into each.
    share : float
        Share of the first picture, and of its label: the loss is
        ``share * loss(y) + (1 - share) * loss(y[other])``.
    """

    x: torch.Tensor
    other: torch.Tensor
    share: float


def mixup(x: torch.Tensor, alpha: float, rng: np.random.Generator) -> Mixed:
    """Weighted means of pairs of pictures.

    Parameters
    ----------
    x : Tensor of shape (N, C, H, W)
        Pictures.
    alpha : float
        Of the beta distribution that the share is drawn from, once a batch.
    rng : numpy.random.Generator
        Draws the share and the pairs.

    Returns
    -------
    mixed : Mixed

    References
    ----------
    H. Zhang, M. Cisse, Y. N. Dauphin, D. Lopez-Paz, "mixup: Beyond Empirical Risk Minimization",
    ICLR 2018, arXiv:1710.09412.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sktl.nn import mixup
    >>> x = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)  # a black and a white picture
    >>> mixed = mixup(x, 1.0, np.random.default_rng(1))
    >>> bool((mixed.x == mixed.share * x + (1 - mixed.share) * x[mixed.other]).all())
    True
    """
    share = float(rng.beta(alpha, alpha))
    other = torch.from_numpy(rng.permutation(len(x))).to(x.device)
    return Mixed(share * x + (1 - share) * x[other], other, share)


def cutmix(x: torch.Tensor, alpha: float, rng: np.random.Generator) -> Mixed:
    """Pictures into which a rectangle of another picture is pasted.

    Parameters
    ----------
    x : Tensor of shape (N, C, H, W)
        Pictures.
    alpha : float
        Of the beta distribution that the share of the first picture is drawn from, once a batch.
    rng : numpy.random.Generator
        Draws the share, the place and the pairs.

    Returns
    -------
    mixed : Mixed
        Its `share` is the share of pixels, which is larger where the rectangle was cut off at the
        border.

    References
    ----------
    S. Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features", ICCV 2019, arXiv:1905.04899, appendix A.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sktl.nn import cutmix
    >>> x = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    >>> mixed = cutmix(x, 1.0, np.random.default_rng(3))
    >>> round(float(mixed.x[1].mean()), 4) in (round(mixed.share, 4), 1.0)
    True
    """
    share = float(rng.beta(alpha, alpha))
    other = torch.from_numpy(rng.permutation(len(x))).to(x.device)
    height, width = x.shape[2:]
    half = np.sqrt(1 - share) / 2  # of the sides, so that the area is 1 - share
    y, along = rng.integers(height), rng.integers(width)
    top, bottom = np.clip([y - int(height * half), y + int(height * half)], 0, height)
    left, right = np.clip([along - int(width * half), along + int(width * half)], 0, width)
    pasted = x.clone()
    pasted[:, :, top:bottom, left:right] = x[other, :, top:bottom, left:right]
    return Mixed(pasted, other, float(1 - (bottom - top) * (right - left) / (height * width)))
