"""Top-k accuracy that survives folds with missing classes."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import numpy.typing as npt

from sktl.exceptions import ParameterError
from sktl.utils._parameters import require_labels, require_one_kind
from sktl.utils._sklearn import CachingScorer

__all__ = ["make_top_k_scorer", "top_k_accuracy"]


def top_k_accuracy(
    y_true: npt.ArrayLike,
    y_score: npt.ArrayLike,
    *,
    k: int,
    classes: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None = None,
) -> float:
    """Share of samples whose true class is among the k with the highest scores.

    A true class that is not in `classes`, because the training fold lacked it, counts as missed,
    as it would in use. Of equal scores the earlier class comes first.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels: numbers, strings or bools.
    y_score : array-like of shape (n_samples, n_classes)
        Probabilities or decision values.
    k : int
        How many guesses are allowed.
    classes : array-like of shape (n_classes,)
        Label of each column of `y_score`.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each sample.

    Returns
    -------
    score : float
        Between 0 and 1.

    Raises
    ------
    ParameterError
        If k is not a positive integer, or the shapes do not belong together, or classes are named
        twice, or a label is missing, or a score is NaN, or all labels are strings and no class is,
        or the other way round.

    Examples
    --------
    >>> from sktl.metrics import top_k_accuracy
    >>> y_score = [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]
    >>> top_k_accuracy(["b", "z"], y_score, k=2, classes=["a", "b", "c"])
    0.5
    """
    k = _check_k(k)
    require_labels(y_true, "y_true", each="sample")
    y_true, classes = np.asarray(y_true), np.asarray(classes)
    y_score = np.asarray(y_score, dtype=np.float64)  # unsigned scores have no negative
    if y_true.ndim != 1 or len(y_true) == 0:
        raise ParameterError(f"y_true must have one label a sample; got shape {y_true.shape}")
    if classes.ndim != 1:
        raise ParameterError(f"classes must be a list of labels; got {classes!r}")
    if y_score.shape != (len(y_true), len(classes)):
        raise ParameterError(
            f"y_score must have a row a sample and a column a class, ({len(y_true)}, "
            f"{len(classes)}); got {y_score.shape}"
        )
    if len(set(classes.tolist())) < len(classes):
        raise ParameterError(f"classes must differ; got {classes.tolist()}")
    if np.isnan(y_score).any():
        raise ParameterError("y_score has NaN: the scores of some samples cannot be ranked")
    require_one_kind(y_true=y_true, classes=classes)
    ranked = np.argsort(-y_score, axis=1, kind="stable")[:, :k]
    hit = (classes[ranked] == y_true[:, None]).any(axis=1)
    weights = None if sample_weight is None else _check_weights(sample_weight, len(hit))
    return float(np.average(hit, weights=weights))


def _check_weights(sample_weight: Any, n: int) -> npt.NDArray[np.float64]:
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (n,):
        raise ParameterError(f"sample_weight must have shape ({n},); got {weights.shape}")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ParameterError("sample_weight must be finite and not negative, and not all zero")
    return weights


def make_top_k_scorer(k: int = 5) -> CachingScorer:
    """Make a scorer of top-k accuracy, for `scoring=` of scikit-learn's searches and curves.

    Unlike ``scoring="top_k_accuracy"`` it gives a number also where a fold lacks a class, and for
    two classes. It ranks `predict_proba` where the estimator has it, else `decision_function`
    (of SVC with ``decision_function_shape="ovr"``, its default). Several of them in one search
    share one call of the estimator.

    Parameters
    ----------
    k : int, default=5
        How many guesses are allowed.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y, sample_weight=None)`` gives a float between 0 and 1.

    Raises
    ------
    ParameterError
        If k is not a positive integer.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_validate
    >>> from sktl import make_top_k_scorer
    >>> X, y = load_digits(return_X_y=True)
    >>> scoring = {f"top-{k}": make_top_k_scorer(k) for k in (1, 3)}
    >>> scores = cross_validate(LogisticRegression(max_iter=20, tol=1), X, y, scoring=scoring)
    >>> bool((scores["test_top-3"] >= scores["test_top-1"]).all())
    True
    """
    return CachingScorer(top_k_accuracy, {"k": _check_k(k)})


def _check_k(k: Any) -> int:
    if isinstance(k, bool) or not isinstance(k, numbers.Integral) or k < 1:
        raise ParameterError(f"k must be an integer of at least 1; got {k!r}")
    return int(k)
