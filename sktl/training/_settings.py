"""What is trained on, and how, whatever the phase."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sktl.backbones import Preprocessing
from sktl.engine._recipe import Precision
from sktl.images import ImageCollection
from sktl.training._augmentation import Augmentation
from sktl.training._data import Pixels
from sktl.training._stopping import Patience, PrecheltUP
from sktl.training._team import Team

__all__ = ["Labelled", "Settings"]


@dataclass(frozen=True)
class Labelled:
    """Pictures with labels.

    Attributes
    ----------
    images : ImageCollection of length n
    labels : ndarray of shape (n,), int64
        Numbers of the classes.
    weights : ndarray of shape (n,), or None
    positions : ndarray of shape (n,), int, or None
        Which pictures of those that the user gave; None for all.
    n_all : int or None
        How many those are.
    """

    images: ImageCollection
    labels: npt.NDArray[np.int64]
    weights: npt.NDArray[np.floating[Any]] | None = None
    positions: npt.NDArray[np.intp] | None = None
    n_all: int | None = None

    def number(self, i: int) -> int:
        """Position of a picture among those that the user gave."""
        return i if self.positions is None else int(self.positions[i])

    def pixels(self, preprocessing: Preprocessing, n_threads: int, cache_bytes: int) -> Pixels:
        """The pictures as a network sees them."""
        return Pixels(
            self.images,
            preprocessing,
            n_threads,
            cache_bytes,
            number=None if self.positions is None else self.number,
            n_all=self.n_all,
        )


@dataclass(frozen=True)
class Settings:
    """How a network is trained, whatever the phase; as the parameters of `CNNClassifier`."""

    batch_size: int = 32
    augmentation: Augmentation | None = None
    augment_copies: int | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_off_epoch: int | None = None
    label_smoothing: float = 0.0
    l1: float = 0.0
    l2: float = 0.0
    stopping: Patience | PrecheltUP | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "auto"
    n_threads: int = 1
    image_size: int | None = None
    cache_bytes: int = 8_000_000_000
    seed: int = 0
    progress: bool = False
    team: Team = field(default_factory=Team)
