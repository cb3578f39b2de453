"""When to stop a phase of training before its last epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from sktl.utils._parameters import ParameterChecks

__all__ = ["Patience", "PrecheltUP"]


class Patience(BaseEstimator):
    """Stop when the validation loss has not fallen for some epochs.

    Parameters
    ----------
    epochs : int, default=5
        How many.
    min_delta : float, default=0.0
        By how much the loss must fall to count.

    Examples
    --------
    >>> from sktl.training import Patience
    >>> [Patience(2).stops(losses) for losses in ([3, 2], [3, 2, 2], [3, 2, 2, 2])]
    [False, False, True]
    """

    def __init__(self, epochs: int = 5, *, min_delta: float = 0.0) -> None:
        self.epochs = epochs
        self.min_delta = min_delta

    def check(self, checks: ParameterChecks) -> None:
        """Note what is wrong with the parameters."""
        checks.integer("early_stopping__epochs", self.epochs, minimum=1)
        checks.number("early_stopping__min_delta", self.min_delta)

    def stops(self, losses: list[float]) -> bool:
        """Whether to stop.

        Parameters
        ----------
        losses : list of float
            Validation loss of each epoch of the phase so far.

        Returns
        -------
        stops : bool
        """
        best, since = np.inf, 0
        for loss in losses:
            if loss < best - self.min_delta:
                best, since = loss, 0
            else:
                since += 1
        return since >= self.epochs


class PrecheltUP(BaseEstimator):
    """Stop when the validation loss has gone up in successive strips of epochs.

    The loss at the end of each strip of k epochs is compared with that at the end of the strip
    before. Training stops after s strips in a row that went up, wherever the loss stands: the
    criterion UP_s of Prechelt.

    Parameters
    ----------
    strip : int, default=5
        Epochs in a strip, k.
    successive : int, default=2
        Strips in a row, s.

    References
    ----------
    L. Prechelt, "Early Stopping - But When?", in: Neural Networks: Tricks of the Trade, LNCS 1524,
    1998, section 2.1.

    Examples
    --------
    >>> from sktl.training import PrecheltUP
    >>> PrecheltUP(strip=2, successive=1).stops([3.0, 2.0, 2.5, 2.1])
    True
    """

    def __init__(self, strip: int = 5, successive: int = 2) -> None:
        self.strip = strip
        self.successive = successive

    def check(self, checks: ParameterChecks) -> None:
        """Note what is wrong with the parameters."""
        checks.integer("early_stopping__strip", self.strip, minimum=1)
        checks.integer("early_stopping__successive", self.successive, minimum=1)

    def stops(self, losses: list[float]) -> bool:
        """Whether to stop.

        Parameters
        ----------
        losses : list of float
            Validation loss of each epoch of the phase so far.

        Returns
        -------
        stops : bool
        """
        ends = losses[self.strip - 1 :: self.strip]
        if len(losses) % self.strip or len(ends) <= self.successive:
            return False
        rises = np.diff(ends[-self.successive - 1 :]) > 0
        return bool(rises.all())


def as_stopping(early_stopping: Any) -> Patience | PrecheltUP | None:
    """The criterion that the parameter of an estimator means."""
    if early_stopping is None or hasattr(early_stopping, "stops"):
        return early_stopping  # type: ignore[no-any-return]
    return Patience(early_stopping)
