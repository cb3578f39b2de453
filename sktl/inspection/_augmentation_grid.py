"""What training makes of pictures when they are augmented."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sktl.exceptions import ParameterError
from sktl.inspection._grid import make_axes, show
from sktl.inspection._networks import squares
from sktl.inspection._pictures import check_count, pictures_of

__all__ = ["AugmentationDisplay"]


class AugmentationDisplay:
    """Pictures, and some of their augmented copies.

    Parameters
    ----------
    originals : ndarray of shape (n_images, size, size, 3), dtype uint8
        Pictures as the network would see them without augmentation.
    copies : ndarray of shape (n_images, n_copies, size, size, 3), dtype uint8
        The same, augmented.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sktl.inspection import AugmentationDisplay
    >>> from sktl.training import Augmentation
    >>> photographs = load_sample_images().images
    >>> augment = Augmentation(horizontal_flip=True, rotation=15)
    >>> AugmentationDisplay.from_images(photographs, augment, n_copies=3).axes_.shape
    (2, 4)
    """

    def __init__(self, originals: npt.NDArray[np.uint8], copies: npt.NDArray[np.uint8]) -> None:
        self.originals = originals
        self.copies = copies

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        n_images: int = 4,
        n_copies: int = 5,
        random_state: int = 0,
        ax: Any = None,
    ) -> Self:
        """Augment pictures as a classifier would in training, and draw them.

        Parameters
        ----------
        estimator : CNNClassifier
            It need not be fitted.
        X : array-like of pictures
            The first `n_images` are drawn.
        n_images : int, default=4
            How many pictures are drawn.
        n_copies : int, default=5
            How many copies of each.
        random_state : int, default=0
            Seed of the augmentation.
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.

        Returns
        -------
        display : AugmentationDisplay
        """
        from sktl.neural_network._build import preprocessing_of

        if getattr(estimator, "augment", None) is None:
            raise ParameterError("estimator must be a CNNClassifier whose augment is not None")
        images = pictures_of(X, estimator)[: check_count("n_images", n_images)]
        preprocessing = preprocessing_of(estimator)
        return cls._make(images, estimator.augment, preprocessing, n_copies, random_state).plot(ax)

    @classmethod
    def from_images(
        cls,
        X: Any,
        augment: Any = "light",
        *,
        n_images: int = 4,
        n_copies: int = 5,
        image_size: int = 224,
        random_state: int = 0,
        ax: Any = None,
    ) -> Self:
        """Augment pictures and draw them.

        Parameters
        ----------
        X : array-like of pictures
            The first `n_images` are drawn.
        augment : Augmentation, "light" or "trivial", default="light"
            As of :class:`sktl.CNNClassifier`.
        n_images : int, default=4
            How many pictures are drawn.
        n_copies : int, default=5
            How many copies of each.
        image_size : int, default=224
            Side of the square that the network sees, in pixels.
        random_state : int, default=0
            Seed of the augmentation.
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.

        Returns
        -------
        display : AugmentationDisplay
        """
        from sktl.backbones import Preprocessing

        images = pictures_of(X)[: check_count("n_images", n_images)]
        preprocessing = Preprocessing().at_size(check_count("image_size", image_size))
        return cls._make(images, augment, preprocessing, n_copies, random_state).plot(ax)

    @classmethod
    def _make(
        cls, images: Any, augment: Any, preprocessing: Any, n_copies: int, random_state: int
    ) -> Self:
        import dataclasses

        import torch

        from sktl.training import Augmentation
        from sktl.training._augmentation import as_augmentation
        from sktl.utils._parameters import ParameterChecks

        check_count("n_copies", n_copies)
        augmentation = as_augmentation(augment)
        if not isinstance(augmentation, Augmentation):
            raise ParameterError(
                f'augment must be an Augmentation, "light" or "trivial"; got {augment!r}'
            )
        checks = ParameterChecks("AugmentationDisplay")
        augmentation.check(checks)
        checks.done()
        size = preprocessing.size
        before = preprocessing
        if augmentation.random_crop:  # training then holds the whole of the resized square
            before = dataclasses.replace(preprocessing, size=preprocessing.resize)
        pixels = torch.from_numpy(squares(images, before)).permute(0, 3, 1, 2).float()
        rng = np.random.default_rng(random_state)
        copies = [augmentation(pixels, rng, size) for _ in range(n_copies)]
        changed = torch.stack(copies, dim=1).permute(0, 1, 3, 4, 2)  # (n, n_copies, H, W, 3)
        rounded = changed.round().clamp(0, 255).to(torch.uint8).numpy()
        return cls(squares(images, preprocessing), rounded)

    def plot(self, ax: Any = None) -> Self:
        """Draw a row a picture: as it is, then augmented.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.

        Returns
        -------
        self : AugmentationDisplay
        """
        n_images, n_copies = self.copies.shape[:2]
        self.figure_, self.axes_ = make_axes(
            n_images, 1 + n_copies, (1.6, 1.65), ax, "AugmentationDisplay.plot"
        )
        for i, row in enumerate(self.axes_):
            show(row[0], self.originals[i], "" if i else "original")
            for j, cell in enumerate(row[1:]):
                show(cell, self.copies[i, j], "" if i or j else "augmented")
        return self
