"""What a search leaves to Optuna: storage, study, sampler, and what becomes of one trial.

It is imported when a search is fitted, as it needs Optuna.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from sklearn import get_config
from sklearn.base import clone
from sklearn.model_selection import cross_validate

from sktl.exceptions import ParameterError
from sktl.model_selection._spaces import decode, misfit, named_space, sample, stood_for
from sktl.utils._sklearn import check_method_params

__all__ = [
    "Objective",
    "SeededByTrial",
    "claim",
    "failures",
    "n_finished",
    "open_storage",
    "quiet",
    "repeat_interrupted",
    "run_trial",
    "trials_frame",
]

_ATTRIBUTE, _STOOD_FOR, _REPEATS, _RAISED = "sktl", "params", "repeats", "raised"
_SQLITE = (".db", ".sqlite", ".sqlite3")
_SHOWN = 5


def open_storage(storage: Any) -> Any:
    """Storage of Optuna for a URL, the path of a file, a storage or nothing."""
    if not isinstance(storage, (str, os.PathLike)):
        return optuna.storages.InMemoryStorage() if storage is None else storage
    text = os.fspath(storage)
    if "://" in text:
        with _opening(f"{text.partition('://')[0]}://..."):  # there may be a password in it
            return RDBStorage(text)
    path = Path(text).expanduser().absolute()
    if not path.parent.is_dir():
        raise ParameterError(
            f"OptunaSearch: storage {text!r} cannot be made, as there is no folder "
            f"{os.fspath(path.parent)!r}."
        )
    if path.is_dir():
        raise ParameterError(f"OptunaSearch: storage {text!r} is a folder; pass a file in it.")
    if path.suffix in _SQLITE:
        with _opening(text):
            return RDBStorage(f"sqlite:///{path}")
    # Windows lets only administrators make the links that Optuna locks with by default.
    lock = JournalFileOpenLock(str(path)) if os.name == "nt" else None
    with _opening(text):
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


@contextlib.contextmanager
def _opening(shown: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each kind of storage has its own
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ParameterError(
            f"OptunaSearch: storage {shown!r} cannot be opened ({reason}); pass another, or None"
        ) from error


def claim(study: optuna.Study, identity: Mapping[str, Any], space: Any, *, resume: bool) -> None:
    """Note what the study is of; refuse one that is of something else, or of another space."""
    trials = study.get_trials(deepcopy=False)
    name = study.study_name
    if study.direction != optuna.study.StudyDirection.MAXIMIZE:
        raise ParameterError(
            f"the study {name!r} minimises, while scores of scikit-learn are to be maximised: pass "
            "another study_name"
        )
    if trials and not resume:
        raise ParameterError(
            f"the storage has a study {name!r} with {len(trials)} trials: pass resume=True to go "
            "on with it, or another study_name"
        )
    known = study.user_attrs.get(_ATTRIBUTE)
    if known is None:
        if any(trial.state.is_finished() for trial in trials):
            raise ParameterError(
                f"the study {name!r} in the storage was not made by OptunaSearch: pass another "
                "study_name"
            )
        study.set_user_attr(_ATTRIBUTE, dict(identity))
        return
    keys = [key for key in {**known, **identity} if known.get(key) != identity.get(key)]
    if keys:
        listed = [f"  {key}: {_told(known, key)} then, {_told(identity, key)} now" for key in keys]
        more = [f"  and {len(keys) - _SHOWN} more"] if len(keys) > _SHOWN else []
        raise ParameterError(
            "\n".join(
                [
                    f"the study {name!r} in the storage is of another search, whose scores do not "
                    "compare with these:",
                    *listed[:_SHOWN],
                    *more,
                    "Make them alike (folds that are shuffled need a random_state), or pass "
                    "another study_name.",
                ]
            )
        )
    misfits = (misfit(space, trial, trial.user_attrs.get(_STOOD_FOR)) for trial in trials)
    if (other := next(filter(None, misfits), None)) is not None:
        raise ParameterError(
            f"the study {name!r} in the storage is of another space: {other}. A range may be "
            "widened; for all else pass another study_name."
        )


def _told(identity: Mapping[str, Any], key: str) -> Any:
    absent = "searched or absent" if key.startswith("estimator's ") else "not given"
    return identity.get(key, absent)


def n_finished(study: optuna.Study) -> int:
    """Trials that have an outcome; those that were killed or interrupted have none."""
    return sum(map(_has_outcome, study.get_trials(deepcopy=False)))


def _has_outcome(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() and not _was_interrupted(trial)


def _was_interrupted(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and "error" not in trial.user_attrs


def repeat_interrupted(study: optuna.Study) -> None:
    """Have the candidates of trials that were interrupted at their work evaluated first."""
    trials = study.get_trials(deepcopy=False)
    repeated = {trial.user_attrs.get(_REPEATS) for trial in trials}
    for trial in trials:
        # What raised an error might do so for ever.
        was_at_work = _STOOD_FOR in trial.user_attrs and _RAISED not in trial.user_attrs
        if _was_interrupted(trial) and was_at_work and trial.number not in repeated:
            study.enqueue_trial(trial.params, user_attrs={_REPEATS: trial.number})


def failures(study: optuna.Study) -> dict[int, str]:
    """Number and error of the trials in which something failed."""
    return {
        trial.number: trial.user_attrs["error"]
        for trial in study.get_trials(deepcopy=False)
        if "error" in trial.user_attrs
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from logging every trial; put its level back at the end."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


class SeededByTrial(BaseSampler):
    """A sampler that is made anew for each trial, with a seed of the trial's number.

    So a search that goes on after an interruption does not repeat the draws that it began with.
    Trials that repeat one that was interrupted draw nothing, and are not counted.
    """

    def __init__(self, make: Callable[..., BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._sampler = self._of(0)

    def _of(self, number: int) -> BaseSampler:
        (seed,) = np.random.SeedSequence([self._seed, number]).generate_state(1)
        return self._make(seed=int(seed))

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Make the sampler of this trial."""
        earlier = (t for t in study.get_trials(deepcopy=False) if t.number < trial.number)
        self._sampler = self._of(trial.number - sum(_REPEATS in t.user_attrs for t in earlier))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Parameters that are drawn together."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw them."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw a parameter on its own."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Hand on the outcome."""
        self._sampler.after_trial(study, trial, state, values)


