"""How often a classifier leaves the classes that its pictures are of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from sktl.exceptions import ParameterError
from sktl.utils._parameters import require_one_kind
from sktl.utils._sklearn import innermost

__all__ = ["make_out_of_subset_scorer", "out_of_subset_rate"]


def out_of_subset_rate(y_pred: npt.ArrayLike, subset: Iterable[Any]) -> float:
    """Share of predictions that are not among the classes in question.

    The percentage of "non-dog" predictions that a network of 1,000 classes makes on dogs.

    Parameters
    ----------
    y_pred : array-like of shape (n_samples,)
        Predicted labels.
    subset : iterable of labels
        Labels of the classes in question.

    Returns
    -------
    rate : float
        Between 0 and 1.

    Raises
    ------
    ParameterError
        If one of them is empty or no list of labels, or all of one are strings and none of the
        other.

    Examples
    --------
    >>> from sktl.metrics import out_of_subset_rate
    >>> out_of_subset_rate(["pug", "mop", "beagle", "pug"], subset=["beagle", "pug"])
    0.25
    """
    # Of a list of strings and numbers NumPy makes strings.
    labels = np.asarray(y_pred, dtype=object if isinstance(y_pred, (list, tuple)) else None)
    if labels.ndim != 1:
        raise ParameterError(f"y_pred must have one label a sample; got shape {labels.shape}")
    predicted, allowed = _as_keys(labels.tolist()), _labels_of(subset)
    if not predicted or not allowed:
        raise ParameterError("y_pred and subset need at least one label each")
    require_one_kind(y_pred=predicted, subset=allowed)
    known = set(allowed)
    return float(np.mean([label not in known for label in predicted]))


def make_out_of_subset_scorer(subset: Iterable[Any] | None = None) -> OutOfSubsetScorer:
    """Make a scorer of the out-of-subset rate, negated as scikit-learn's searches want losses.

    Parameters
    ----------
    subset : iterable of labels, default=None
        Labels of the classes in question; by default those that the estimator marks in its
        `in_subset_`, as :class:`sktl.ImageNetClassifier` does, be it in a pipeline or search, or
        else those in the true labels.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y)`` gives a float between -1 and 0.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sktl.metrics import make_out_of_subset_scorer
    >>> X, y = load_digits(return_X_y=True)
    >>> model = LogisticRegression(max_iter=20, tol=1).fit(X, y)
    >>> make_out_of_subset_scorer()(model, X[y < 5], y[y < 5]) > -0.05
    True
    """
    return OutOfSubsetScorer(None if subset is None else _labels_of(subset))


def _labels_of(subset: Any) -> list[Any]:
    labels = list(subset) if np.iterable(subset) and not isinstance(subset, str) else [[]]
    if any(np.ndim(label) for label in labels):
        raise ParameterError(
            f"subset must be a list of labels, not one string or number; got {subset!r}"
        )
    return _as_keys(labels)


def _as_keys(labels: list[Any]) -> list[Any]:
    """Those of NumPy and torch as values of Python: tensors are no keys."""
    return [label.item() if hasattr(label, "item") else label for label in labels]


class OutOfSubsetScorer:
    """A scorer; see :func:`make_out_of_subset_scorer`."""

    def __init__(self, subset: list[Any] | None) -> None:
        self.subset = subset

    def __repr__(self) -> str:
        return f"make_out_of_subset_scorer({'' if self.subset is None else self.subset})"

    def __call__(self, estimator: Any, X: Any, y: npt.ArrayLike) -> float:
        """Negated rate of an estimator's predictions."""
        subset: Any = self.subset
        inner = innermost(estimator)
        marks = subset is None and hasattr(inner, "in_subset_")
        if marks and np.array_equal(inner.classes_, estimator.classes_):  # by the same names
            subset = inner.classes_[inner.in_subset_]
        return -out_of_subset_rate(
            estimator.predict(X), np.asarray(y if subset is None else subset)
        )
