"""The learning rate, found by trying them all in one short run."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import clone

from sktl.exceptions import DivergenceError, ParameterError
from sktl.neural_network._checks import check_parameters
from sktl.neural_network._cnn_classifier import CNNClassifier
from sktl.utils._optional import import_optional
from sktl.utils._parameters import ParameterChecks

__all__ = ["LearningRateDisplay", "find_lr"]

_SPAN = 0.05  # standard deviation of the weights that smooth, as a share of the steps


def find_lr(
    estimator: CNNClassifier,
    X: Any,
    y: Any,
    *,
    phase: str | None = None,
    lr_min: float = 1e-6,
    lr_max: float = 1.0,
    n_steps: int = 100,
) -> LearningRateDisplay:
    """Train with a learning rate that grows from batch to batch, and watch the loss.

    Parameters
    ----------
    estimator : CNNClassifier
        Cloned, not changed.
    X : array-like of n_images pictures
        Anything that :func:`sktl.images.as_images` takes.
    y : array-like of shape (n_images,)
        Labels.
    phase : str, default=None
        Name of the phase whose rate is looked for; the last by default. The phases before it are
        trained first.
    lr_min : float, default=1e-6
        The first rate.
    lr_max : float, default=1.0
        The last rate; between them they grow by the same factor.
    n_steps : int, default=100
        Number of batches, at most: it ends early when the loss explodes.

    Returns
    -------
    display : LearningRateDisplay
        Its `suggestion` is the rate at which the smoothed loss falls fastest; NaN if it only rises.

    Raises
    ------
    DivergenceError
        If the loss is not a number from the first batch on.

    References
    ----------
    L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017,
    arXiv:1506.01186, section 3.3.

    Examples
    --------
    >>> import numpy as np
    >>> from sktl import CNNClassifier
    >>> from sktl.neural_network import find_lr
    >>> dark, light = np.random.default_rng(0).integers(0, 128, (2, 20, 32, 32, 3), dtype=np.uint8)
    >>> X, y = np.concatenate([dark, light + 128]), ["dark"] * 20 + ["light"] * 20
    >>> model = CNNClassifier("lenet", weights=None, random_state=0)
    >>> found = find_lr(model, X, y, n_steps=30)
    >>> bool(1e-6 < found.suggestion < 1)
    True
    """
    checks = ParameterChecks("find_lr")
    checks.that("estimator", estimator, isinstance(estimator, CNNClassifier), "a CNNClassifier")
    checks.integer("n_steps", n_steps, minimum=3)
    checks.number("lr_min", lr_min, above=0)
    checks.number("lr_max", lr_max, above=0)
    checks.done()
    check_parameters(estimator, estimator._phases())
    phases = dict(estimator._phases())
    name = list(phases)[-1] if phase is None else phase
    if name not in phases:
        raise ParameterError(f"phase must be one of {list(phases)}; got {phase!r}")
    if lr_min >= lr_max:
        raise ParameterError(
            f"lr_min must be below lr_max; got lr_min={lr_min!r}, lr_max={lr_max!r}"
        )
    before = list(phases.items())[: list(phases).index(name)]
    chosen = clone(phases[name]).set_params(lr=1.0, schedule=None)
    copied = clone(estimator).set_params(
        phases=[*before, (name, chosen)],
        validation=None,
        early_stopping=None,
        refit=False,
        checkpoint_dir=None,
        callbacks=None,
    )
    rates = np.geomspace(lr_min, lr_max, n_steps)
    trainer, _ = copied._prepare(X, y)
    trainer.run(before)
    losses = trainer.sweep(chosen, rates)
    if len(losses) < 2:
        raise DivergenceError(f"the loss is not a number at a learning rate of {lr_min:g}")
    return LearningRateDisplay(rates[: len(losses)], np.array(losses))


class LearningRateDisplay:
    """Loss by learning rate.

    Parameters
    ----------
    lr : ndarray of shape (n_steps,)
        Learning rate of each batch.
    loss : ndarray of shape (n_steps,)
        Its loss.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> from sktl.neural_network import LearningRateDisplay
    >>> found = LearningRateDisplay(np.array([0.001, 0.01, 0.1]), np.array([2.0, 1.0, 3.0]))
    >>> found.frame.columns.tolist()
    ['lr', 'loss', 'smoothed']
    """

    def __init__(self, lr: npt.NDArray[np.float64], loss: npt.NDArray[np.float64]) -> None:
        self.lr = lr
        self.loss = loss

    @property
    def smoothed(self) -> npt.NDArray[np.float64]:
        """Loss of a line through the steps on both sides, of which the nearest count most."""
        return self._lines[0]

    @property
    def suggestion(self) -> float:
        """Learning rate at which the smoothed loss falls fastest; NaN if it only rises."""
        smoothed, slope = self._lines
        slope = slope[: int(smoothed.argmin()) + 1]
        return float(self.lr[slope.argmin()]) if slope.min() < 0 else float("nan")

    @property
    def _lines(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """At each step, the value and the slope of a line fitted to the loss around it."""
        step = np.arange(len(self.loss))
        away = step - step[:, None]  # (step, other step)
        weights = np.exp(-0.5 * (away / max(1.0, _SPAN * len(step))) ** 2)
        weights /= weights.sum(axis=1, keepdims=True)
        place, loss = (weights * away).sum(axis=1), weights @ self.loss
        spread = (weights * (away - place[:, None]) ** 2).sum(axis=1)
        slope = (weights * (away - place[:, None])) @ self.loss / spread
        return loss - slope * place, slope

    @property
    def frame(self) -> pd.DataFrame:
        """Learning rate, loss and smoothed loss, one row a batch."""
        return pd.DataFrame({"lr": self.lr, "loss": self.loss, "smoothed": self.smoothed})

    def plot(self, ax: Any = None) -> Self:
        """Draw the loss over the learning rate.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        self : LearningRateDisplay
        """
        plt = import_optional("matplotlib.pyplot", extra="plot", caller="LearningRateDisplay.plot")
        if ax is None:
            _, ax = plt.subplots()
        ax.plot(self.lr, self.loss, alpha=0.3, label="loss")
        ax.plot(self.lr, self.smoothed, color="C0", label="smoothed")
        if np.isfinite(self.suggestion):
            label = f"suggestion {self.suggestion:.2g}"
            ax.axvline(self.suggestion, color="C1", ls="--", label=label)
        ax.set(xscale="log", xlabel="Learning rate", ylabel="Training loss")
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self