@dataclass(frozen=True)
class Objective:
    """Mean score of a candidate over the folds, fold by fold, until Optuna prunes it."""

    estimator: Any
    space: Any
    X: Any
    y: Any
    splits: Sequence[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]
    scorer: Any
    params: Mapping[str, Any]
    score_params: Mapping[str, Any]
    prune_by: str | None
    error_score: float | str

    def __call__(self, trial: optuna.Trial) -> float:
        """Evaluate one candidate."""
        chosen = sample(self.space, trial)
        trial.set_user_attr(_STOOD_FOR, stood_for(chosen))
        scores: list[float] = []
        for fold in range(len(self.splits)):
            score = self._score(chosen, fold, trial)
            if math.isnan(score):
                return score  # which is a failed trial for Optuna
            scores.append(score)
            trial.set_user_attr("scores", scores)
            if self.prune_by == "fold":
                trial.report(float(np.mean(scores)), fold)
            if fold < len(self.splits) - 1 and trial.should_prune():
                raise optuna.TrialPruned(f"after fold {fold}")
        return float(np.mean(scores))

    def _score(self, chosen: dict[str, Any], fold: int, trial: optuna.Trial) -> float:
        try:
            estimator = clone(self.estimator).set_params(**clone(chosen, safe=False))
            if self.prune_by == "epoch":
                from sktl.model_selection._epoch_pruning import watch_epochs

                watch_epochs(estimator, trial, fold)
            result = cross_validate(
                estimator,
                self.X,
                self.y,
                cv=[self.splits[fold]],
                scoring=self._scorer(fold),
                params=dict(self.params),
                error_score="raise",
            )
        except optuna.TrialPruned:
            raise
        except Exception as error:
            if isinstance(self.error_score, str):
                trial.set_user_attr(_RAISED, True)
                raise
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            return float(self.error_score)
        seconds = trial.user_attrs.get("fit_times", [])
        trial.set_user_attr("fit_times", [*seconds, float(result["fit_time"][0])])
        if "test_score" not in result:
            raise ParameterError(
                f"OptunaSearch: scoring must give one number; {self.scorer!r} gave several, by name"
            )
        score = float(result["test_score"][0])
        if math.isnan(score):
            trial.set_user_attr("error", f"the score of fold {fold} is not a number")
        return score

    def _scorer(self, fold: int) -> Any:
        """The scorer with what it is passed, which cross_validate hands on only if it routes."""
        if get_config()["enable_metadata_routing"]:
            return self.scorer
        _, test = self.splits[fold]
        passed = check_method_params(self.X, self.score_params, indices=test)
        return functools.partial(self.scorer, **passed)


