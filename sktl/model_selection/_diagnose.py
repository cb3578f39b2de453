"""Where the error comes from: too small a model, too few data, other data, or luck."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import check_scoring
from sklearn.utils.validation import check_is_fitted

from sktl.exceptions import ParameterError
from sktl.utils._optional import import_optional
from sktl.utils._parameters import ParameterChecks
from sktl.utils._sklearn import num_samples

__all__ = ["DiagnosisDisplay", "diagnose"]


class _Stage(NamedTuple):
    name: str
    cause: str
    remedy: str


_STAGES = (
    _Stage(
        "training",
        "the model is too weak, or not trained to its end (bias)",
        "a bigger model, longer training, a later phase that trains more of the network, or less "
        "regularisation",
    ),
    _Stage(
        "training-validation",
        "the model has learnt its training data by heart (variance)",
        "more data, augmentation, or more regularisation (weight decay, dropout, a smaller C, "
        "fewer trained layers)",
    ),
    _Stage(
        "validation",
        "the validation data are of another kind than the training data (data mismatch)",
        "training data more like the validation data: collect some, or imitate them in augmenting",
    ),
    _Stage(
        "test",
        "so much was chosen by the validation data that they no longer say much (overfitting of "
        "the validation data)",
        "more validation data",
    ),
)
# Without training-validation data two causes cannot be told apart.
_EITHER = _Stage(
    "validation",
    "the model has learnt its training data by heart (variance), or the validation data are of "
    "another kind (data mismatch)",
    "more data or more regularisation; to tell which, keep some of the training data out of the "
    "training and pass them as train_valid",
)


def diagnose(
    estimator: Any,
    train: tuple[Any, Any],
    train_valid: tuple[Any, Any] | None = None,
    valid: tuple[Any, Any] | None = None,
    test: tuple[Any, Any] | None = None,
    *,
    scoring: Any = None,
    reachable: float = 0.0,
) -> DiagnosisDisplay:
    """Find the largest step between the errors on four sets of data, and what helps against it.

    Parameters
    ----------
    estimator : classifier
        If it is fitted, it is used as it is, and `train` must be what it was fitted on. If not, a
        clone is fitted on `train`.
    train : tuple of (X, y)
        The training data.
    train_valid : tuple of (X, y) or None, default=None
        Data of the same kind as the training data, which training has not seen. Without them,
        too few data and data of another kind cannot be told apart.
    valid : tuple of (X, y) or None, default=None
        Validation data: of the kind that matters in the end, used to choose models.
    test : tuple of (X, y) or None, default=None
        Test data: of the same kind, used for nothing yet.
    scoring : str or callable, default=None
        A scorer that gives the share of what is right: accuracy by default; that of
        :func:`sktl.make_top_k_scorer`. The error is 1 minus it.
    reachable : float, default=0.0
        The error that cannot be helped, such as that of people.

    Returns
    -------
    display : DiagnosisDisplay
        Its `frame` has the errors and the steps, its `advice` what to do; `plot` draws them.

    Raises
    ------
    ParameterError
        If there is nothing to compare the training data with, or a score is not between 0 and 1.

    References
    ----------
    A. Ng, "Nuts and Bolts of Building Applications using Deep Learning", tutorial at NIPS 2016;
    A. Ng, "Machine Learning Yearning", 2018, chapters 40 to 42.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from sktl.model_selection import diagnose
    >>> X, y = load_digits(return_X_y=True)
    >>> tree = DecisionTreeClassifier(random_state=0)
    >>> found = diagnose(tree, (X[::2], y[::2]), valid=(X[1::2], y[1::2]))
    >>> print(found.advice)
    The largest step, 18.8 points, is from training to validation: ...
    """
    return DiagnosisDisplay.from_estimator(
        estimator, train, train_valid, valid, test, scoring=scoring, reachable=reachable
    )


class DiagnosisDisplay:
    """Errors on training, training-validation, validation and test data, and the steps between.

    Parameters
    ----------
    errors : dict
        Error, from 0 to 1, on some of "training", "training-validation", "validation" and "test",
        in this order; the first must be there.
    n_samples : dict
        Number of samples of each, at least 1.
    reachable : float, default=0.0
        The error that cannot be helped.

    Attributes
    ----------
    frame : DataFrame
        One row a set of data: number of samples, error and its standard error, step from the row
        before and its standard error, whether it is more than chance, cause and remedy.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    References
    ----------
    A. Agresti, B. Caffo, "Simple and Effective Confidence Intervals for Proportions and Differences
    of Proportions Result from Adding Two Successes and Two Failures", The American Statistician
    54(4), 2000: the standard errors, and what is more than chance, are those of samples with one
    error and one success more.

    Examples
    --------
    >>> from sktl.model_selection import DiagnosisDisplay
    >>> errors = {"training": 0.02, "training-validation": 0.03, "validation": 0.15}
    >>> found = DiagnosisDisplay(errors, dict.fromkeys(errors, 1000))
    >>> found.frame["step"].round(2).tolist()
    [0.02, 0.01, 0.12]
    >>> print(found.advice)
    The largest step, 12.0 points, is from training-validation to validation: ...
    """

    def __init__(
        self, errors: dict[str, float], n_samples: dict[str, int], *, reachable: float = 0.0
    ) -> None:
        known = [stage.name for stage in _STAGES]
        if list(errors) != [name for name in known if name in errors] or len(errors) < 2:
            raise ParameterError(
                f"errors must be those of {known[0]} and some of {known[1:]}, in this order; got "
                f"{list(errors)}"
            )
        stages = [stage for stage in _STAGES if stage.name in errors]
        if "training-validation" not in errors:
            stages = [_EITHER if stage.name == "validation" else stage for stage in stages]
        if "validation" not in errors:  # nothing was chosen by them
            before = _STAGES[2] if "training-validation" in errors else _EITHER
            cause, remedy = (text.replace("validation data", "test data") for text in before[1:])
            stages = [_Stage("test", cause, remedy) if s.name == "test" else s for s in stages]
        error = np.array(list(errors.values()), dtype=np.float64)
        n = np.array([n_samples[name] for name in errors])
        if not ((error >= 0) & (error <= 1)).all() or (n < 1).any():
            raise ParameterError(
                "errors must be shares from 0 to 1, of at least one sample each; got "
                f"{errors} of {n_samples}"
            )
        # Of one wrong and one right more: else no error would be without any doubt.
        share = (error * n + 1) / (n + 2)
        se = np.sqrt(share * (1 - share) / (n + 2))
        # What is reachable is given, not measured.
        step_se = np.hypot(se, np.concatenate([[0.0], se[:-1]]))
        self.reachable = reachable
        self.frame = pd.DataFrame(
            {
                "n_samples": n,
                "error": error,
                "se": se,
                "step": np.diff(error, prepend=reachable),
                "step_se": step_se,
                "clear": np.diff(share, prepend=reachable) > 2 * step_se,
                "cause": [stage.cause for stage in stages],
                "remedy": [stage.remedy for stage in stages],
            },
            index=pd.Index(list(errors), name="data"),
        )

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        train: tuple[Any, Any],
        train_valid: tuple[Any, Any] | None = None,
        valid: tuple[Any, Any] | None = None,
        test: tuple[Any, Any] | None = None,
        *,
        scoring: Any = None,
        reachable: float = 0.0,
    ) -> Self:
        """Measure the errors of an estimator.

        Parameters
        ----------
        estimator : classifier
            As of :func:`diagnose`, like all that follows.
        train : tuple of (X, y)
            The training data.
        train_valid, valid, test : tuple of (X, y) or None, default=None
            Training-validation, validation and test data.
        scoring : str or callable, default=None
            A scorer that gives the share of what is right.
        reachable : float, default=0.0
            The error that cannot be helped.

        Returns
        -------
        display : DiagnosisDisplay
        """
        given = (train, train_valid, valid, test)
        parts = {
            stage.name: part for stage, part in zip(_STAGES, given, strict=True) if part is not None
        }
        checks = ParameterChecks("diagnose")
        for argument, part in zip(("train", "train_valid", "valid", "test"), given, strict=True):
            is_pair = isinstance(part, (tuple, list)) and len(part) == 2
            is_optional = argument != "train" and part is None
            shown = part if part is None else type(part).__name__
            checks.that(argument, shown, is_pair or is_optional, "a pair (X, y)")
        checks.that(
            "valid",
            valid,
            any(part is not None for part in given[1:]),
            "there, or train_valid or test: the training data need something to be compared with",
        )
        is_scorer = scoring is None or isinstance(scoring, str) or callable(scoring)
        checks.that("scoring", scoring, is_scorer, "one scorer, or the name of one")
        is_share = isinstance(reachable, (int, float, np.number)) and 0 <= float(reachable) < 1
        checks.that("reachable", reachable, is_share, "an error from 0 to below 1")
        checks.done()
        try:
            check_is_fitted(estimator)
        except NotFittedError:
            estimator = clone(estimator).fit(*train)
        scorer = check_scoring(estimator, scoring)
        errors = {name: 1 - float(scorer(estimator, *part)) for name, part in parts.items()}
        if not all(0 <= error <= 1 for error in errors.values()):
            raise ParameterError(
                "scoring must give a share between 0 and 1, as accuracy does; got "
                f"{[1 - error for error in errors.values()]}"
            )
        sizes = {name: int(num_samples(part[1])) for name, part in parts.items()}
        return cls(errors, sizes, reachable=reachable)

    @property
    def advice(self) -> str:
        """What to do, for the steps that are more than chance, the largest first."""
        clear = self.frame[self.frame["clear"]]
        if clear.empty:
            return (
                "No step is larger than twice its standard error: there is nothing that these "
                "data can tell apart. If the error is still too large, more data will show where "
                "it comes from."
            )
        names = ["what is reachable", *self.frame.index]
        before = dict(zip(self.frame.index, names, strict=False))
        unclear = self.frame[~self.frame["clear"] & (self.frame["step"] > clear["step"].max())]
        lines: list[str] = []
        for name, row in clear.sort_values("step", ascending=False, kind="stable").iterrows():
            largest = "The largest step" + (" that is more than chance" if len(unclear) else "")
            which = largest if not lines else "The next"
            lines.append(
                f"{which}, {100 * row['step']:.1f} points, is from {before[name]} to {name}: "
                f"{row['cause']}. What helps: {row['remedy']}."
            )
        lines += [
            f"The step of {100 * row['step']:.1f} points from {before[name]} to {name} is larger, "
            "but may be chance."
            for name, row in unclear.iterrows()
        ]
        return "\n".join(lines)

    def plot(self, ax: Any = None) -> Self:
        """Draw the errors as bars, the steps dark, with two standard errors to either side.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        self : DiagnosisDisplay
        """
        plt = import_optional("matplotlib.pyplot", extra="plot", caller="DiagnosisDisplay.plot")
        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        frame = self.frame
        names = [f"{name}\n(n = {n:,})" for name, n in frame["n_samples"].items()]
        error, before = 100 * frame["error"], 100 * (frame["error"] - frame["step"])
        ax.bar(names, error, color="C0", alpha=0.3, label="error")
        rises = frame["step"] > 0
        ax.bar(
            np.flatnonzero(rises),
            (error - before)[rises],
            bottom=before[rises],
            color="C0",
            label="step from the error before",
        )
        ax.errorbar(range(len(frame)), error, yerr=200 * frame["se"], fmt="none", color="0.3")
        for i, (top, step) in enumerate(zip(error + 200 * frame["se"], frame["step"], strict=True)):
            ax.annotate(
                f"{100 * step:+.1f}",
                (i, top),
                (0, 3),
                textcoords="offset points",
                ha="center",
                bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 1},
                zorder=3,
            )
        if self.reachable:
            ax.axhline(100 * self.reachable, color="C1", ls="--", label="reachable")
        highest = float((error + 200 * frame["se"]).max())
        ax.set(ylabel="Error (%)", ylim=(0, max(1.15 * highest, 1.0)))
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self
