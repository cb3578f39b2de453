"""Classes of labelled pictures, their weights, and a training and a validation part."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.model_selection import train_test_split
from sklearn.utils import check_consistent_length, check_random_state, compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from sktl.exceptions import ParameterError
from sktl.training._settings import Labelled
from sktl.utils._parameters import require_labels, shown
from sktl.utils._sklearn import check_class_weight, check_sample_weight

__all__ = ["classes_of", "groups_of", "of_one_type", "sample_weights", "split"]


def classes_of(
    y: Any, n_images: int, known: npt.NDArray[Any] | None, owner: str, called: str = "y"
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Classes, and the number of that of each picture.

    Parameters
    ----------
    y : array-like of shape (n_images,)
        Labels of any type.
    n_images : int
    known : ndarray of shape (n_classes,) or None
        The classes, if they are not those of `y`.
    owner : str
        Name of the estimator, for errors.
    called : str, default="y"
        What `y` is, for errors.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        Sorted.
    numbers : ndarray of shape (n_images,), int64
    """
    if y is None:
        raise ValueError(f"{owner} requires y to be passed, but the target y is None")
    y = of_one_type(column_or_1d(_whole(y), warn=True), owner)
    check_consistent_length(np.empty((n_images, 0)), y)
    check_classification_targets(y)
    classes: npt.NDArray[Any] = np.unique(y) if known is None else known
    if known is None and len(classes) < 2:
        raise ValueError(
            f"{owner} needs at least 2 classes; y has one class, {classes.tolist()[0]!r}"
        )
    unknown = sorted(set(np.unique(y).tolist()) - set(classes.tolist()), key=str)
    if unknown:
        raise ValueError(f"{called} has labels that are not among the classes: {unknown}")
    return classes, np.searchsorted(classes, y).astype(np.int64)


def _whole(y: Any) -> Any:
    """Labels in pandas' own types as what they are; NumPy would make floats of some."""
    if isinstance(y, pd.DataFrame) and y.shape[1] == 1:
        y = y.iloc[:, 0]
    if isinstance(getattr(y, "dtype", None), pd.CategoricalDtype) and not pd.isna(y).any():
        y = y.astype((y if isinstance(y, pd.Categorical) else y.cat).categories.dtype)
    dtype = getattr(y, "dtype", None)
    if not isinstance(dtype, pd.api.extensions.ExtensionDtype):
        return y
    return np.asarray(y, dtype=None if dtype.kind in "fM" else object)


def of_one_type(y: npt.NDArray[Any], owner: str) -> npt.NDArray[Any]:
    """Labels in an array of their type, if all of them are there and can be sorted."""
    require_labels(y, f"{owner}: y")
    if y.dtype != object:
        return y
    types = {type(label) for label in y}
    plain = types in ({bool}, {int}, {float}) or all(issubclass(kind, np.generic) for kind in types)
    if plain:
        return np.array(y.tolist())
    if all(issubclass(kind, str) for kind in types):
        return np.array([str.__str__(label) for label in y], dtype=object)
    names = sorted(kind.__name__ for kind in types)
    raise ParameterError(
        f"{owner}: y must hold strings, numbers or truth values, of one type; got {names}. "
        "Pass their names, as strings"
    )


_NO_WEIGHT = "sample_weight and class_weight leave no picture a weight above 0"


def sample_weights(
    labels: npt.NDArray[np.int64],
    classes: npt.NDArray[Any],
    class_weight: Any,
    sample_weight: Any,
) -> npt.NDArray[np.float64] | None:
    """Product of the weights of samples and classes; None if there are neither.

    Parameters
    ----------
    labels : ndarray of shape (n,)
        Numbers of the classes.
    classes : ndarray of shape (n_classes,)
    class_weight : dict, "balanced" or None
    sample_weight : array-like of shape (n,) or None

    Returns
    -------
    weights : ndarray of shape (n,), or None
    """
    if class_weight is None and sample_weight is None:
        return None
    weights = np.ones(len(labels))
    if sample_weight is not None:
        weights = weights * check_sample_weight(sample_weight, labels, ensure_non_negative=True)
    if isinstance(class_weight, Mapping):
        check_class_weight(class_weight)
        unknown = [name for name in class_weight if name not in set(classes.tolist())]
        if unknown:
            raise ValueError(f"class_weight has keys that are not among the classes: {unknown}")
        by_class = np.array([class_weight.get(name, 1.0) for name in classes.tolist()])
        weights = weights * by_class[labels]
    elif class_weight is not None:
        if not (isinstance(class_weight, str) and class_weight == "balanced"):
            raise ParameterError(
                f'class_weight must be a dict, "balanced" or None; got {class_weight!r}'
            )
        by_class = np.ones(len(classes))
        seen = np.unique(labels)
        by_class[seen] = compute_class_weight(
            class_weight, classes=classes[seen], y=classes[labels]
        )
        weights = weights * by_class[labels]
    if not weights.any():
        raise ValueError(_NO_WEIGHT)
    return weights


def weighted(part: Labelled) -> Labelled:
    """The pictures to learn from, with weights that are 1 on average."""
    if part.weights is None:
        return part
    if not part.weights.any():
        raise ValueError(_NO_WEIGHT)
    largest = part.weights / part.weights.max()  # whose sum is a number
    return replace(part, weights=(largest / largest.mean()).astype(np.float32))


