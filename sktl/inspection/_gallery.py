"""Pictures in a grid, and those that were misclassified."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from sktl.datasets._captions import letters_across, shorten
from sktl.exceptions import ParameterError
from sktl.images import ImageCollection
from sktl.inspection._confused_pairs import confused_pairs
from sktl.inspection._error_table import (
    error_table_from_predictions,
    predict_probabilities,
)
from sktl.inspection._grid import make_axes, percent, show
from sktl.inspection._pictures import check_count, labels_of, pictures_of, rows_of, thumbnail

__all__ = ["ConfusedPairsDisplay", "ErrorGalleryDisplay", "ImageGridDisplay"]

_TITLE_SIZE = 9  # of a gallery, where a line of it has room for so many letters:
_FEWEST_LETTERS = 12


class ImageGridDisplay:
    """Some pictures, with their labels.

    Parameters
    ----------
    images : ImageCollection
        The pictures.
    titles : list of str
        What stands above each of them.
    by_row : bool, default=False
        Whether equal titles are a row, with the title on its left.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktl import as_images
    >>> from sktl.inspection import ImageGridDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> images = as_images(X, image_shape=(8, 8))
    >>> ImageGridDisplay.from_images(images, y, n_per_class=6).axes_.shape
    (10, 6)
    """

    def __init__(self, images: ImageCollection, titles: list[str], *, by_row: bool = False) -> None:
        self.images = images
        self.titles = titles
        self.by_row = by_row

    @classmethod
    def from_images(
        cls,
        X: Any,
        y: Any = None,
        *,
        n_images: int = 20,
        n_per_class: int | None = None,
        random_state: int | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw some of the pictures.

        Parameters
        ----------
        X : array-like of n pictures
            Anything that :func:`sktl.images.as_images` takes.
        y : array-like of shape (n,), default=None
            Labels.
        n_images : int, default=20
            How many are drawn.
        n_per_class : int, default=None
            If given, a row a class with this many of its pictures, instead of `n_images`.
        random_state : int, default=None
            Seed of a random choice. None takes the first ones.
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.

        Returns
        -------
        display : ImageGridDisplay
        """
        images = pictures_of(X)
        n_images = check_count("n_images", n_images)
        order = np.arange(len(images))
        if random_state is not None:
            order = np.random.default_rng(random_state).permutation(order)
        if y is None:
            if n_per_class is not None:
                raise ParameterError("n_per_class needs y, the labels of the pictures")
            return cls(images[order[:n_images]], [""] * min(n_images, len(images))).plot(ax)
        labels = labels_of(y, len(images))
        if n_per_class is not None:
            n_per_class = check_count("n_per_class", n_per_class)
            of_class = [order[labels[order] == label][:n_per_class] for label in np.unique(labels)]
            order, n_images = np.concatenate(of_class), len(labels)
        chosen = order[:n_images]
        titles = [str(label) for label in labels[chosen]]
        return cls(images[chosen], titles, by_row=n_per_class is not None).plot(ax)

    def plot(self, ax: Any = None, *, n_columns: int = 5) -> Self:
        """Draw the pictures.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.
        n_columns : int, default=5
            Pictures in a row; it does not matter where rows are classes.

        Returns
        -------
        self : ImageGridDisplay
        """
        n_columns = check_count("n_columns", n_columns)
        positions = np.arange(len(self.images))
        if len(self.titles) != len(positions):
            raise ParameterError(
                f"titles must be one for each of the {len(positions)} pictures; got "
                f"{len(self.titles)}"
            )
        titles = np.array(self.titles)
        rows = [positions[i : i + n_columns] for i in range(0, len(positions), n_columns)]
        if self.by_row:
            rows = [positions[titles == title] for title in dict.fromkeys(self.titles)]
        self.figure_, self.axes_ = make_axes(
            len(rows),
            max(map(len, rows)),
            (1.5, 1.5) if self.by_row else (1.9, 2.0),
            ax,
            "ImageGridDisplay.plot",
        )
        for axes, row in zip(self.axes_, rows, strict=True):
            for cell, i in zip(axes, [*row, *[None] * (len(axes) - len(row))], strict=True):
                title = "" if i is None or self.by_row else shorten(self.titles[i], 24)
                picture = None if i is None else thumbnail(self.images, i)
                show(cell, picture, title, centred=self.by_row)
            if self.by_row:
                _row_label(axes[0], shorten(self.titles[row[0]], 18))
        return self


