"""What candidates say of samples that they have not seen, fold by fold."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import cross_validate

from sktl.exceptions import ParameterError
from sktl.utils._sklearn import safe_indexing

__all__ = ["Fold", "FoldResult", "Said", "as_positions", "assemble", "evaluate"]

Fold = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]


def as_positions(part: Any) -> npt.NDArray[np.intp]:
    """A part of a fold, given as positions or as a mask, as positions."""
    part = np.asarray(part)
    return np.flatnonzero(part) if part.dtype == bool else part


class FoldResult(NamedTuple):
    """One candidate on one fold; `response` is of shape (n_test, n_classes)."""

    score: float
    seconds: float
    response: npt.NDArray[np.float64]
    kind: str


class Said(ClassifierMixin, BaseEstimator):
    """A classifier whose input is its probabilities, so that scorers can score what was kept."""

    def __init__(self, classes: Any) -> None:
        self.classes = classes

    def fit(self, X: Any, y: Any) -> Said:
        self.classes_ = self.classes
        return self

    def predict_proba(self, X: Any) -> Any:
        return X

    def predict(self, X: Any) -> Any:
        return self.classes_[X.argmax(axis=1)]


def evaluate(
    where: str,
    estimator: Any,
    X: Any,
    y: Any,
    fold: Fold,
    scoring: Any,
    classes: npt.NDArray[Any],
) -> FoldResult:
    """Fit on the training part of a fold; score and respond on its test part.

    Errors say where they are: which candidate, which fold.
    """
    try:
        result = cross_validate(
            estimator, X, y, cv=[fold], scoring=scoring, return_estimator=True, error_score="raise"
        )
    except Exception as error:
        error.add_note(f"rank_models: {where}")
        raise
    if "test_score" not in result:
        raise ParameterError(
            f"rank_models: scoring must give one number; {scoring!r} gave several, by name"
        )
    score = float(result["test_score"][0])
    if math.isnan(score):
        raise ParameterError(
            f"rank_models: {where}: scoring={scoring!r} gave NaN on a test part with the classes "
            f"{np.unique(y[fold[1]]).tolist()}, so that there is no mean over the folds. Pass "
            "folds whose test parts have all classes, such as those of StratifiedGroupKFold, or "
            "another scorer"
        )
    fitted = result["estimator"][0]
    kind = "predict_proba" if hasattr(fitted, "predict_proba") else "decision_function"
    response = np.asarray(getattr(fitted, kind)(safe_indexing(X, fold[1])), dtype=np.float64)
    if response.ndim == 1:
        response = np.column_stack([-response, response])
    if response.shape[1] != len(fitted.classes_):
        raise ParameterError(
            f"{type(fitted).__name__} gives {response.shape[1]} columns for "
            f"{len(fitted.classes_)} classes; of SVC, decision_function_shape must be 'ovr'"
        )
    # A class that the training part lacks is the least likely.
    least = np.zeros(len(response)) if kind == "predict_proba" else response.min(axis=1)
    aligned = np.repeat(least[:, None], len(classes), axis=1)
    # Of an ImageNetClassifier's classes most may be of no interest.
    known = np.isin(fitted.classes_, classes)
    aligned[:, np.searchsorted(classes, fitted.classes_[known])] = response[:, known]
    return FoldResult(score, float(result["fit_time"][0]), aligned, kind)


def assemble(
    responses: list[npt.NDArray[np.float64]], splits: list[Fold], y: npt.NDArray[Any]
) -> pd.DataFrame:
    """One row a sample, from the test parts."""
    classes = np.unique(y)
    total, count = np.zeros((len(y), len(classes))), np.zeros((len(y), 1))
    for response, (_, test) in zip(responses, splits, strict=True):
        total[test] += response
        count[test] += 1
    return pd.DataFrame(
        np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0), columns=classes
    )
