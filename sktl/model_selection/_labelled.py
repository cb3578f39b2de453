"""Members of ensembles whose parameters name the classes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if

from sktl.exceptions import ParameterError

__all__ = ["Labelled", "as_member"]


def as_member(estimator: Any, labels: npt.NDArray[Any]) -> Any:
    """Clone of a classifier that means the same classes within an ensemble as on its own.

    VotingClassifier and StackingClassifier replace labels by numbers before they fit their members.
    """
    member = clone(estimator)
    if np.array_equal(labels, np.arange(len(labels))) or not _names_classes(member):
        return member
    return Labelled(member, labels)


def _names_classes(estimator: Any) -> bool:
    """Whether the meaning of a classifier's parameters depends on how its classes are called."""
    room = sys.modules.get("sktl.neural_network")  # without it nothing in there is of it
    params = estimator.get_params(deep=True)
    return any(
        isinstance(value, Mapping) and name.rpartition("__")[2] == "class_weight"
        for name, value in params.items()
    ) or any(
        room is not None and isinstance(part, room.ImageNetClassifier)
        for part in (estimator, *params.values())
    )


def _has(method: str) -> Any:
    return lambda self: hasattr(getattr(self, "estimator_", self.estimator), method)


class Labelled(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """A classifier that is given the numbers of classes, and tells its estimator their labels."""

    def __init__(self, estimator: Any, labels: Any) -> None:
        self.estimator = estimator
        self.labels = labels

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit a clone of the estimator on the labels that the numbers stand for."""
        numbers = np.asarray(y)
        if numbers.max(initial=0) >= len(self.labels):
            raise ParameterError(
                f"y has {numbers.max() + 1} classes, while the ranking that made this ensemble was "
                f"of {len(self.labels)}: rank the models on all of them"
            )
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        self.estimator_ = clone(self.estimator).fit(X, self.labels[numbers], **weights)
        known = self.estimator_.classes_[self._known()]
        self.classes_ = np.searchsorted(self.labels, known)
        return self

    @available_if(_has("predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Any:
        """Probabilities, as of the estimator."""
        return self.estimator_.predict_proba(X)[:, self._known()]

    @available_if(_has("decision_function"))  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> Any:
        """Decision values, as of the estimator."""
        values = self.estimator_.decision_function(X)
        return values if values.ndim == 1 else values[:, self._known()]

    def predict(self, X: Any) -> Any:
        """Number of the likeliest class."""
        said = (self.predict_proba if hasattr(self, "predict_proba") else self.decision_function)(X)
        return self.classes_[said.argmax(axis=1) if said.ndim == 2 else (said > 0).astype(int)]

    def _known(self) -> npt.NDArray[np.bool_]:
        """Which of the estimator's classes are labels; ImageNetClassifier may have many more."""
        return np.isin(self.estimator_.classes_, self.labels)

    def __sklearn_tags__(self) -> Any:
        return get_tags(self.estimator)
