"""A fixed number of pictures of each class for training, validation and test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.model_selection import BaseShuffleSplit
from sklearn.utils import check_random_state, indexable

from sktl.exceptions import ParameterError
from sktl.model_selection._splits_draw import TEST, TRAIN, UNUSED, VALID, Indices, draw_parts
from sktl.utils._parameters import ParameterChecks

__all__ = ["PerClassSplit", "per_class_split"]

Parts = tuple[Indices, Indices, Indices]

_SHOWN = 5


class PerClassSplit(BaseShuffleSplit):
    """Random splits with so many pictures of each class in each part.

    This is how results on Caltech-101 and its like are usually reported: a fixed number of each
    class for validation and for test, whatever the class has, and the rest (or a fixed number
    again) for training.

    Parameters
    ----------
    n_valid : int or float, default=30
        Pictures of each class for validation: a number, or a fraction (a float below 1). May be 0.
    n_test : int or float, default=20
        The same for the test. May be 0.
    n_train : int, float or None, default=None
        The same for training; None is all that the other parts leave.
    n_splits : int, default=1
        How many splits; each is drawn anew.
    evaluate : {"test", "valid"}, default="test"
        What `split` yields beside the training pictures. The part that it does not yield is in
        neither: with one `random_state` the same pictures are kept for the final test while a
        search looks at ``evaluate="valid"`` only.
    random_state : int, RandomState or None, default=None
        Draws the pictures. An int gives the same splits whenever they are asked for.

    Raises
    ------
    ParameterError
        When splitting: if a parameter is wrong, if there are no labels, if classes have too few
        pictures (all of them are named), or if groups leave no way to make the numbers exact.

    See Also
    --------
    per_class_split : The parts themselves, in place of their indices.
    sktl.datasets.near_duplicate_groups : Groups to keep together.

    Notes
    -----
    Pictures with the same entry in `groups` come into the same part, or are left out together.
    A fraction is rounded to whole pictures, class by class, and never to none. Indices are
    sorted.

    A search with ``refit=True`` fits the best candidate on all pictures that it was given, those
    for the test among them. Give it the training and validation pictures only, or pass
    ``refit=False``.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_val_score
    >>> from sktl.model_selection import PerClassSplit
    >>> X, y = load_digits(return_X_y=True)
    >>> cv = PerClassSplit(n_valid=30, n_test=20, n_splits=2, random_state=0)
    >>> [(len(train), len(test)) for train, test in cv.split(X, y)]
    [(1297, 200), (1297, 200)]
    >>> cross_val_score(LogisticRegression(max_iter=20, tol=1), X, y, cv=cv).shape
    (2,)
    """

    # Groups that are passed are used, without asking for it first.
    __metadata_request__split = {"groups": True}  # noqa: RUF012

    def __init__(
        self,
        n_valid: int | float = 30,
        n_test: int | float = 20,
        *,
        n_train: int | float | None = None,
        n_splits: int = 1,
        evaluate: Literal["test", "valid"] = "test",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_valid = n_valid
        self.n_test = n_test
        self.n_train = n_train
        self.n_splits = n_splits
        self.evaluate = evaluate
        self.random_state = random_state

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[Indices, Indices]]:
        """Draw pictures for training, and for what `evaluate` says.

        Parameters
        ----------
        X : array-like of n_images pictures
            Only their number matters.
        y : array-like of shape (n_images,)
            Labels.
        groups : array-like of shape (n_images,), default=None
            Pictures with equal entries are kept together.

        Yields
        ------
        train : ndarray of int
            Positions of the training pictures.
        test : ndarray of int
            Positions of the test or validation pictures.
        """
        self._check()
        kept = {"valid": self.n_valid, "test": self.n_test}
        if kept[self.evaluate] == 0:
            other = "valid" if self.evaluate == "test" else "test"
            raise ParameterError(
                f'PerClassSplit: evaluate="{self.evaluate}", but n_{self.evaluate}=0 leaves no '
                f'pictures for it; pass evaluate="{other}", or a larger n_{self.evaluate}'
            )
        for train, valid, test in self.split_parts(X, y, groups):
            yield train, valid if self.evaluate == "valid" else test

    def split_parts(self, X: Any, y: Any, groups: Any = None) -> Iterator[Parts]:
        """Draw pictures for all three parts.

        Parameters
        ----------
        X : array-like of n_images pictures
            Only their number matters.
        y : array-like of shape (n_images,)
            Labels.
        groups : array-like of shape (n_images,), default=None
            Pictures with equal entries are kept together.

        Yields
        ------
        train : ndarray of int
            Positions of the training pictures.
        valid : ndarray of int
            Positions of the validation pictures.
        test : ndarray of int
            Positions of the test pictures.
        """
        self._check()
        X, y, groups = indexable(X, y, groups)
        classes, labels = _encode("y", y)
        group = np.arange(len(labels)) if groups is None else _encode("groups", groups)[1]
        quota = self._quota(classes, np.bincount(labels, minlength=len(classes)))
        rng = check_random_state(self.random_state)
        for _ in range(self.n_splits):
            part = draw_parts(labels, group, quota, classes, rng)
            yield (
                np.flatnonzero(part == TRAIN),
                np.flatnonzero(part == VALID),
                np.flatnonzero(part == TEST),
            )

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Count the splits.

        Parameters
        ----------
        X : object, default=None
            Not used.
        y : object, default=None
            Not used.
        groups : object, default=None
            Not used.

        Returns
        -------
        n_splits : int
        """
        return self.n_splits

    def _check(self) -> None:
        checks = ParameterChecks("PerClassSplit")
        rule = "a number of pictures a class, or a fraction below 1"
        for name in ("n_valid", "n_test"):
            value = getattr(self, name)
            checks.that(name, value, _is_amount(value) or _is_zero(value), f"{rule}, or 0")
        checks.that(
            "n_train", self.n_train, self.n_train is None or _is_amount(self.n_train),
            f"{rule}, or None",
        )  # fmt: skip
        checks.integer("n_splits", self.n_splits, minimum=1)
        checks.choice("evaluate", self.evaluate, ("test", "valid"))
        checks.done()
        amounts = [
            float(n) for n in (self.n_train, self.n_valid, self.n_test) if n and _is_fraction(n)
        ]
        if sum(amounts) > 1 + 1e-9:
            raise ParameterError(
                f"PerClassSplit: the fractions {', '.join(map(str, amounts))} of n_train, n_valid "
                "and n_test make more than 1"
            )

    def _quota(self, classes: Sequence[Any], counts: Indices) -> Indices:
        """Number of pictures of each class in each part, shape (4, n_classes)."""
        quota = np.zeros((4, len(classes)), dtype=np.intp)
        quota[VALID] = _count(self.n_valid, counts)
        quota[TEST] = _count(self.n_test, counts)
        left = counts - quota[VALID] - quota[TEST]
        if self.n_train is None:
            quota[TRAIN] = left
            needed = counts - left + 1
        else:
            quota[TRAIN] = _count(self.n_train, counts)
            if _is_fraction(self.n_train):  # rounding may ask for one picture more than is left
                quota[TRAIN] = np.clip(quota[TRAIN], 1, np.maximum(left, 1))
            needed = quota.sum(axis=0)
        quota[UNUSED] = counts - quota[1:].sum(axis=0)
        short = np.flatnonzero(needed > counts)
        if len(short):
            listed = ", ".join(
                f"{classes[c]!r} has {counts[c]} of {needed[c]}" for c in short[:_SHOWN]
            )
            more = f" and {len(short) - _SHOWN} more" if len(short) > _SHOWN else ""
            raise ParameterError(
                f"PerClassSplit: {len(short)} of {len(classes)} classes have too few pictures for "
                f"n_train={self.n_train}, n_valid={self.n_valid}, n_test={self.n_test}: "
                f"{listed}{more}. Ask for fewer, or leave these classes out"
            )
        return quota


