"""A ranking of models: paired tests, and ensembles of the best."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression

from sktl.exceptions import ParameterError
from sktl.model_selection._labelled import make_stack, make_vote
from sktl.model_selection._out_of_fold import Fold, FoldResult, Said, assemble, evaluate
from sktl.utils._parameters import suggest

__all__ = ["ModelComparison", "ModelRanking"]


class ModelComparison(NamedTuple):
    """Paired difference of two candidates.

    Attributes
    ----------
    difference : float
        Mean over the folds of the first's score minus the second's.
    se : float
        Its standard error, were the folds independent.
    corrected_se : float
        Its standard error, corrected for the samples that the training parts share (Nadeau and
        Bengio).
    t : float
        The difference over its corrected standard error.
    p_value : float
        Of the two-sided test that the difference is 0.
    """

    difference: float
    se: float
    corrected_se: float
    t: float
    p_value: float


@dataclass(frozen=True)
class ModelRanking:
    """Scores of candidates on the same folds; made by :func:`rank_models`.

    Attributes
    ----------
    estimators : dict
        Name and unfitted classifier of each candidate.
    folds : DataFrame of shape (n_folds, n_candidates)
        Score of each candidate on each fold.
    fit_seconds : dict
        Mean time to fit each candidate on a fold; of an ensemble, what comes on top of its members.
    out_of_fold : dict
        Name of each candidate and a DataFrame of shape (n_samples, n_classes): what it said of
        each sample when that was in the test part. Probabilities, or decision values where there
        are none. Means where a sample was tested several times; NaN where it never was.
    kinds : dict
        Whether these are from "predict_proba" or "decision_function".
    splits : list of (ndarray, ndarray)
        Positions of the training and the test part of each fold.
    y : ndarray of shape (n_samples,)
        Labels.
    scoring : str, callable or None
        The scorer.
    ensembles : tuple of str
        Names of those that were put together of the others.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sktl.model_selection import rank_models
    >>> X, y = load_digits(n_class=5, return_X_y=True)
    >>> ranking = rank_models({"bayes": GaussianNB(), "knn": KNeighborsClassifier()}, X, y, cv=3)
    >>> ranking.table.index.tolist()
    ['knn', 'bayes']
    >>> ranking.with_stack(2).folds.columns.tolist()
    ['bayes', 'knn', 'stack of 2']
    """

    estimators: dict[str, Any]
    folds: pd.DataFrame
    fit_seconds: dict[str, float]
    out_of_fold: dict[str, pd.DataFrame]
    kinds: dict[str, str]
    splits: list[Fold]
    y: npt.NDArray[Any]
    scoring: Any = None
    ensembles: tuple[str, ...] = ()

    @property
    def table(self) -> pd.DataFrame:
        """Summary of the candidates, best first.

        One row a candidate: mean score, standard deviation over the folds, standard error of the
        mean; then, against the best, mean difference, its standard error and corrected standard
        error, p value, and p value corrected for the number of candidates (Holm 1979); seconds.
        The best is chosen by these scores, so that the p values are somewhat too small.
        """
        names = self.best(len(self.folds.columns))
        scores = self.folds[names]
        against = [self.compare(name, names[0]) for name in names]
        table = pd.DataFrame(
            {
                "mean": scores.mean(),
                "std": scores.std(ddof=1),
                "se": scores.std(ddof=1) / math.sqrt(len(scores)),
                "difference": [c.difference for c in against],
                "difference_se": [c.se for c in against],
                "corrected_se": [c.corrected_se for c in against],
                "p_value": [math.nan, *(c.p_value for c in against[1:])],
            }
        )
        table["p_holm"] = [math.nan, *_holm([c.p_value for c in against[1:]])]
        table["fit_seconds"] = pd.Series(self.fit_seconds)
        return table.rename_axis("model")

    def best(self, k: int = 1) -> list[str]:
        """Name the k best candidates.

        Parameters
        ----------
        k : int, default=1
            How many.

        Returns
        -------
        names : list of str
            The best first.
        """
        means = self.folds.mean().sort_values(ascending=False, kind="stable")
        _check_k(k, len(means))
        return [str(name) for name in means.index[:k]]

    def compare(self, first: str, second: str) -> ModelComparison:
        """Compare two candidates, fold by fold.

        Parameters
        ----------
        first, second : str
            Their names.

        Returns
        -------
        comparison : ModelComparison
            A positive difference is in favour of the first.
        """
        for name in (first, second):
            if name not in self.folds:
                raise ParameterError(
                    f"no candidate {name!r} among {list(self.folds)}."
                    + suggest(name, map(str, self.folds))
                )
        differences = (self.folds[first] - self.folds[second]).to_numpy()
        ratio = np.mean([len(test) / len(train) for train, test in self.splits])
        return _corrected_t_test(differences, float(ratio))

    def stack(self, k: int = 3, final_estimator: Any = None) -> StackingClassifier:
        """Stack the k best candidates.

        Parameters
        ----------
        k : int, default=3
            How many.
        final_estimator : classifier, default=None
            What learns from their predictions; LogisticRegression by default.

        Returns
        -------
        stack : StackingClassifier
            Not fitted. Its folds are those of the ranking, so that it is to be fitted on the same
            samples; for others, set its parameter `cv`. The parameters of a member or of the
            final estimator that name classes, such as a dict of class weights, are those of its
            ``<name>__estimator``.
        """
        names = self._singles(k)
        self._require_partition("stack")
        self._require_all_classes(names)
        return make_stack(self._members(names), final_estimator, self.splits)

    def vote(self, k: int = 3) -> VotingClassifier:
        """Average the probabilities of the k best candidates.

        Parameters
        ----------
        k : int, default=3
            How many.

        Returns
        -------
        vote : VotingClassifier
            Not fitted.
        """
        names = self._singles(k)
        self._require_probabilities(names)
        return make_vote(self._members(names))

    def with_stack(
        self, k: int = 3, final_estimator: Any = None, *, name: str | None = None
    ) -> ModelRanking:
        """Rank the stack of the k best beside the candidates, on the same folds.

        Nothing but the final estimator is fitted: it learns from the kept predictions of all folds
        but one, and is tested on those of that one.

        Parameters
        ----------
        k : int, default=3
            How many.
        final_estimator : classifier, default=None
            What learns from their predictions; LogisticRegression by default.
        name : str, default=None
            That of the stack; by default "stack of k".

        Returns
        -------
        ranking : ModelRanking
            With one candidate more.

        Notes
        -----
        The score is a little too good, for two reasons: the members were chosen by the same
        scores; and the predictions that the final estimator learns from were made by members that
        had seen the fold it is tested on. What is free of both is
        ``cross_validate(ranking.stack(k), ...)`` with `cv` set to a number and with members
        chosen beforehand, at n_folds times the cost.
        """
        stack, names = self.stack(k, final_estimator), self._singles(k)
        name = self._new_name(name, f"stack of {k}")
        columns = [_columns(self.out_of_fold[name]) for name in names]
        Z = np.concatenate(columns, axis=1)  # (n_samples, columns of all members)
        final = LogisticRegression() if final_estimator is None else final_estimator
        classes = np.unique(self.y)
        results = [
            evaluate(f"{name}, fold {i}", final, Z, self.y, fold, self.scoring, classes)
            for i, fold in enumerate(self.splits)
        ]
        return self._with(name, stack, results)

    def with_vote(self, k: int = 3, *, name: str | None = None) -> ModelRanking:
        """Rank the mean of the k best beside the candidates, on the same folds.

        Parameters
        ----------
        k : int, default=3
            How many.
        name : str, default=None
            That of the vote; by default "vote of k".

        Returns
        -------
        ranking : ModelRanking
            With one candidate more. The members were chosen by the same scores, which
            makes its own a little too good.
        """
        self._require_partition("vote")
        vote, names = self.vote(k), self._singles(k)
        name = self._new_name(name, f"vote of {k}")
        mean = np.mean([self.out_of_fold[name].to_numpy() for name in names], axis=0)
        classes = np.unique(self.y)
        said = Said(classes)
        results = [
            evaluate(f"{name}, fold {i}", said, mean, self.y, fold, self.scoring, classes)
            for i, fold in enumerate(self.splits)
        ]
        return self._with(name, vote, results)

    def _singles(self, k: int) -> list[str]:
        """Names of the k best that are no ensembles."""
        singles = [n for n in self.best(len(self.folds.columns)) if n not in self.ensembles]
        _check_k(k, len(singles))
        return singles[:k]

    def _new_name(self, name: str | None, usual: str) -> str:
        name = usual if name is None else name
        if name in self.folds:
            raise ParameterError(f"there is a candidate {name!r} already: pass another name=")
        return name

    def _members(self, names: list[str]) -> list[tuple[str, Any]]:
        return [(name, self.estimators[name]) for name in names]

    def _with(self, name: str, ensemble: Any, results: list[FoldResult]) -> ModelRanking:
        return replace(
            self,
            estimators={**self.estimators, name: ensemble},
            folds=self.folds.assign(**{name: [result.score for result in results]}),
            fit_seconds={**self.fit_seconds, name: float(np.mean([r.seconds for r in results]))},
            out_of_fold={
                **self.out_of_fold,
                name: assemble([r.response for r in results], self.splits, self.y),
            },
            kinds={**self.kinds, name: results[0].kind},
            ensembles=(*self.ensembles, name),
        )

    def _require_partition(self, what: str) -> None:
        tests = np.concatenate([test for _, test in self.splits])
        if not np.array_equal(np.sort(tests), np.arange(len(self.y))):
            raise ParameterError(
                f"a {what} needs folds that test every sample once, such as those of "
                "StratifiedKFold; these do not"
            )

    def _require_all_classes(self, names: list[str]) -> None:
        """Of a class that was not learnt, scikit-learn's stacks have -1e308 as decision value."""
        without = [name for name in names if self.kinds[name] != "predict_proba"]
        lacking = [np.setdiff1d(self.y, self.y[train]).tolist() for train, _ in self.splits]
        if without and any(lacking):
            raise ParameterError(
                f"folds have training parts without some classes ({max(lacking, key=len)}), of "
                f"which {', '.join(without)} gives a stack no decision values: wrap it in "
                "CalibratedClassifierCV, or rank on folds whose training parts have all classes, "
                "such as those of StratifiedGroupKFold"
            )

    def _require_probabilities(self, names: list[str]) -> None:
        without = [name for name in names if self.kinds[name] != "predict_proba"]
        if without:
            raise ParameterError(
                f"a vote needs probabilities, which {', '.join(without)} does not give: wrap it in "
                "CalibratedClassifierCV, or use a stack"
            )


