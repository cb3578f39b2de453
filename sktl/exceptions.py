"""Errors and warnings that sktl raises.

Every error is an :class:`SktlError` and also the builtin that callers already catch::

    Exception
    └── SktlError
        ├── ParameterError            (ValueError)   arguments that cannot be right
        ├── ImageFormatError          (ValueError)   X cannot be understood as pictures
        ├── ImageDecodeError          (ValueError)   some pictures cannot be read
        ├── BackboneNotFoundError     (ValueError)   no network of that name
        ├── LayerNotFoundError        (ValueError)   no layer of that name in the network
        ├── WeightsError              (OSError)      weights missing, damaged or of another network
        ├── DatasetError              (OSError)      a data set cannot be had, or is damaged
        ├── SavedModelError           (ValueError)   a model cannot be saved or loaded
        ├── DivergenceError           (ArithmeticError)  the loss is no longer a number
        └── MissingDependencyError    (ImportError)  an optional package is not installed
    Warning
    └── UserWarning
        ├── BadImageWarning                          pictures became NaN, or were left out
        ├── BatchSizeWarning                         too many pictures at once for the memory
        ├── CollapseWarning                          features learnt without labels are all alike
        ├── StoreWarning                             the feature store cannot be used
        └── WorkerWarning                            a worker process was lost
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "BackboneNotFoundError",
    "BadImage",
    "BadImageWarning",
    "BatchSizeWarning",
    "CollapseWarning",
    "DatasetError",
    "DivergenceError",
    "ImageDecodeError",
    "ImageFormatError",
    "LayerNotFoundError",
    "MissingDependencyError",
    "ParameterError",
    "SavedModelError",
    "SktlError",
    "StoreWarning",
    "WeightsError",
    "WorkerWarning",
]

_SHOWN = 20


class SktlError(Exception):
    """Base of every error that sktl raises on purpose."""


class ParameterError(SktlError, ValueError):
    """One or more arguments break their rules; the message lists them all."""


class ImageFormatError(SktlError, ValueError):
    """X as a whole cannot be understood as a collection of pictures."""


class BackboneNotFoundError(SktlError, ValueError):
    """No network of that name is known."""


class LayerNotFoundError(SktlError, ValueError):
    """The network has no such layer."""


class WeightsError(SktlError, OSError):
    """Weights are missing, damaged, or belong to another network."""


class DatasetError(SktlError, OSError):
    """A data set is missing, cannot be downloaded, or is damaged."""


class SavedModelError(SktlError, ValueError):
    """A model cannot be saved, or what was saved cannot be loaded or trusted."""


class DivergenceError(SktlError, ArithmeticError):
    """The loss became NaN or infinite in training."""


class MissingDependencyError(SktlError, ImportError):
    """An optional package is needed for this call and is not installed."""


class BadImageWarning(UserWarning):
    """Some pictures could not be read: rows of NaN, or left out of a comparison."""


class BatchSizeWarning(UserWarning):
    """So many pictures at once do not fit into the device's memory; fewer are forwarded."""


class CollapseWarning(UserWarning):
    """Features learnt without labels tell hardly anything apart."""


class StoreWarning(UserWarning):
    """The feature store cannot be used; features are computed without it."""


class WorkerWarning(UserWarning):
    """A worker process was lost; what it had not finished is computed again."""


@dataclass(frozen=True)
class BadImage:
    """One picture that cannot be read.

    Attributes
    ----------
    index : int
        Position in the X that was passed.
    source : str
        The path, or a short description of a picture in memory.
    reason : str
        What is wrong with it.
    """

    index: int
    source: str
    reason: str


class ImageDecodeError(SktlError, ValueError):
    """Some pictures cannot be read; all of them are named.

    Parameters
    ----------
    failures : iterable of BadImage
        Every bad picture.
    n_images : int
        How many pictures were asked for.
    features : ndarray of shape (n_images, n_features), dtype float32, optional
        What was computed before the error was raised; rows of bad pictures are NaN. None when
        the damage was found before any work started.

    Attributes
    ----------
    failures : list of BadImage
        Every bad picture, in the order of X.
    n_images : int
        How many pictures were asked for.
    features : ndarray or None
        What was computed before the error was raised.

    Examples
    --------
    >>> from sktl.exceptions import BadImage, ImageDecodeError
    >>> print(ImageDecodeError([BadImage(3, "cat.jpg", "empty file")], n_images=10))
    1 of 10 pictures cannot be read:
      [3] cat.jpg: empty file
    Remove or replace them; extractors of features give rows of NaN with on_error="nan".
    """

    def __init__(
        self,
        failures: Iterable[BadImage],
        n_images: int,
        features: np.ndarray | None = None,
    ) -> None:
        self.failures = list(failures)
        self.n_images = n_images
        self.features = features
        lines = [
            f"{len(self.failures)} of {n_images} pictures cannot be read:",
            *describe_bad_images(self.failures),
            'Remove or replace them; extractors of features give rows of NaN with on_error="nan".',
        ]
        if features is not None:
            lines.append("The features of the other pictures are kept in the error's `features`.")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.failures, self.n_images, self.features)


def describe_bad_images(failures: Sequence[BadImage]) -> list[str]:
    """One line a bad picture, the first `_SHOWN` of them; all are in the error's `failures`."""
    lines = [f"  [{bad.index}] {bad.source}: {bad.reason}" for bad in failures[:_SHOWN]]
    if len(failures) > _SHOWN:
        lines.append(f"  ... and {len(failures) - _SHOWN} more (see the `failures` attribute)")
    return lines