def per_class_split(
    X: Any,
    y: Any,
    *arrays: Any,
    n_valid: int | float = 30,
    n_test: int | float = 20,
    n_train: int | float | None = None,
    groups: Any = None,
    random_state: int | np.random.RandomState | None = None,
) -> list[Any]:
    """Split pictures and labels, with so many of each class in each part.

    What :func:`sklearn.model_selection.train_test_split` is to its splitters, this is to
    :class:`PerClassSplit`.

    Parameters
    ----------
    X : array-like of n_images pictures
        An array, list, Series, DataFrame or :class:`sktl.images.ImageCollection`.
    y : array-like of shape (n_images,)
        Labels.
    *arrays : array-likes of length n_images
        Split in the same way.
    n_valid : int or float, default=30
        Pictures of each class for validation: a number, or a fraction (a float below 1). May be 0.
    n_test : int or float, default=20
        The same for the test. May be 0.
    n_train : int, float or None, default=None
        The same for training; None is all that the other parts leave.
    groups : array-like of shape (n_images,), default=None
        Pictures with equal entries are kept together, such as
        :func:`sktl.datasets.near_duplicate_groups` finds them.
    random_state : int, RandomState or None, default=None
        Draws the pictures.

    Returns
    -------
    parts : list
        ``X_train, X_valid, X_test, y_train, y_valid, y_test, ...``, without the parts whose
        number is 0.

    Raises
    ------
    ParameterError
        As :class:`PerClassSplit` does.

    Examples
    --------
    A published protocol, and a plain stratified 70/30 split:

    >>> from sklearn.datasets import load_digits
    >>> from sktl.model_selection import per_class_split
    >>> X, y = load_digits(return_X_y=True)
    >>> parts = per_class_split(X, y, n_train=15, n_valid=30, n_test=20, random_state=0)
    >>> X_train, X_valid, X_test, y_train, y_valid, y_test = parts
    >>> len(X_train), len(X_valid), len(X_test)
    (150, 300, 200)
    >>> X_train, X_test, y_train, y_test = per_class_split(X, y, n_valid=0, n_test=0.3)
    >>> len(X_train), len(X_test)
    (1258, 539)
    """
    splitter = PerClassSplit(n_valid, n_test, n_train=n_train, random_state=random_state)
    X, y, *arrays = indexable(X, y, *arrays)
    parts = next(splitter.split_parts(X, y, groups))
    kept = [part for part, n in zip(parts, (1, n_valid, n_test), strict=True) if n]
    return [_take(array, part) for array in (X, y, *arrays) for part in kept]