def split(
    everything: Labelled, validation: Any, random_state: Any, groups: Any = None
) -> tuple[Labelled, Labelled]:
    """Training and validation part.

    Parameters
    ----------
    everything : Labelled
    validation : float or splitter
        A share, stratified where there are enough pictures to keep back, or a share of the groups,
        of each class in turn; each class keeps one picture to learn from. Or a splitter, whose
        first split is taken.
    random_state : int, RandomState instance or None
        Of the share.
    groups : ndarray of shape (n_images,), default=None
        Numbers of the groups that pictures belong to.

    Returns
    -------
    train, valid : Labelled
        Both in the order of `everything`.
    """
    images, labels, weights = everything.images, everything.labels, everything.weights
    if isinstance(validation, numbers.Real):
        seed = check_random_state(random_state).randint(2**31)
        valid = (
            _share_of_pictures(labels, float(validation), seed)
            if groups is None
            else _share_of_groups(labels, groups, float(validation), seed)
        )
        train = np.setdiff1d(np.arange(len(labels)), valid)
    else:
        train, valid = _first_split(validation, labels, groups)
        unseen = np.setdiff1d(labels, labels[train])
        if len(unseen):
            raise ParameterError(
                f"the first split of validation={shown(validation)} leaves {len(unseen)} of "
                f"{len(np.unique(labels))} classes no picture to learn from; pass another "
                "splitter, or a share such as 0.2, which leaves each class one"
            )
    train, valid = np.sort(train), np.sort(valid)
    return (
        Labelled(
            images[train],
            labels[train],
            None if weights is None else weights[train],
            positions=train,
            n_all=len(labels),
        ),
        Labelled(images[valid], labels[valid], positions=valid, n_all=len(labels)),
    )


def _first_split(
    validation: Any, labels: npt.NDArray[np.int64], groups: Any
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Positions of both parts, which some splitters give as masks."""
    everything = np.arange(len(labels))
    parts: Any = next(iter(validation.split(everything, labels, groups)), ((), ()))
    # An empty list would be one of floats.
    train, valid = (everything[np.asarray(part, None if len(part) else int)] for part in parts)
    if not (len(train) and len(valid)):
        raise ParameterError(
            f"validation={shown(validation)} gives no split with pictures in both parts; pass "
            "another splitter, or a share such as 0.2"
        )
    common = np.intersect1d(train, valid)
    if len(common):
        raise ParameterError(
            f"the first split of validation={shown(validation)} has {len(common)} pictures in both "
            f"parts, the first at position {common[0]}; what was learnt from tells nothing new"
        )
    return train, valid


def groups_of(groups: Any, n_images: int) -> npt.NDArray[np.intp] | None:
    """Numbers of the groups, if there are any."""
    if groups is None:
        return None
    groups = column_or_1d(_whole(groups))
    check_consistent_length(np.empty((n_images, 0)), groups)
    codes, _ = pd.factorize(groups)
    if (codes < 0).any():
        raise ParameterError(
            f"groups must give each picture a group; that at position {codes.argmin()} has none"
        )
    return np.asarray(codes, np.intp)


def _share_of_pictures(
    labels: npt.NDArray[np.int64], share: float, seed: int
) -> npt.NDArray[np.intp]:
    n_valid = max(1, round(share * len(labels)))
    if n_valid >= len(labels):
        raise ParameterError(
            f"validation={share!r} of {len(labels)} pictures leaves none to learn from"
        )
    counts = np.bincount(labels)
    free = np.flatnonzero(counts[labels] > 1)  # a class's only picture is there to learn from
    fits = np.count_nonzero(counts > 1) <= min(n_valid, len(free) - n_valid)
    valid = free
    if len(free):
        _, valid = train_test_split(
            free,
            test_size=min(n_valid, len(free) - 1),
            stratify=labels[free] if fits else None,
            random_state=seed,
        )
    gone = np.setdiff1d(labels, np.delete(labels, valid))
    valid = np.setdiff1d(valid, [valid[labels[valid] == label][0] for label in gone])
    if not len(valid):
        raise ParameterError(
            f"validation={share!r} of {len(labels)} pictures leaves one of the "
            f"{np.count_nonzero(counts)} classes none to learn from; pass validation=None"
        )
    return valid


def _share_of_groups(
    labels: npt.NDArray[np.int64], groups: npt.NDArray[np.intp], share: float, seed: int
) -> npt.NDArray[np.intp]:
    table = pd.crosstab(groups, labels).to_numpy()  # pictures of each group and class
    order = np.random.RandomState(seed).permutation(len(table))
    table = table[order]
    totals, kept_back = table.sum(axis=0), np.zeros(table.shape[1], int)
    is_chosen = np.zeros(len(table), dtype=bool)
    for _ in range(max(1, round(share * len(table)))):
        # A group that has the last pictures of a class is there to learn from.
        left = totals - kept_back
        may_go = ~is_chosen & ((table == 0) | (table < left)).all(axis=1)
        if not may_go.any():
            break
        # One of the class that fewest are kept back of, as far as there is one.
        fitting = may_go[:, None] & (table > 0)
        possible = np.flatnonzero(fitting.any(axis=0))
        rarest = possible[np.argmin(kept_back[possible] / totals[possible])]
        chosen = int(fitting[:, rarest].argmax())
        is_chosen[chosen] = True
        kept_back += table[chosen]
    if not is_chosen.any():
        raise ParameterError(
            f"validation={share!r} of {len(table)} groups: each has all pictures of some class; "
            "pass validation=None or a pair of pictures and labels"
        )
    return np.flatnonzero(np.isin(groups, order[is_chosen]))