def run_trial(
    study: Any,
    storage: Any,
    study_name: str,
    sampler: Any,
    pruner: Any,
    objective: Objective,
    n_trials: int | None,
) -> tuple[float, bool]:
    """Run one trial, unless others have made them all; give its value, and if it is the last."""
    with quiet():
        if study is None:
            study = optuna.load_study(
                study_name=study_name,
                storage=open_storage(storage),
                sampler=sampler,
                pruner=pruner,
            )
            if not isinstance(sampler, SeededByTrial):
                sampler.reseed_rng()  # each worker has a copy with the same state
        if n_trials is not None and n_finished(study) >= n_trials:
            return -math.inf, True
        trials: list[FrozenTrial] = []
        space = named_space(objective.space, objective.estimator)
        study.optimize(
            replace(objective, space=space),
            n_trials=1,
            callbacks=[lambda _, trial: trials.append(trial)],
        )
    is_complete = trials[0].state == TrialState.COMPLETE
    # A sampler that has gone through all there is has stopped the study.
    return trials[0].values[0] if is_complete else -math.inf, getattr(study, "_stop_flag", False)


def trials_frame(study: optuna.Study, space: Any, n_splits: int) -> pd.DataFrame:
    """One row a trial, with the columns that `cv_results_` of scikit-learn's searches has."""
    rows = [_row(trial, space, n_splits) for trial in study.get_trials(deepcopy=False)]
    frame = pd.DataFrame(rows)
    complete = frame["state"] == "COMPLETE"
    ranks = frame["mean_test_score"].where(complete).rank(ascending=False, method="min")
    frame.insert(2, "rank_test_score", ranks.astype("Int64"))
    # The first trial may lack parameters that others have.
    names = sorted(map(str, frame), key=lambda name: name.startswith("param_"))
    return frame[names]


def _row(trial: FrozenTrial, space: Any, n_splits: int) -> dict[str, Any]:
    scores = [*trial.user_attrs.get("scores", [])]
    padded = [*scores, *[math.nan] * (n_splits - len(scores))]
    times = trial.user_attrs.get("fit_times", [])
    is_whole = not callable(space) or _STOOD_FOR in trial.user_attrs
    params = decode(space, trial) if is_whole else trial.params
    return {
        "number": trial.number,
        "state": trial.state.name,
        "mean_test_score": float(np.mean(scores)) if scores else math.nan,
        "std_test_score": float(np.std(scores)) if scores else math.nan,
        **{f"split{i}_test_score": score for i, score in enumerate(padded)},
        "mean_fit_time": float(np.mean(times)) if times else math.nan,
        "seconds": trial.duration.total_seconds() if trial.duration else math.nan,
        "error": trial.user_attrs.get("error"),
        **{f"param_{name}": value for name, value in params.items()},
    }
