"""Curves: training over its phases, and accuracy by the number of guesses."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from sktl.datasets._captions import shorten
from sktl.exceptions import ParameterError
from sktl.inspection._error_table import check_probabilities, predict_probabilities, ranks_of
from sktl.inspection._grid import make_axes, single_axes
from sktl.inspection._pictures import check_count

__all__ = ["TopKCurveDisplay", "TrainingCurvesDisplay"]


class TrainingCurvesDisplay:
    """Loss and accuracy of training and validation, epoch by epoch and phase by phase.

    Parameters
    ----------
    history : DataFrame
        `history_` of a :class:`sktl.CNNClassifier`: `epoch`, `phase`, and `train_loss` and
        `train_top1`; of validation too, where there was one.
    best_epoch : int, default=None
        Epoch to be marked.

    Attributes
    ----------
    axes_ : ndarray of 2 matplotlib Axes
        Loss and accuracy.
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import pandas as pd
    >>> from sktl.inspection import TrainingCurvesDisplay
    >>> history = pd.DataFrame({
    ...     "epoch": [1, 2, 3], "phase": ["warm_up", "warm_up", "fine_tune"],
    ...     "train_loss": [2.0, 1.0, 0.5], "train_top1": [0.3, 0.6, 0.9],
    ... })
    >>> [ax.get_ylabel() for ax in TrainingCurvesDisplay(history).plot().axes_]
    ['Loss', 'Accuracy']
    """

    def __init__(self, history: pd.DataFrame, best_epoch: int | None = None) -> None:
        self.history = history
        self.best_epoch = best_epoch

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> Self:
        """Draw the history of a fitted classifier.

        Parameters
        ----------
        estimator : CNNClassifier
            Fitted.
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.

        Returns
        -------
        display : TrainingCurvesDisplay
        """
        history = getattr(estimator, "history_", None)
        if not isinstance(history, pd.DataFrame) or "train_top1" not in history:
            raise ParameterError(
                "estimator must be a fitted CNNClassifier, whose history_ has loss and accuracy; "
                f"got {type(estimator).__name__}"
            )
        has_valid = "valid_top1" in history and history["valid_top1"].notna().any()
        return cls(history, estimator.best_epoch_ if has_valid else None).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the two curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.

        Returns
        -------
        self : TrainingCurvesDisplay
        """
        self.figure_, axes = make_axes(1, 2, (4.8, 3.8), ax, "TrainingCurvesDisplay.plot")
        self.axes_ = axes[0]
        epoch = self.history["epoch"]
        for axis, what, label in zip(
            self.axes_, ("loss", "top1"), ("Loss", "Accuracy"), strict=True
        ):
            for part, name, colour in (("train", "training", "C0"), ("valid", "validation", "C1")):
                values = self.history.get(f"{part}_{what}")
                if values is not None and values.notna().any():
                    dot = "o" if len(epoch) <= 60 else ""
                    axis.plot(epoch, values, color=colour, marker=dot, ms=3, label=name)
            self._mark_phases(axis)
            if self.best_epoch is not None:
                label_best = f"best epoch ({self.best_epoch})"
                axis.axvline(self.best_epoch, color="0.4", ls=":", lw=1.2, label=label_best)
            axis.set(xlabel="Epoch", ylabel=label)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(alpha=0.25)
        self.axes_[0].legend(fontsize=9)
        return self

    def _mark_phases(self, axis: Any) -> None:
        """Every other phase on gray, their names above."""
        if "phase" not in self.history:
            return
        phase, epoch = self.history["phase"], self.history["epoch"]
        run = (phase != phase.shift()).cumsum()
        for number, epochs in epoch.groupby(run):
            first, last = epochs.min() - 0.5, epochs.max() + 0.5
            if number % 2 == 0:
                axis.axvspan(first, last, color="0.93", zorder=0, lw=0)
            axis.text(
                (first + last) / 2,
                1.02,
                shorten(phase[epochs.index[0]], 16),
                transform=axis.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize=9,
                rotation=30 if run.max() > 4 else 0,
            )
        axis.set_xlim(epoch.min() - 0.5, epoch.max() + 0.5)


class TopKCurveDisplay:
    """Top-k accuracy by k: how often the truth is among the first k guesses.

    Parameters
    ----------
    k : ndarray of shape (n_k,)
        Numbers of guesses.
    accuracy : ndarray of shape (n_k,)
        Top-k accuracy of each, between 0 and 1.
    name : str, default=None
        For the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sktl.inspection import TopKCurveDisplay
    >>> curve = TopKCurveDisplay.from_predictions(
    ...     ["b", "c"], [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], classes=["a", "b", "c"]
    ... )
    >>> curve.accuracy
    array([0.5, 1. , 1. ])
    """

    def __init__(
        self,
        k: npt.NDArray[np.int64],
        accuracy: npt.NDArray[np.float64],
        name: str | None = None,
    ) -> None:
        self.k = k
        self.accuracy = accuracy
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        cv: Any = None,
        max_k: int = 10,
        name: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Predict pictures and draw the curve.

        Parameters
        ----------
        estimator : classifier
            As of :func:`error_table`.
        X : array-like of n pictures
            What the estimator takes.
        y : array-like of shape (n,)
            True labels.
        cv : int, splitter or iterable, default=None
            As of :func:`error_table`.
        max_k : int, default=10
            Largest k; the number of classes, if that is smaller.
        name : str, default=None
            For the legend.
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        display : TopKCurveDisplay
        """
        classes, probabilities = predict_probabilities(estimator, X, y, cv)
        return cls.from_predictions(
            y, probabilities, classes=classes, max_k=max_k, name=name, ax=ax
        )

    @classmethod
    def from_predictions(
        cls,
        y: Any,
        y_proba: npt.ArrayLike,
        *,
        classes: npt.ArrayLike | None = None,
        max_k: int = 10,
        name: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the curve, given the probabilities.

        Parameters
        ----------
        y : array-like of shape (n,)
            True labels.
        y_proba : array-like of shape (n, n_classes)
            Probabilities.
        classes : array-like of shape (n_classes,), default=None
            Label of each column of `y_proba`; by default the sorted labels of `y`.
        max_k : int, default=10
            Largest k; the number of classes, if that is smaller.
        name : str, default=None
            For the legend.
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        display : TopKCurveDisplay
        """
        max_k = check_count("max_k", max_k)
        truth, probabilities, known = check_probabilities(y, y_proba, classes)
        k = np.arange(1, min(max_k, len(known)) + 1)
        ranks = ranks_of(truth, probabilities, known)
        return cls(k, (ranks[:, None] <= k).mean(axis=0), name).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw accuracy by k.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw, such as beside the curve of another model; a new figure by default.

        Returns
        -------
        self : TopKCurveDisplay
        """
        ax = single_axes(ax, "TopKCurveDisplay.plot", (4.8, 3.6))
        ax.plot(self.k, self.accuracy, marker="o", ms=4, label=self.name)
        ax.set(xlabel="Number of guesses k", ylabel="Top-k accuracy")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.25)
        if self.name is not None:
            ax.legend(loc="lower right")
        self.ax_, self.figure_ = ax, ax.figure
        return self