def _is_fraction(n: Any) -> bool:
    return isinstance(n, (float, np.floating))


def _is_amount(n: Any) -> bool:
    """Whether it is a positive number of pictures, or a fraction of them."""
    if isinstance(n, bool) or not isinstance(n, (int, float, np.number)):
        return False
    return bool(n >= 1) if isinstance(n, (int, np.integer)) else bool(0 < n < 1)


def _is_zero(n: Any) -> bool:
    return isinstance(n, (int, float, np.number)) and not isinstance(n, bool) and bool(n == 0)


def _count(n: int | float, counts: Indices) -> Indices:
    """Pictures of each class that a number or a fraction stands for."""
    if 0 < n < 1:
        rounded: Indices = np.floor(n * counts + 0.5).astype(np.intp)
        return np.maximum(1, rounded)
    return np.full(len(counts), int(n), dtype=np.intp)


def _encode(name: str, values: Any) -> tuple[list[Any], Indices]:
    """Distinct values, and which of them each entry is."""
    if values is None:
        raise ParameterError(f"PerClassSplit needs {name}: one label a picture")
    values = np.asarray(values)
    if values.ndim != 1:
        raise ParameterError(f"{name} must be one-dimensional; got shape {values.shape}")
    if len(values) == 0:
        raise ParameterError(f"PerClassSplit needs pictures to split; got none, {name} is empty")
    codes, distinct = pd.factorize(values, sort=True)
    if codes.min() < 0:
        raise ParameterError(
            f"{name} must have a value for every picture; {int((codes < 0).sum())} of "
            f"{len(codes)} are missing"
        )
    return distinct.tolist(), codes


def _take(array: Any, indices: Indices) -> Any:
    if hasattr(array, "iloc"):
        return array.iloc[indices]
    if isinstance(array, (list, tuple)):
        return [array[i] for i in indices]
    return array[indices]