class ErrorGalleryDisplay:
    """The misclassified pictures, the largest loss first.

    Each has its truth and the prediction above it, both with their probability.

    Parameters
    ----------
    table : DataFrame
        As of :func:`error_table`, whose index is the position in `images`.
    images : ImageCollection
        All pictures.

    Attributes
    ----------
    errors : DataFrame
        The rows that are wrong, the largest loss first.
    axes_ : ndarray of matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import cross_val_predict
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from sktl import as_images
    >>> from sktl.inspection import ErrorGalleryDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> proba = cross_val_predict(GaussianNB(), X, y, cv=3, method="predict_proba")
    >>> images = as_images(X, image_shape=(8, 8))
    >>> gallery = ErrorGalleryDisplay.from_predictions(images, y, proba, n_images=10)
    >>> gallery.axes_.shape
    (2, 5)
    """

    def __init__(self, table: pd.DataFrame, images: ImageCollection) -> None:
        self.table = table
        self.images = images

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        cv: Any = None,
        n_images: int = 20,
        ax: Any = None,
    ) -> Self:
        """Predict pictures and draw the misclassified ones.

        Parameters
        ----------
        estimator : classifier
            As of :func:`error_table`.
        X : array-like of n pictures
            What the estimator takes.
        y : array-like of shape (n,)
            True labels.
        cv : int, splitter or iterable, default=None
            As of :func:`error_table`.
        n_images : int, default=20
            How many are drawn at most.
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.

        Returns
        -------
        display : ErrorGalleryDisplay
        """
        images = pictures_of(X, estimator)
        classes, probabilities = predict_probabilities(estimator, X, y, cv)
        return cls.from_predictions(
            images, y, probabilities, classes=classes, n_images=n_images, ax=ax
        )

    @classmethod
    def from_predictions(
        cls,
        X: Any,
        y: Any,
        y_proba: npt.ArrayLike,
        *,
        classes: npt.ArrayLike | None = None,
        n_images: int = 20,
        ax: Any = None,
    ) -> Self:
        """Draw the misclassified pictures, given their probabilities.

        Parameters
        ----------
        X : array-like of n pictures
            Anything that :func:`sktl.images.as_images` takes.
        y : array-like of shape (n,)
            True labels.
        y_proba : array-like of shape (n, n_classes)
            Probabilities.
        classes : array-like of shape (n_classes,), default=None
            Label of each column of `y_proba`; by default the sorted labels of `y`.
        n_images : int, default=20
            How many are drawn at most.
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.

        Returns
        -------
        display : ErrorGalleryDisplay
        """
        images = pictures_of(X)
        table = error_table_from_predictions(images, y, y_proba, classes=classes)
        return cls(table, images).plot(ax, n_images=n_images)

    @property
    def errors(self) -> pd.DataFrame:
        """The rows that are wrong, the largest loss first."""
        return _errors(self.table)

    def plot(self, ax: Any = None, *, n_images: int = 20, n_columns: int = 5) -> Self:
        """Draw the misclassified pictures.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.
        n_images : int, default=20
            How many are drawn at most.
        n_columns : int, default=5
            Pictures in a row.

        Returns
        -------
        self : ErrorGalleryDisplay
        """
        n_images, n_columns = check_count("n_images", n_images), check_count("n_columns", n_columns)
        errors = self.errors
        shown = errors.head(n_images)
        n_rows = max(1, -(-len(shown) // n_columns))
        self.figure_, self.axes_ = make_axes(
            n_rows, n_columns, (2.0, 2.45), ax, "ErrorGalleryDisplay.plot"
        )
        for cell in self.axes_.flat:
            show(cell, None)
        width = letters_across(self.axes_[0, 0], _TITLE_SIZE)
        size = _TITLE_SIZE * min(1, width / _FEWEST_LETTERS)
        for cell, row in zip(self.axes_.flat, rows_of(shown), strict=False):
            title = _verdict(row, max(width, _FEWEST_LETTERS))
            show(cell, thumbnail(self.images, row.Index), title, fontsize=size)
        if ax is None:
            counted = f"{len(errors)} of {len(self.table)} pictures misclassified"
            more = ", the largest loss first" if len(errors) > 1 else ""
            self.figure_.suptitle(counted + more, fontsize=11)
        return self


class ConfusedPairsDisplay:
    """The pairs of classes that are confused most often, with pictures.

    A row is a pair: some pictures of one class that were taken for the other, the largest loss
    first, and a picture of that other class for comparison.

    Parameters
    ----------
    table : DataFrame
        As of :func:`error_table`, whose index is the position in `images`.
    images : ImageCollection
        All pictures.

    Attributes
    ----------
    pairs : DataFrame
        As of :func:`confused_pairs`.
    axes_ : ndarray of matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import cross_val_predict
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from sktl import as_images
    >>> from sktl.inspection import ConfusedPairsDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> proba = cross_val_predict(GaussianNB(), X, y, cv=3, method="predict_proba")
    >>> images = as_images(X, image_shape=(8, 8))
    >>> display = ConfusedPairsDisplay.from_predictions(images, y, proba, n_pairs=3)
    >>> display.axes_.shape
    (3, 5)
    """

    def __init__(self, table: pd.DataFrame, images: ImageCollection) -> None:
        self.table = table
        self.images = images

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        cv: Any = None,
        n_pairs: int = 5,
        ax: Any = None,
    ) -> Self:
        """Predict pictures and draw the confused pairs.

        Parameters
        ----------
        estimator : classifier
            As of :func:`error_table`.
        X : array-like of n pictures
            What the estimator takes.
        y : array-like of shape (n,)
            True labels.
        cv : int, splitter or iterable, default=None
            As of :func:`error_table`.
        n_pairs : int, default=5
            How many pairs are drawn at most.
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.

        Returns
        -------
        display : ConfusedPairsDisplay
        """
        images = pictures_of(X, estimator)
        classes, probabilities = predict_probabilities(estimator, X, y, cv)
        return cls.from_predictions(
            images, y, probabilities, classes=classes, n_pairs=n_pairs, ax=ax
        )

    @classmethod
    def from_predictions(
        cls,
        X: Any,
        y: Any,
        y_proba: npt.ArrayLike,
        *,
        classes: npt.ArrayLike | None = None,
        n_pairs: int = 5,
        ax: Any = None,
    ) -> Self:
        """Draw the confused pairs, given the probabilities.

        Parameters
        ----------
        X : array-like of n pictures
            Anything that :func:`sktl.images.as_images` takes.
        y : array-like of shape (n,)
            True labels.
        y_proba : array-like of shape (n, n_classes)
            Probabilities.
        classes : array-like of shape (n_classes,), default=None
            Label of each column of `y_proba`; by default the sorted labels of `y`.
        n_pairs : int, default=5
            How many pairs are drawn at most.
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.

        Returns
        -------
        display : ConfusedPairsDisplay
        """
        images = pictures_of(X)
        table = error_table_from_predictions(images, y, y_proba, classes=classes)
        return cls(table, images).plot(ax, n_pairs=n_pairs)

    @property
    def pairs(self) -> pd.DataFrame:
        """All pairs that occur, the most frequent first."""
        return confused_pairs(self.table["truth"], self.table["prediction"])

    def plot(self, ax: Any = None, *, n_pairs: int = 5, n_columns: int = 4) -> Self:
        """Draw the pairs.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.
        n_pairs : int, default=5
            How many pairs are drawn at most.
        n_columns : int, default=4
            Misclassified pictures in a row.

        Returns
        -------
        self : ConfusedPairsDisplay
        """
        n_pairs, n_columns = check_count("n_pairs", n_pairs), check_count("n_columns", n_columns)
        pairs, errors = self.pairs.head(n_pairs), _errors(self.table)
        right = self.table[self.table["rank"] == 1].sort_values("loss", kind="stable")
        self.figure_, self.axes_ = make_axes(
            max(1, len(pairs)), n_columns + 1, (1.7, 1.85), ax, "ConfusedPairsDisplay.plot"
        )
        for cell in self.axes_.flat:
            show(cell, None)
        for axes, pair in zip(self.axes_, rows_of(pairs), strict=False):
            is_pair = (errors["truth"] == pair.truth) & (errors["prediction"] == pair.prediction)
            wrong = errors[is_pair].head(n_columns)
            for cell, row in zip(axes, rows_of(wrong), strict=False):
                sure = f"p = {percent(row.prediction_probability)}"
                show(cell, thumbnail(self.images, row.Index), sure, fontsize=8)
            example = right.index[right["truth"] == pair.prediction]
            if len(example):
                title = f"{shorten(pair.prediction, 14)}, right"
                show(axes[-1], thumbnail(self.images, example[0]), title, fontsize=8)
            truth, other = shorten(pair.truth, 18), shorten(pair.prediction, 18)
            counted = f"{pair.count} ({percent(pair.share)})"
            _row_label(axes[0], f"{truth}\n→ {other}\n{counted}")
            axes[0].yaxis.set_label_coords(-0.05, 0.66)
        if ax is None:
            title = "Truth → prediction: number of pictures, and share of the true class"
            self.figure_.suptitle(title if len(pairs) else "No picture is misclassified", size=11)
        return self


def _errors(table: pd.DataFrame) -> pd.DataFrame:
    wrong = table[table["truth"] != table["prediction"]]
    return wrong.sort_values("loss", ascending=False, kind="stable")


def _verdict(row: Any, width: int) -> str:
    """Truth and prediction with their probabilities, in two lines of at most `width` letters."""
    truth, other = (
        f" ({percent(share)})" for share in (row.truth_probability, row.prediction_probability)
    )
    return (
        f"{shorten(row.truth, width - len(truth))}{truth}\n"
        f"→ {shorten(row.prediction, width - 2 - len(other))}{other}"
    )


def _row_label(ax: Any, text: str) -> None:
    ax.set_ylabel(text, rotation=0, ha="right", va="center", ma="right", fontsize=9)
