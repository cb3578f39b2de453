"""Search with Optuna, as a meta-estimator of scikit-learn."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import math
import numbers
import os
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import joblib
import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import check_scoring
from sklearn.model_selection import check_cv
from sklearn.utils import check_random_state, indexable
from sklearn.utils.parallel import Parallel, delayed

from sktl.exceptions import ParameterError
from sktl.model_selection._identity import identity
from sktl.model_selection._spaces import choices, decode, named_space
from sktl.utils._parameters import ParameterChecks
from sktl.utils._progress import ProgressBar
from sktl.utils._sklearn import BaseSearchCV

if TYPE_CHECKING:
    import optuna

__all__ = ["OptunaSearch"]


class OptunaSearch(BaseSearchCV):
    """Search for parameters with Optuna, by cross-validation.

    It is used like scikit-learn's `GridSearchCV` and `RandomizedSearchCV`. Beyond these it learns
    from the trials that it has made where to look next, gives up on a candidate as soon as its
    first folds, or its first epochs, are worse than those of others, and can be interrupted and
    resumed, also by several processes or machines at once.

    Parameters
    ----------
    estimator : estimator
        Cloned for every trial, not changed.
    space : dict or callable
        Name of each parameter, nested ones with ``__`` (``feat__layer``, ``clf__C``,
        ``phases__fine_tune__lr``), and what it may be: a list of choices of any kind; a range
        ``(low, high)`` of two ints or two floats, ends included; ``(low, high, "log")``, drawn
        evenly by its logarithm; a distribution of Optuna; or a frozen one of `scipy.stats`. Or a
        function that gives a dict of parameters for a trial of Optuna, for spaces in which one
        choice depends on another.
    n_trials : int or None, default=50
        Number of trials in the end, those that are in the storage already included. None is
        without limit; it needs a `timeout`.
    timeout : float, default=None
        Seconds after which no more trials are begun.
    scoring : str or callable, default=None
        Name of a scorer, or a scorer such as that of :func:`sktl.make_top_k_scorer`. By default
        the estimator's own score.
    cv : int, splitter or iterable, default=None
        Folds, as of `GridSearchCV`. They are drawn once, so that all trials have the same.
    sampler : sampler of Optuna or callable, default=None
        What proposes the candidates: by default Optuna's TPE. A class such as
        ``optuna.samplers.RandomSampler``, or another callable with a parameter `seed`, makes one
        for each trial, with a seed that follows from `random_state` and the trial's number; a
        GridSampler or QMCSampler, which goes through a sequence, is made once. A sampler that is
        made already keeps its own seed.
    pruner : pruner of Optuna, default=None
        What decides whether a trial is given up: by default Optuna's MedianPruner.
    prune_by : {"fold", "epoch"} or None, default="fold"
        What the pruner sees: the mean score of the folds so far after each of them; the validation
        accuracy of a :class:`sktl.CNNClassifier` after each of its epochs; or nothing, so that
        every trial has all folds. See Notes.
    storage : str, Path, storage of Optuna or None, default=None
        Where trials are kept: a URL (``"mysql://..."``); the path of an SQLite file, that ends in
        .db, .sqlite or .sqlite3; the path of a journal file, with any other name; or only this
        object.
    study_name : str, default="search"
        Name of the study in the storage.
    resume : bool, default=True
        Whether to go on with a study that the storage has already. If not, it is an error that
        there is one.
    n_jobs : int, default=None
        Number of trials at a time, each in a process of joblib's, or on a cluster where
        ``joblib.parallel_config`` says so and all its machines reach the storage.
    refit : bool, default=True
        Whether to fit the best candidate on all data in the end.
    random_state : int, RandomState instance or None, default=None
        Seed of the sampler. With an int, and one trial at a time, the trials are the same every
        time, also when the search was interrupted: the trial in which it was is "FAIL", and another
        one evaluates its candidate first. That of a process that was killed is not evaluated again,
        nor do Hyperband's brackets, which follow from the numbers of trials, stay the same. Pass an
        int to the estimator and to the splitter, too.
    verbose : int, default=0
        If not 0, a progress bar over the trials is shown.
    error_score : "raise", float or None, default=None
        Score of a fold in which fitting or scoring fails. None, like NaN, fails the trial at once,
        and the search goes on, with a warning in the end.

    Attributes
    ----------
    best_estimator_ : estimator
        The best candidate, fitted on all data. Only with `refit`.
    best_params_ : dict
        Its parameters.
    best_score_ : float
        Its mean score over the folds.
    best_index_ : int
        Its number, which is its row in `trials_`.
    trials_ : DataFrame
        One row a trial: its number, state ("COMPLETE", "PRUNED", "FAIL", or "RUNNING" for one that
        was killed), rank, mean, deviation and score of each fold, seconds, error, and parameters.
        The columns that are also in `cv_results_` of `GridSearchCV` have the names they have
        there. Means of pruned trials are those of the folds they had.
    study_ : optuna.Study
        For Optuna's own displays, such as the importance of parameters.
    scorer_ : callable
        The scorer.
    n_splits_ : int
        Number of folds.
    refit_time_ : float
        Seconds of the last fit. Only with `refit`.
    multimetric_ : bool
        False: there is one scorer.
    classes_ : ndarray of shape (n_classes,)
        Labels of the classes. Only with `refit`, for classifiers.
    n_features_in_ : int
        Number of columns, where the best estimator has it.
    feature_names_in_ : ndarray of str
        Names of the columns, where the best estimator has them.

    Raises
    ------
    ParameterError
        If parameters are wrong, or the study in the storage is of other pictures, labels, folds,
        scoring or another estimator, so that its scores do not compare, or has trials outside of
        `space`, or whose draws stand for something else there: ranges may be widened, not
        narrowed. See Notes.

    Notes
    -----
    Trials that differ only behind a :class:`sktl.CNNFeatures` cost no pass through its network:
    features are in its store. Where its `layer` is searched, or where there are several workers,
    and nothing else of it is searched, all layers are put into the store in one pass first.

    With ``prune_by="epoch"`` the value reported after an epoch is the mean of the best accuracy so
    far of this fold and that of the folds before. The step is the number of epochs so far, a
    complete fold counting as all epochs of its phases, even if it was stopped early. Where a fold
    fits the network several times (`refit`, CalibratedClassifierCV), the first fit alone is
    reported.

    A study in a storage is known again by the content of arrays and tables, paths as they are
    written, and the mere number of other pictures, such as those of an ImageCollection; labels and
    folds; what is passed to `fit`; the estimator's parameters by their content, save those that are
    searched and those that change no score, such as `n_jobs`; and functions by their names, but
    lambdas by what they do.

    Several workers see one another's trials as they end, so that with `n_jobs` the proposals, but
    not the scores, depend on the order of events.

    References
    ----------
    T. Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization Framework", KDD 2019,
    arXiv:1907.10902.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sktl.model_selection import OptunaSearch
    >>> X, y = load_digits(n_class=5, return_X_y=True)
    >>> space = {"n_neighbors": (1, 50, "log"), "weights": ["uniform", "distance"]}
    >>> search = OptunaSearch(KNeighborsClassifier(), space, n_trials=8, cv=3, random_state=0)
    >>> _ = search.fit(X, y)
    >>> len(search.trials_), bool(search.best_score_ > 0.95)
    (8, True)
    >>> search.predict(X[:3])
    array([0, 1, 2])
    """

    def __init__(
        self,
        estimator: Any,
        space: Mapping[str, Any] | Callable[[optuna.Trial], dict[str, Any]],
        *,
        n_trials: int | None = 50,
        timeout: float | None = None,
        scoring: Any = None,
        cv: Any = None,
        sampler: Any = None,
        pruner: Any = None,
        prune_by: Literal["fold", "epoch"] | None = "fold",
        storage: Any = None,
        study_name: str = "search",
        resume: bool = True,
        n_jobs: int | None = None,
        refit: bool = True,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        error_score: float | str | None = None,
    ) -> None:
        self.estimator = estimator
        self.space = space
        self.n_trials = n_trials
        self.timeout = timeout
        self.scoring = scoring
        self.cv = cv
        self.sampler = sampler
        self.pruner = pruner
        self.prune_by = prune_by
        self.storage = storage
        self.study_name = study_name
        self.resume = resume
        self.n_jobs = n_jobs
        self.refit = refit
        self.random_state = random_state
        self.verbose = verbose
        self.error_score = error_score

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Search, and fit the best candidate on all data.

        Parameters
        ----------
        X : array-like of n_samples rows or pictures
            What the estimator takes.
        y : array-like of shape (n_samples,), default=None
            Labels or targets.
        **params : dict
            For the estimator's `fit`, the scorer and the splitter (`groups`), as of
            `GridSearchCV`.

        Returns
        -------
        self : OptunaSearch
        """
        self._check_parameters()
        X, y = indexable(X, y)
        routed = self._get_routed_params_for_fit(params)
        splitter = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        splits = list(splitter.split(X, y, **routed.splitter.split))
        self.scorer_, self.multimetric_ = check_scoring(self.estimator, self.scoring), False
        self.n_splits_ = len(splits)
        from sktl.model_selection._study import Objective

        # Folds are drawn already: what only the splitter wants goes no further.
        for_folds = {*routed.estimator.fit, *routed.scorer.score}
        objective = Objective(
            self.estimator,
            self.space,
            X,
            y,
            splits,
            self.scorer_,
            {name: value for name, value in params.items() if name in for_folds},
            routed.scorer.score,
            self.prune_by,
            np.nan if self.error_score is None else self.error_score,
        )
        space = named_space(self.space, self.estimator)
        self.study_ = self._search(objective, space)
        self._note_trials(space)
        if self.refit:
            chosen = clone(self.best_params_, safe=False)
            self.best_estimator_ = clone(self.estimator).set_params(**chosen)
            start = time.perf_counter()
            targets = () if y is None else (y,)
            self.best_estimator_.fit(X, *targets, **routed.estimator.fit)
            self.refit_time_ = time.perf_counter() - start
            if hasattr(self.best_estimator_, "feature_names_in_"):
                self.feature_names_in_ = self.best_estimator_.feature_names_in_
        return self

    def _check_parameters(self) -> None:
        checks = ParameterChecks("OptunaSearch")
        checks.integer("n_trials", self.n_trials, minimum=1, optional=True)
        timeout: Any = self.timeout
        is_time = timeout is None or (isinstance(timeout, numbers.Real) and float(timeout) > 0)
        checks.that("timeout", timeout, is_time, "seconds above 0")
        checks.that(
            "n_trials",
            self.n_trials,
            self.n_trials is not None or self.timeout is not None,
            "a number where there is no timeout",
        )
        if self.prune_by is not None:
            checks.choice("prune_by", self.prune_by, ("fold", "epoch"))
        if isinstance(self.error_score, str):
            checks.choice("error_score", self.error_score, ("raise",))
        else:
            is_score = self.error_score is None or isinstance(self.error_score, numbers.Real)
            checks.that("error_score", self.error_score, is_score, "'raise', a number or None")
        checks.truth("resume", self.resume)
        checks.truth("refit", self.refit)
        checks.n_jobs(self.n_jobs)
        checks.that("study_name", self.study_name, isinstance(self.study_name, str), "a name")
        checks.that(
            "scoring",
            self.scoring,
            self.scoring is None or isinstance(self.scoring, str) or callable(self.scoring),
            "one scorer, or the name of one",
        )
        self._check_parts_of_optuna(checks)
        checks.attempt(named_space, self.space, self.estimator)
        if self.prune_by == "epoch":
            from sktl.model_selection._epoch_pruning import check_epochs

            checks.attempt(check_epochs, self.estimator)
        checks.done()

    def _check_parts_of_optuna(self, checks: ParameterChecks) -> None:
        from optuna.pruners import BasePruner
        from optuna.samplers import BaseSampler
        from optuna.storages import BaseStorage

        sampler, pruner, storage = self.sampler, self.pruner, self.storage
        is_sampler = sampler is None or isinstance(sampler, BaseSampler) or _takes_seed(sampler)
        rule = "a sampler of Optuna, a callable that makes one from a seed, or None"
        checks.that("sampler", sampler, is_sampler, rule)
        is_pruner = pruner is None or isinstance(pruner, BasePruner)
        checks.that("pruner", pruner, is_pruner, "a pruner of Optuna that is made already, or None")
        is_storage = storage is None or isinstance(storage, (str, os.PathLike, BaseStorage))
        checks.that("storage", storage, is_storage, "a path, a URL, a storage of Optuna or None")

    def _search(self, objective: Any, space: Any) -> optuna.Study:
        """Run the trials that are missing."""
        import optuna

        from sktl.model_selection._study import (
            claim,
            n_finished,
            open_storage,
            quiet,
            repeat_interrupted,
        )

        n_workers = joblib.effective_n_jobs(self.n_jobs)
        storage = self.storage
        if n_workers > 1 and isinstance(storage, optuna.storages.InMemoryStorage):
            raise ParameterError(
                "several workers cannot share a storage in memory: pass storage=None or a file"
            )
        with tempfile.TemporaryDirectory(prefix="sktl-search-") as folder, quiet():
            is_shared_in_file = n_workers > 1 and storage is None
            if is_shared_in_file:
                storage = Path(folder) / "journal.log"
            opened = open_storage(storage)
            study = optuna.create_study(
                storage=opened,
                study_name=self.study_name,
                direction="maximize",
                sampler=self._sampler(n_workers),
                pruner=self._pruner(),
                load_if_exists=True,
            )
            claim(
                study,
                identity(
                    self.estimator,
                    () if callable(self.space) else self.space,
                    objective.X,
                    objective.y,
                    objective.splits,
                    objective.scorer,
                    objective.params,
                    objective.score_params,
                    {
                        "prune_by": "epoch" if self.prune_by == "epoch" else "fold or None",
                        "error_score": _counted(self.error_score),
                    },
                ),
                space,
                resume=self.resume,
            )
            left = None if self.n_trials is None else max(0, self.n_trials - n_finished(study))
            if left != 0:
                repeat_interrupted(study)
                _warm(self.estimator, space, objective.X, n_workers)
            if n_workers == 1:
                self._run(study, storage=None, objective=objective, left=left)
            else:
                self._run(study, storage=storage, objective=objective, left=left)
            if is_shared_in_file:
                kept = optuna.storages.InMemoryStorage()
                optuna.copy_study(
                    from_study_name=self.study_name, from_storage=opened, to_storage=kept
                )
                study = optuna.load_study(
                    study_name=self.study_name,
                    storage=kept,
                    sampler=study.sampler,
                    pruner=study.pruner,
                )
        return study

    def _run(self, study: optuna.Study, *, storage: Any, objective: Any, left: int | None) -> None:
        from sktl.model_selection._study import run_trial

        run = functools.partial(
            run_trial,
            study if storage is None else None,
            storage,
            self.study_name,
            study.sampler,
            study.pruner,
            objective,
            self.n_trials,
        )
        workers = Parallel(  # whose processes know scikit-learn's configuration
            n_jobs=self.n_jobs if storage is not None else 1,
            return_as="generator_unordered",
            pre_dispatch="n_jobs",
            batch_size=1,
        )
        is_over = threading.Event()
        turns = itertools.takewhile(lambda _: not is_over.is_set(), self._turns(left))
        best = -math.inf
        with ProgressBar(total=left, unit="trial", disable=not self.verbose, delay=3) as bar:
            for value, is_last in workers(delayed(run)() for _ in turns):
                best = max(best, value)
                if is_last:
                    is_over.set()
                bar.set_postfix(best=f"{best:.4f}", refresh=False)
                bar.update()

    def _turns(self, left: int | None) -> Iterator[int]:
        """One item a trial, as long as there is time."""
        end = math.inf if self.timeout is None else time.monotonic() + self.timeout
        turns = itertools.count() if left is None else range(left)
        return itertools.takewhile(lambda _: time.monotonic() < end, turns)

    def _sampler(self, n_workers: int) -> Any:
        import optuna

        from sktl.model_selection._study import SeededByTrial

        if isinstance(self.sampler, optuna.samplers.BaseSampler):
            return copy.deepcopy(self.sampler)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        # Constant liar: what others are trying just now is avoided.
        tpe = functools.partial(optuna.samplers.TPESampler, constant_liar=n_workers > 1)
        make = self.sampler or tpe
        sampler = make(seed=seed)
        if not isinstance(sampler, optuna.samplers.BaseSampler):
            raise ParameterError(
                f"OptunaSearch: sampler must make a sampler of Optuna; it made {sampler!r}."
            )
        # The seed of these is that of one sequence, in which the storage tells them their place.
        in_sequence = (optuna.samplers.GridSampler, optuna.samplers.QMCSampler)
        return sampler if isinstance(sampler, in_sequence) else SeededByTrial(make, seed)

    def _pruner(self) -> Any:
        import optuna

        if self.prune_by is None:
            return optuna.pruners.NopPruner()
        return copy.deepcopy(self.pruner) or optuna.pruners.MedianPruner()

    def _note_trials(self, space: Any) -> None:
        from sktl.model_selection._study import failures, trials_frame

        failed = failures(self.study_)
        self.trials_ = trials_frame(self.study_, space, self.n_splits_)
        complete = self.trials_["state"] == "COMPLETE"
        last = f" The last error was {list(failed.values())[-1]}" if failed else ""
        if not complete.any():
            raise ValueError(
                f"none of the {len(self.trials_)} trials was completed, {len(failed)} of which "
                f"failed.{last}"
            )
        if failed:
            warnings.warn(
                f"{len(failed)} of {len(self.trials_)} trials failed; see the column error of "
                f"trials_.{last}",
                FitFailedWarning,
                stacklevel=3,
            )
        best = self.study_.best_trial
        self.best_index_, self.best_score_ = best.number, self.study_.best_value
        self.best_params_ = decode(space, best)