def _check_k(k: Any, n_candidates: int) -> None:
    whole = isinstance(k, numbers.Integral) and not isinstance(k, bool)
    if not whole or not 1 <= k <= n_candidates:
        raise ParameterError(f"k must be from 1 to {n_candidates}, the candidates; got {k!r}")


def _columns(said: pd.DataFrame) -> npt.NDArray[np.float64]:
    """What a stack learns from: of two classes the second alone, as in scikit-learn's."""
    values = said.to_numpy()
    return values[:, 1:] if values.shape[1] == 2 else values


def _corrected_t_test(differences: npt.NDArray[np.float64], ratio: float) -> ModelComparison:
    """Nadeau and Bengio's test; `ratio` is that of the test part's size to the training part's."""
    n = len(differences)
    if n < 2:
        return ModelComparison(float(differences.mean()), *4 * [math.nan])
    mean, variance = float(differences.mean()), float(differences.var(ddof=1))
    se, corrected = math.sqrt(variance / n), math.sqrt(variance * (1 / n + ratio))
    exact = math.copysign(math.inf, mean) if mean else 0.0
    t = mean / corrected if corrected != 0 else exact
    return ModelComparison(mean, se, corrected, t, float(2 * stats.t.sf(abs(t), n - 1)))


def _holm(p_values: list[float]) -> list[float]:
    """Holm's step-down correction for many tests."""
    p = np.array(p_values)
    order = np.argsort(p)
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    adjusted = np.empty_like(p)
    adjusted[order] = raised
    return adjusted.tolist()  # type: ignore[no-any-return]
