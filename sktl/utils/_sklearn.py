"""The one place that touches scikit-learn's private or version-dependent API."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics._scorer import _BaseScorer
from sklearn.model_selection._search import BaseSearchCV
from sklearn.utils import _safe_indexing as safe_indexing
from sklearn.utils.validation import (
    _check_feature_names,
    _check_n_features,
    validate_data,
)
from sklearn.utils.validation import _check_method_params as check_method_params
from sklearn.utils.validation import _check_sample_weight as check_sample_weight
from sklearn.utils.validation import _num_samples as num_samples

from sktl.exceptions import ParameterError

__all__ = [
    "BaseSearchCV",
    "CachingScorer",
    "as_before_if_refused",
    "check_class_weight",
    "check_method_params",
    "check_sample_weight",
    "is_sparse",
    "num_samples",
    "record_columns",
    "rows_of_numbers",
    "safe_indexing",
    "scores_pairs",
    "validate_rows",
]


@contextlib.contextmanager
def as_before_if_refused(estimator: Any) -> Iterator[None]:
    """Give an estimator back what it had, such as an earlier fit, if checks of a new one fail."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def validate_rows(estimator: Any, X: Any, *, reset: bool) -> npt.NDArray[Any]:
    """Check flattened rows as scikit-learn does, and record their number of columns and names."""
    rows: npt.NDArray[Any] = validate_data(estimator, X, reset=reset, dtype="numeric")
    return rows


def record_columns(estimator: Any, X: Any, *, reset: bool) -> None:
    """Record, or compare with those seen in fit, the column names of a DataFrame of pictures."""
    if hasattr(X, "columns") and hasattr(X, "iloc"):
        _check_feature_names(estimator, X, reset=reset)
        _check_n_features(estimator, X, reset=reset)
    elif reset:
        for name in ("feature_names_in_", "n_features_in_"):
            if hasattr(estimator, name):
                delattr(estimator, name)


def is_sparse(X: Any) -> bool:
    """Whether X is a SciPy sparse matrix or array."""
    return hasattr(X, "toarray") and hasattr(X, "nnz")


def rows_of_numbers(X: Any) -> bool:
    """Whether X is meant as a table of numbers, right or wrong, rather than as pictures."""
    if is_sparse(X):
        return True
    if hasattr(X, "columns") and hasattr(X, "iloc"):
        return len(X.columns) > 1
    if isinstance(X, (list, tuple)):
        return _nested_numbers(X)
    if not isinstance(X, np.ndarray) and hasattr(X, "__array__") and not hasattr(X, "iloc"):
        X = np.asarray(X)
    if not isinstance(X, np.ndarray) or X.ndim > 2:
        return False
    return X.dtype.kind in "biufc" or (X.ndim == 2 and X.shape[1] > 1)


def _nested_numbers(X: Iterable[Any]) -> bool:
    for first in X:
        if isinstance(first, (list, tuple)):
            return len(first) > 0 and isinstance(first[0], (int, float, complex, np.number))
        return isinstance(first, (int, float, complex, np.number))
    return False


class CachingScorer(_BaseScorer):
    """A scorer that also sees the estimator's classes.

    By deriving from scikit-learn's own base it takes part in metadata routing, and several of
    them in one search call the estimator once, not once each.
    """

    def __init__(self, score_func: Callable[..., float], kwargs: dict[str, Any]) -> None:
        super().__init__(score_func, 1, kwargs, ("predict_proba", "decision_function"))

    def _score(
        self, method_caller: Callable[..., Any], estimator: Any, X: Any, y_true: Any, **kwargs: Any
    ) -> float:
        self._warn_overlap("Passed twice, to the scorer's maker and as metadata.", kwargs)
        method = next((m for m in self._response_method if hasattr(estimator, m)), None)
        if method is None:
            raise AttributeError(
                f"{type(estimator).__name__} has neither predict_proba nor decision_function, one "
                "of which a ranking of the classes needs"
            )
        classes = estimator.classes_
        if method == "decision_function" and scores_pairs(estimator):
            raise ParameterError(
                'SVC with decision_function_shape="ovo" scores pairs of classes, which does not '
                'rank the classes; use "ovr"'
            )
        if len(classes) == 1:  # scikit-learn hands on no probabilities of a single class
            scores = np.ones((len(y_true), 1))
        else:
            # Of two classes it hands on one column only, and keeps it under the method's name for
            # the other scorers, even if it is of the class that one of them calls positive. Under
            # a name of our own it is that of the second class.
            name = (method,) if len(classes) == 2 else method
            scores = np.asarray(method_caller(estimator, name, X))
        if scores.ndim == 1:
            first = 1 - scores if method == "predict_proba" else -scores
            scores = np.column_stack([first, scores])
        return float(self._score_func(y_true, scores, classes=classes, **self._kwargs, **kwargs))


def check_class_weight(class_weight: Mapping[Any, Any]) -> None:
    """Raise an error that names the first weight that is none."""
    for name, weight in class_weight.items():
        is_number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
        if not (is_number and 0 <= float(weight) < np.inf):
            raise ParameterError(
                f"class_weight must give finite numbers of at least 0; got {weight!r} for {name!r}"
            )


def scores_pairs(estimator: Any) -> bool:
    """Whether the decision values of a fitted classifier are those of pairs of classes."""
    shape = getattr(innermost(estimator), "decision_function_shape", None)
    return shape == "ovo" and len(estimator.classes_) > 2


def innermost(estimator: Any) -> Any:
    """The fitted estimator inside of searches and wrappers, and at the end of pipelines."""
    for name in ("best_estimator_", "estimator_"):
        if hasattr(estimator, name):
            return innermost(getattr(estimator, name))
    if hasattr(estimator, "steps"):
        return innermost(estimator.steps[-1][1])
    return estimator