def _counted(error_score: Any) -> float | None:
    """What a fold that fails adds to a mean, if it does."""
    is_number = isinstance(error_score, numbers.Real) and not math.isnan(error_score)
    return float(error_score) if is_number else None


def _takes_seed(make: Any) -> bool:
    try:
        inspect.signature(make).bind(seed=0)
    except (TypeError, ValueError):
        return False
    return True


def _warm(estimator: Any, space: Any, X: Any, n_workers: int) -> None:
    """Put what the trials need of a CNNFeatures at the front into its store, in one pass."""
    room = sys.modules.get("sktl.feature_extraction")  # without it nothing in there is of it
    name, first = "", estimator
    while hasattr(first, "steps"):
        step, first = first.steps[0]
        name += f"{step}__"
    if room is None or not isinstance(first, room.CNNFeatures) or callable(space):
        return
    if first.store is None:
        return
    of_features = {key for key in space if key.startswith(name) or name.startswith(f"{key}__")}
    layers = choices(space[f"{name}layer"]) if f"{name}layer" in space else [first.layer]
    if of_features - {f"{name}layer"} or (len(layers) == 1 and n_workers == 1):
        return
    flat = [part for layer in layers for part in (layer if isinstance(layer, list) else [layer])]
    clone(first).warm(X, list(dict.fromkeys(flat)))
