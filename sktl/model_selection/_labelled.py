"""Ensembles some of whose members have parameters that name the classes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if

__all__ = ["make_stack", "make_vote"]

Members = Sequence[tuple[str, Any]]


def make_vote(members: Members) -> VotingClassifier:
    """An ensemble that averages probabilities, and all of whose members mean the same classes."""
    members = _wrapped(members)
    kind = LabelledVote if _are_told(members) else VotingClassifier
    return kind(members, voting="soft")


def make_stack(members: Members, final_estimator: Any, cv: Any) -> StackingClassifier:
    """An ensemble that learns from its members, all of which mean the same classes."""
    members = _wrapped(members)
    if hasattr(final_estimator, "get_params"):
        ((_, final_estimator),) = _wrapped([("final_estimator", final_estimator)])
    is_told = _are_told([*members, ("final_estimator", final_estimator)])
    kind = LabelledStack if is_told else StackingClassifier
    return kind(members, final_estimator, cv=cv)


class LabelledVote(VotingClassifier):
    """VotingClassifier that tells its members the labels, which it replaces by numbers."""

    def fit(self, X: Any, y: Any, **fit_params: Any) -> Self:
        """Fit all members."""
        _tell(self.estimators, y)
        fitted: Self = super().fit(X, y, **fit_params)
        return fitted


class LabelledStack(StackingClassifier):
    """StackingClassifier that tells its members the labels, which it replaces by numbers."""

    def fit(self, X: Any, y: Any, **fit_params: Any) -> Self:
        """Fit all members and the final estimator."""
        _tell([*self.estimators, ("final_estimator", self.final_estimator)], y)
        fitted: Self = super().fit(X, y, **fit_params)
        return fitted


def _wrapped(members: Members) -> list[tuple[str, Any]]:
    return [
        (name, Labelled(clone(member)) if _names_classes(member) else clone(member))
        for name, member in members
    ]


def _are_told(members: Members) -> bool:
    return any(isinstance(member, Labelled) for _, member in members)


def _tell(members: Members, y: Any) -> None:
    labels = np.unique(y)
    for _, member in members:
        if isinstance(member, Labelled):
            member.labels = labels


def _names_classes(estimator: Any) -> bool:
    """Whether the meaning of a classifier's parameters depends on how its classes are called."""
    room = sys.modules.get("sktl.neural_network")  # without it nothing in there is of it
    params = estimator.get_params(deep=True)
    by_name = {
        "class_weight": lambda value: isinstance(value, Mapping),
        "pos_label": lambda value: value is not None,
        "validation": lambda value: isinstance(value, tuple),
    }
    return any(
        name.rpartition("__")[2] in by_name and by_name[name.rpartition("__")[2]](value)
        for name, value in params.items()
    ) or any(
        room is not None and isinstance(part, room.ImageNetClassifier)
        for part in (estimator, *params.values())
    )


def _has(method: str) -> Callable[[Any], bool]:
    return lambda self: hasattr(getattr(self, "estimator_", self.estimator), method)


class Labelled(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """A classifier that is given the numbers of classes, and tells its estimator their labels."""

    def __init__(self, estimator: Any, labels: Any = None) -> None:
        self.estimator = estimator
        self.labels = labels

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit a clone of the estimator on the labels that the numbers stand for."""
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        self.estimator_ = clone(self.estimator).fit(X, self.labels[np.asarray(y)], **weights)
        known = self.estimator_.classes_[self._known()]
        self.classes_ = np.searchsorted(self.labels, known)
        for attribute in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, attribute):
                setattr(self, attribute, getattr(self.estimator_, attribute))
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
        """Numbers of the classes that the estimator predicts, of those that it was fitted on."""
        if self._known().all():
            return np.searchsorted(self.labels, self.estimator_.predict(X))
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def _known(self) -> npt.NDArray[np.bool_]:
        """Which of the estimator's classes are labels; ImageNetClassifier may have many more."""
        return np.isin(self.estimator_.classes_, self.labels)

    def __sklearn_tags__(self) -> Any:
        return get_tags(self.estimator)
