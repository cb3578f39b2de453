"""Candidates on the same folds, compared in pairs, and put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.base import is_classifier
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.model_selection import check_cv
from sklearn.utils import column_or_1d, indexable

from sktl.exceptions import ParameterError
from sktl.model_selection._model_ranking import ModelRanking
from sktl.model_selection._out_of_fold import as_positions, assemble, evaluate
from sktl.utils._parameters import require_labels
from sktl.utils._progress import ProgressBar

__all__ = ["rank_models"]


def rank_models(
    estimators: Mapping[str, Any] | Sequence[Any],
    X: Any,
    y: Any,
    cv: Any = None,
    *,
    scoring: Any = None,
    groups: Any = None,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> ModelRanking:
    """Compare classifiers on the same folds, by paired differences.

    Parameters
    ----------
    estimators : dict or sequence
        Name and classifier of each candidate; of a sequence of classifiers the names are those of
        their classes. They are cloned, not changed.
    X : array-like of n_samples rows or pictures
        What the classifiers take.
    y : array-like of shape (n_samples,)
        Labels.
    cv : int, splitter or iterable, default=None
        Folds, as of scikit-learn's `cross_validate`. They are drawn once, for all candidates.
    scoring : str or callable, default=None
        One scorer, such as that of :func:`sktl.make_top_k_scorer`; accuracy by default.
    groups : array-like of shape (n_samples,), default=None
        Groups of samples, for splitters that keep them together.
    n_jobs : int, default=None
        Number of fits at a time, in processes of joblib's.
    verbose : int, default=0
        If not 0, a progress bar over the fits is shown.

    Returns
    -------
    ranking : ModelRanking
        Scores, differences, predictions out of fold, and ensembles of the best.

    Raises
    ------
    ParameterError
        If there are no candidates, a name is no str or cannot be that of an ensemble's member,
        something among them is no classifier, labels are missing, there are several scorers, or a
        score is NaN.
    Exception
        What a candidate raises in fitting or scoring, with a note that names it and the fold.

    References
    ----------
    C. Nadeau, Y. Bengio, "Inference for the Generalization Error", Machine Learning 52, 2003: the
    corrected resampled t-test. It is what scikit-learn's example "Statistical comparison of models
    using grid search" uses.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sktl.model_selection import rank_models
    >>> X, y = load_digits(n_class=5, return_X_y=True)
    >>> ranking = rank_models([GaussianNB(), KNeighborsClassifier()], X, y, cv=5)
    >>> ranking.best(1)
    ['KNeighborsClassifier']
    >>> ranking.compare("KNeighborsClassifier", "GaussianNB").p_value < 0.05
    True
    >>> ranking.stack(2).fit(X, y).predict(X[:3])
    array([0, 1, 2])
    """
    named = _named(estimators)
    labels = column_or_1d(y)
    require_labels(y, "rank_models: y", "sample")
    X, y = indexable(X, labels)
    if not (scoring is None or isinstance(scoring, str) or callable(scoring)):
        raise ParameterError(f"scoring must be one scorer, or the name of one; got {scoring!r}")
    splits = check_cv(cv, y, classifier=True).split(X, y, groups)
    folds = [(as_positions(train), as_positions(test)) for train, test in splits]
    # Those of one fold stand side by side, as they share features.
    pairs = [(name, i) for i in range(len(folds)) for name in named]
    workers = Parallel(n_jobs=n_jobs, return_as="generator")
    classes = np.unique(y)
    results = list(
        ProgressBar(
            workers(
                delayed(evaluate)(
                    f"candidate {name!r}, fold {i}", named[name], X, y, folds[i], scoring, classes
                )
                for name, i in pairs
            ),
            total=len(pairs),
            unit="fit",
            disable=not verbose,
            delay=3,
        )
    )
    of_model = {
        name: [result for (of, _), result in zip(pairs, results, strict=True) if of == name]
        for name in named
    }
    return ModelRanking(
        estimators=named,
        folds=pd.DataFrame({n: [r.score for r in of] for n, of in of_model.items()}),
        fit_seconds={n: float(np.mean([r.seconds for r in of])) for n, of in of_model.items()},
        out_of_fold={
            name: assemble([r.response for r in of], folds, y) for name, of in of_model.items()
        },
        kinds={name: of[0].kind for name, of in of_model.items()},
        splits=folds,
        y=y,
        scoring=scoring,
    )


def _named(estimators: Any) -> dict[str, Any]:
    """Candidates by name, checked."""
    if isinstance(estimators, Mapping):
        pairs = list(estimators.items())
    else:
        given = list(estimators)
        are_pairs = given and all(isinstance(item, tuple) and len(item) == 2 for item in given)
        pairs = given if are_pairs else [(type(item).__name__, item) for item in given]
    if not pairs:
        raise ParameterError("rank_models needs at least one classifier; got none")
    named = dict(pairs)
    if len(named) < len(pairs):
        raise ParameterError(
            f"rank_models: names must differ; got {[name for name, _ in pairs]}. Pass a dict of "
            "names and classifiers"
        )
    nameless = [name for name in named if not isinstance(name, str)]
    if nameless:
        raise ParameterError(f"rank_models: names must be str; got {nameless}")
    taken = {*StackingClassifier([]).get_params(False), *VotingClassifier([]).get_params(False)}
    unfit = [name for name in named if name in taken or "__" in name]
    if unfit:
        raise ParameterError(
            "rank_models: names must not contain '__' nor be those of an ensemble's parameters, "
            f"such as 'cv', which a member of a stack or vote cannot have; got {unfit}"
        )
    wrong = [
        name
        for name, estimator in pairs
        if isinstance(estimator, type)
        or not hasattr(estimator, "__sklearn_tags__")
        or not is_classifier(estimator)
    ]
    if wrong:
        raise ParameterError(f"rank_models compares classifiers, which {wrong} are not")
    return named
