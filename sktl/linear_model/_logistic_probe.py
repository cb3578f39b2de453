"""Logistic regression on the features of a network: scikit-learn's objective, reached sooner."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import (
    check_array,
    check_consistent_length,
    compute_class_weight,
    gen_batches,
)
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from sktl.linear_model._minimise import minimise
from sktl.utils._parameters import ParameterChecks, require_labels
from sktl.utils._sklearn import check_class_weight

__all__ = ["LogisticProbe"]

Array = npt.NDArray[Any]


class LogisticProbe(ClassifierMixin, BaseEstimator):
    r"""Multinomial logistic regression for the features of a network.

    The objective is that of :class:`sklearn.linear_model.LogisticRegression` with its default
    penalty,

    .. math:: \frac{1}{2} \lVert W \rVert^2 + C \sum_i s_i \, \ell(y_i, W x_i + b),

    where :math:`\ell` is the log-loss and :math:`s_i` are the weights of the samples. The
    intercept :math:`b` is not penalised. So both have the same minimum, and `C` means the same.
    Only the way there is shorter; see Notes.

    Parameters
    ----------
    C : float, default=1.0
        Inverse strength of the penalty. Smaller is stronger.
    tol : float, default=0.0001
        Stop when no component of the gradient of the objective, divided by C times the sum of the
        weights of the samples, is larger, and the next step promises to lower the objective by no
        more than 10 `tol` of it. The gradient is that of the centred features.
    max_iter : int, default=1000
        Largest number of iterations.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class, which multiplies those of its samples. "balanced" gives every class
        the same sum of weights. None is 1 for every class.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels of the classes, sorted.
    coef_ : ndarray of shape (n_classes, n_features), or (1, n_features) of two classes
        Weights of the features, float32 if those were, or else float64. Of two classes, they are
        those of the second.
    intercept_ : ndarray of shape (n_classes,), or (1,) of two classes
        Intercepts.
    n_iter_ : ndarray of shape (1,), int32
        Number of iterations.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X was a DataFrame with names that are all strings.

    See Also
    --------
    sklearn.linear_model.LogisticRegression : Other penalties, sparse features.

    Notes
    -----
    Features of a network are not negative and vary along few directions, which makes L-BFGS slow
    to find the intercepts and the scale of its steps. Here the features are centred, which moves
    the intercepts only, and L-BFGS is told the curvature: for class k the block of the Hessian is
    taken as :math:`a_k` times the Gram matrix of the features, where :math:`a_k` follows the mean
    of :math:`p_k (1 - p_k)`. Böhning's bound [1]_ takes 1/2 for it, which is far too large for
    many classes. Of the Gram matrix the leading directions are kept, and the others are given one
    curvature. None of this changes the minimum.

    scikit-learn stops at a small gradient alone. That of many classes, or of features as short as
    those of one length, is small before anything is learnt, and where weights are far too large for
    their penalty.

    float32 features are worked on in float32, sums over samples excepted. `fit` keeps one centred
    copy of X, and one more where weights are zero, 60 arrays of the size of `coef_`, and six of
    n_samples x n_classes. Sparse X is not supported. `fit` does not scale the features.

    The result does not depend on a random state.

    References
    ----------
    .. [1] D. Böhning, "Multinomial logistic regression algorithm", Annals of the Institute of
       Statistical Mathematics 44, 197-200, 1992.
    .. [2] J. Nocedal and S. J. Wright, "Numerical Optimization", second edition, chapter 7,
       Springer, 2006.
    .. [3] W. W. Hager and H. Zhang, "A new conjugate gradient method with guaranteed descent and
       an efficient line search", SIAM Journal on Optimization 16, 170-192, 2005.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktl.linear_model import LogisticProbe
    >>> X, y = load_digits(return_X_y=True)
    >>> probe = LogisticProbe(C=0.01).fit(X[:1000], y[:1000])
    >>> probe.coef_.shape
    (10, 64)
    >>> bool(probe.score(X[1000:], y[1000:]) > 0.9)
    True
    """

    classes_: Array
    coef_: Array
    intercept_: Array
    n_iter_: Array
    n_features_in_: int

    def __init__(
        self,
        C: float = 1.0,
        *,
        tol: float = 1e-4,
        max_iter: int = 1000,
        class_weight: dict[Any, float] | str | None = None,
    ) -> None:
        self.C = C
        self.tol = tol
        self.max_iter = max_iter
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Find the weights.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features, float32 or float64.
        y : array-like of shape (n_samples,)
            Labels: strings, integers or booleans, of at least two classes.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, not negative. None is 1 for every sample.

        Returns
        -------
        self : LogisticProbe
            The estimator.

        Raises
        ------
        ParameterError
            If parameters are wrong; all are named.
        ValueError
            If X, y or the weights are not what they must be, or y has one class only.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` iterations, or the precision of the numbers, did not suffice for `tol`.
        """
        self._check_parameters()
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], order="C")
        require_labels(y, "y", each="sample")
        check_classification_targets(y)
        self.classes_, y = np.unique(y, return_inverse=True)
        n_classes = len(self.classes_)
        if n_classes < 2:
            raise ValueError(
                "LogisticProbe needs samples of at least 2 classes; the data contains only one "
                f"class: {self.classes_.tolist()[0]!r}"
            )
        weight = self._weight_samples(X, y, sample_weight)
        counted = weight > 0
        if not counted.all():
            X, y, weight = X[counted], y[counted], weight[counted]

        _require_squares(X)
        mean = _mean(X, weight)
        centred = np.empty((X.shape[0], X.shape[1] + 1), dtype=X.dtype)
        np.subtract(X, mean.astype(X.dtype), out=centred[:, :-1])
        centred[:, -1] = 1
        found = minimise(
            centred, y, weight, n_classes, float(self.C), float(self.tol), int(self.max_iter)
        )
        if not found.converged:
            warnings.warn(
                f"LogisticProbe stopped after {found.n_iter} iterations, before the gradient and "
                f"what a step gains were as small as tol={self.tol} asks for. Raise max_iter (now "
                f"{self.max_iter}) or tol, lower C, scale the features or give them as float64.",
                ConvergenceWarning,
                stacklevel=2,
            )
        weights = found.weights
        if n_classes > 2:  # a row added to all of them changes the penalty alone
            weights = weights - weights.mean(axis=0)
        self.coef_ = np.ascontiguousarray(weights[:, :-1])
        shift = self.coef_.astype(np.float64) @ mean.astype(X.dtype)
        self.intercept_ = (weights[:, -1] - shift).astype(X.dtype)
        self.n_iter_ = np.array([found.n_iter], dtype=np.int32)
        return self

    def decision_function(self, X: Any) -> Array:
        """Log-odds of the second of two classes, or unnormalised log-probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        values : ndarray of shape (n_samples,) or (n_samples, n_classes)
            One column a class, in the order of `classes_`; of two classes no second axis.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        values: Array = X @ self.coef_.T + self.intercept_
        return values.ravel() if len(self.classes_) == 2 else values

    def predict(self, X: Any) -> Array:
        """Most probable class of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Labels, of the kind that `fit` was given.
        """
        values = self.decision_function(X)
        best = (values > 0).astype(np.intp) if values.ndim == 1 else values.argmax(axis=1)
        labels: Array = self.classes_[best]
        return labels

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            In [0, 1], rows sum to 1; one column a class, in the order of `classes_`.
        """
        values = self.decision_function(X)
        if values.ndim == 1:
            return np.column_stack([expit(-values), expit(values)])
        probabilities: Array = softmax(values, axis=1)
        return probabilities

    def predict_log_proba(self, X: Any) -> Array:
        """Logarithms of the probabilities, exact where these are too small for a number.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
            At most 0; one column a class, in the order of `classes_`.
        """
        values = self.decision_function(X)
        if values.ndim == 1:
            return np.column_stack([log_expit(-values), log_expit(values)])
        log_probabilities: Array = log_softmax(values, axis=1)
        return log_probabilities

    def _check_parameters(self) -> None:
        checks = ParameterChecks(type(self).__name__)
        for name in ("C", "tol"):
            checks.number(name, getattr(self, name), above=0)
        checks.integer("max_iter", self.max_iter, minimum=1)
        known = self.class_weight is None or isinstance(self.class_weight, dict)
        if not known:
            checks.choice("class_weight", self.class_weight, ("balanced",))
        checks.done()

    def _weight_samples(self, X: Array, y: Array, sample_weight: Any) -> Array:
        """Weights of samples times those of their classes, float64 (n_samples,)."""
        if sample_weight is None:
            weight = np.ones(len(X))
        elif isinstance(sample_weight, numbers.Real):
            weight = np.full(len(X), float(sample_weight))
        else:
            weight = check_array(
                sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight"
            )
            if weight.ndim != 1:
                raise ValueError(f"sample_weight must be 1-D; got {weight.ndim} dimensions")
            check_consistent_length(X, weight)
        if (weight < 0).any():
            raise ValueError("sample_weight must not be negative")
        _require_finite(weight, "sample_weight")
        if not weight.any():
            raise ValueError("sample_weight must not be zero for every sample")
        if self.class_weight == "balanced":
            of_class = np.bincount(y, weights=weight)
            with np.errstate(divide="ignore"):
                balance = weight.sum() / (len(of_class) * of_class)
            weight = weight * np.where(of_class > 0, balance, 0)[y]
        elif self.class_weight is not None:
            if isinstance(self.class_weight, Mapping):
                check_class_weight(self.class_weight)
            labels = self.classes_[y]
            weight = (
                weight * compute_class_weight(self.class_weight, classes=self.classes_, y=labels)[y]
            )
            if not weight.any():
                raise ValueError("class_weight must not be zero for every class that has weight")
            _require_finite(weight, "sample_weight times class_weight")
        return weight


def _require_finite(weight: Array, name: str) -> None:
    with np.errstate(over="ignore"):
        total = weight.sum()
    if not np.isfinite(total):
        raise ValueError(f"{name} must be finite, and so must be its sum")


def _require_squares(X: Array) -> None:
    """Raise an error if products of the features, summed over them, may be infinite."""
    largest = max(-float(X.min()), float(X.max()))
    if largest > np.sqrt(np.finfo(X.dtype).max / X.size):
        raise ValueError(
            f"squares of the features, which reach {largest:.1e}, are too large for {X.dtype}; "
            "scale them"
        )


def _mean(X: Array, weight: Array) -> Array:
    """Weighted mean of the samples, float64 (n_features,), without a float64 copy of them."""
    sums = sum(weight[rows] @ X[rows] for rows in gen_batches(len(X), 1024))
    mean: Array = sums / weight.sum()
    return mean
