"""What a classifier made of each picture, as a table."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.exceptions import NotFittedError

from sktl.exceptions import ImageFormatError, ParameterError
from sktl.images import ImageCollection
from sktl.inspection._pictures import known_labels, pictures_of
from sktl.utils._parameters import require_one_kind
from sktl.utils._sklearn import num_samples, safe_indexing

__all__ = [
    "CleanlabInputs",
    "check_probabilities",
    "cleanlab_inputs",
    "error_table",
    "error_table_from_predictions",
    "predict_probabilities",
    "ranks_of",
]


def error_table(estimator: Any, X: Any, y: Any, *, cv: Any = None) -> pd.DataFrame:
    """Tabulate truth, prediction, loss and rank of the truth, one row a picture.

    Parameters
    ----------
    estimator : classifier
        A fitted classifier of pictures with `predict_proba`; with `cv` it is cloned and need not
        be fitted.
    X : array-like of n_images pictures
        What the estimator takes.
    y : array-like of shape (n_images,)
        True labels.
    cv : int, splitter or iterable, default=None
        If given, each picture is predicted by a clone that has not seen it
        (:func:`sklearn.model_selection.cross_val_predict`).

    Returns
    -------
    table : DataFrame of n_images rows
        In the order of X; the index is the position in X. Its columns are

        - `path`: where the picture is; None for pictures in memory;
        - `truth`, `prediction`: labels;
        - `truth_probability`, `prediction_probability`: between 0 and 1;
        - `loss`: minus the natural logarithm of `truth_probability`, clipped as in
          :func:`sklearn.metrics.log_loss`, which is its mean;
        - `rank`: place of the truth among the classes by probability, 1 if it comes first;
        - `p_<label>`: probability of each class, whose labels are in ``table.attrs["classes"]``.

    Raises
    ------
    ParameterError
        If the estimator has no `predict_proba`, the lengths of X and y differ, labels are missing,
        or the folds of `cv` do not test every picture once.
    NotFittedError
        If the estimator is not fitted and there is no `cv`.

    Notes
    -----
    The prediction is the class of the highest probability, of equal ones the first. Some
    estimators predict otherwise, such as TunedThresholdClassifierCV. A truth that is not among
    the classes has probability 0 and comes last.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from sktl.inspection import error_table
    >>> X, y = load_digits(return_X_y=True)
    >>> table = error_table(GaussianNB(var_smoothing=0.01), X, y, cv=3)
    >>> table[["truth", "prediction", "rank"]].head(6)
       truth  prediction  rank
    0      0           0     1
    1      1           1     1
    2      2           8     4
    3      3           3     1
    4      4           4     1
    5      5           9     6
    """
    classes, probabilities = predict_probabilities(estimator, X, y, cv)
    try:
        images: Any = pictures_of(X, estimator)
    except (ImageFormatError, ParameterError):
        images = X  # such as features: what they are of is not known
    return error_table_from_predictions(images, y, probabilities, classes=classes)


def error_table_from_predictions(
    X: Any, y: Any, y_proba: npt.ArrayLike, *, classes: npt.ArrayLike | None = None
) -> pd.DataFrame:
    """Make the table of :func:`error_table` from probabilities, such as out-of-fold ones.

    Parameters
    ----------
    X : array-like of n_images pictures
        What was predicted; read for the paths alone.
    y : array-like of shape (n_images,)
        True labels.
    y_proba : array-like of shape (n_images, n_classes)
        Probabilities, as from ``cross_val_predict(..., method="predict_proba")``.
    classes : array-like of shape (n_classes,), default=None
        Label of each column of `y_proba`; by default the sorted labels of `y`, as
        `cross_val_predict` has them.

    Returns
    -------
    table : DataFrame of n_images rows
        As of :func:`error_table`.

    Raises
    ------
    ParameterError
        If the shapes or the types of labels do not belong together, labels are missing, or
        probabilities are not between 0 and 1.

    Examples
    --------
    >>> from sktl.inspection import error_table_from_predictions
    >>> table = error_table_from_predictions(["1.jpg", "2.jpg"], ["cat", "dog"],
    ...                                      [[0.9, 0.1], [0.8, 0.2]])
    >>> table[["path", "truth", "prediction", "loss", "rank"]].round(2)
        path truth prediction  loss  rank
    0  1.jpg   cat        cat  0.11     1
    1  2.jpg   dog        cat  1.61     2
    """
    y, probabilities, classes = check_probabilities(y, y_proba, classes)
    n = len(y)
    paths = _paths(X)
    if len(paths) != n:
        raise ParameterError(f"X must have one picture a label, {n}; got {len(paths)}")
    rows, best = np.arange(n), probabilities.argmax(axis=1)
    column = _columns_of(y, classes)
    known = column >= 0
    of_truth = np.where(known, probabilities[rows, column], 0.0)
    eps = np.finfo(probabilities.dtype).eps
    table = pd.DataFrame(
        {
            "path": pd.Series(paths, dtype=object),
            "truth": y,
            "prediction": classes[best],
            "truth_probability": of_truth,
            "prediction_probability": probabilities[rows, best],
            "loss": -np.log(np.clip(of_truth.astype(np.float64), eps, 1.0)),
            "rank": ranks_of(y, probabilities, classes),
        }
    )
    each = pd.DataFrame(probabilities, columns=[f"p_{label}" for label in classes])
    table = pd.concat([table, each], axis=1)
    table.attrs["classes"] = classes.tolist()
    return table


class CleanlabInputs(NamedTuple):
    """Labels and out-of-fold probabilities as cleanlab takes them.

    Attributes
    ----------
    labels : ndarray of shape (n_images,), dtype int64
        Given labels, as numbers of classes.
    pred_probs : ndarray of shape (n_images, n_classes), dtype float64
        Probabilities; column i is of class i.
    class_names : ndarray of shape (n_classes,)
        Label of each class, sorted.
    """

    labels: npt.NDArray[np.int64]
    pred_probs: npt.NDArray[np.float64]
    class_names: npt.NDArray[Any]


def cleanlab_inputs(table: pd.DataFrame) -> CleanlabInputs:
    """Give an error table as the arrays in which cleanlab looks for wrong labels.

    ``cleanlab.filter.find_label_issues(labels, pred_probs)`` takes the first two; the positions
    that it finds are rows of the table. Make the table with `cv` or from out-of-fold predictions:
    a model has learnt the wrong labels of the pictures that it was trained on.

    Parameters
    ----------
    table : DataFrame
        As of :func:`error_table`, or some of its rows.

    Returns
    -------
    inputs : CleanlabInputs
        A class that the model did not know, but that is a truth, has probability 0.

    Raises
    ------
    ParameterError
        If the table is not one of :func:`error_table`.

    References
    ----------
    C. Northcutt, L. Jiang, I. Chuang, "Confident Learning: Estimating Uncertainty in Dataset
    Labels", JAIR 70, 2021, arXiv:1911.00068.

    Examples
    --------
    >>> from sktl.inspection import cleanlab_inputs, error_table_from_predictions
    >>> table = error_table_from_predictions(["1.jpg", "2.jpg"], ["cat", "dog"],
    ...                                      [[0.9, 0.1], [0.8, 0.2]])
    >>> labels, pred_probs, class_names = cleanlab_inputs(table)
    >>> labels, class_names
    (array([0, 1]), array(['cat', 'dog'], dtype='<U3'))
    """
    known = table.attrs.get("classes")
    if known is None or any(f"p_{label}" not in table for label in known):
        raise ParameterError(
            "table must be one that error_table made, with its columns p_<label> and the labels in "
            'table.attrs["classes"], which some operations of pandas lose'
        )
    truth = np.array(table["truth"].tolist())
    classes = np.unique(np.concatenate([np.array(known), truth]))
    pred_probs = np.zeros((len(table), len(classes)))
    for label in known:
        pred_probs[:, np.searchsorted(classes, label)] = table[f"p_{label}"]
    return CleanlabInputs(np.searchsorted(classes, truth).astype(np.int64), pred_probs, classes)


def predict_probabilities(
    estimator: Any, X: Any, y: Any, cv: Any = None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Labels of the columns, and (n_images, n_classes) probabilities."""
    if not hasattr(estimator, "predict_proba"):
        raise ParameterError(
            f"estimator must have predict_proba, which {type(estimator).__name__} has not. "
            "sklearn.calibration.CalibratedClassifierCV gives it one"
        )
    labels = known_labels(y, num_samples(X))
    if cv is None:
        if not hasattr(estimator, "classes_"):
            raise NotFittedError(
                f"{type(estimator).__name__} has no classes_: call fit first, or pass cv="
            )
        classes = np.asarray(estimator.classes_)
        require_one_kind(y=labels, classes=classes)
        return classes, np.asarray(estimator.predict_proba(X))
    from sklearn.base import clone
    from sklearn.model_selection import check_cv
    from sklearn.utils import indexable

    from sktl.model_selection._out_of_fold import as_positions

    X, labels = indexable(X, labels)
    folds = list(check_cv(cv, labels, classifier=True).split(X, labels))
    tested = np.concatenate([as_positions(test) for _, test in folds])
    if not np.array_equal(np.sort(tested), np.arange(len(labels))):
        raise ParameterError("the folds of cv must test every picture once")
    said: list[tuple[Any, npt.NDArray[Any], npt.NDArray[np.intp]]] = []
    # Not by cross_val_predict, which trains on numbers instead of labels: class weights by label
    # and classes by name would mean others.
    for train, test in folds:
        fitted = clone(estimator).fit(safe_indexing(X, train), labels[train])
        found = fitted.predict_proba(safe_indexing(X, test))
        said.append((fitted.classes_, found, as_positions(test)))
    # Each estimator may know other classes, such as an ImageNetClassifier all of ImageNet's.
    classes = np.unique(np.concatenate([labels, *(known for known, _, _ in said)]))
    probabilities = np.zeros((len(labels), len(classes)))
    for known, found, rows in said:
        probabilities[np.ix_(rows, np.searchsorted(classes, known))] = found
    return classes, probabilities


def check_probabilities(
    y: Any, y_proba: npt.ArrayLike, classes: npt.ArrayLike | None
) -> tuple[npt.NDArray[Any], npt.NDArray[np.floating[Any]], npt.NDArray[Any]]:
    """Truth, probabilities and labels of the columns, which belong together."""
    probabilities = np.asarray(y_proba)
    if probabilities.dtype.kind != "f":
        probabilities = probabilities.astype(np.float64)
    y = known_labels(y, len(probabilities))
    known = np.unique(y) if classes is None else np.asarray(classes)
    if probabilities.shape != (len(y), len(known)):
        raise ParameterError(
            f"y_proba must have a row a picture and a column a class, ({len(y)}, {len(known)}); "
            f"got {probabilities.shape}. If y lacks some of the classes, pass classes="
        )
    if len(set(known.tolist())) < len(known):
        raise ParameterError(f"classes must differ; got {known.tolist()}")
    require_one_kind(y=y, classes=known)
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all():
        raise ParameterError("y_proba must be probabilities between 0 and 1, without NaN")
    return y, probabilities, known


def ranks_of(
    y: npt.NDArray[Any], scores: npt.NDArray[Any], classes: npt.NDArray[Any]
) -> npt.NDArray[np.int64]:
    """Place of the truth, from 1; one behind the last where it is not among the classes."""
    column = _columns_of(y, classes)
    own = scores[np.arange(len(y)), column][:, None]
    is_earlier = np.arange(len(classes)) < column[:, None]
    before = (scores > own) | ((scores == own) & is_earlier)
    ranks: npt.NDArray[np.int64] = np.where(column < 0, len(classes), before.sum(axis=1)) + 1
    return ranks


def _columns_of(y: npt.NDArray[Any], classes: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Position of each label among the classes; -1 where it is not there."""
    known: Any = pd.Index(classes.tolist())
    columns: npt.NDArray[np.intp] = known.get_indexer(pd.Index(y.tolist()))
    return columns


def _paths(X: Any) -> list[str | None]:
    items = X if isinstance(X, (ImageCollection, np.ndarray)) else list(_column(X))
    if isinstance(items, ImageCollection) and items.kind in ("arrays", "ragged arrays"):
        return [None] * len(items)
    return [os.fspath(i) if isinstance(i, (str, os.PathLike)) else None for i in items]


def _column(X: Any) -> Any:
    """The only column of a table, or its rows."""
    if not hasattr(X, "iloc"):
        return X
    values = X.to_numpy()
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
