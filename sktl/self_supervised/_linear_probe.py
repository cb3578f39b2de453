"""A classifier of features that were learnt from labelled and unlabelled pictures."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_consistent_length, get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from sktl.exceptions import ParameterError
from sktl.images import ImageCollection, as_images
from sktl.linear_model import LogisticProbe
from sktl.self_supervised._cpc_features import CPCFeatures

__all__ = ["LinearProbe"]


def _classifier_has(method: str) -> Any:
    def has(self: LinearProbe) -> bool:
        fitted = getattr(self, "classifier_", None)
        unfitted = LogisticProbe() if self.classifier is None else self.classifier
        getattr(unfitted if fitted is None else fitted, method)
        return True

    return has


class LinearProbe(ClassifierMixin, BaseEstimator):
    """A classifier on top of features that are learnt from all pictures, labelled or not.

    Rows whose label is -1, or None, are unlabelled, as elsewhere in scikit-learn: the encoder
    learns from all rows, the classifier from the labelled ones.

    Parameters
    ----------
    encoder : transformer, default=None
        Pictures to features; by default ``CPCFeatures()``.
    classifier : classifier, default=None
        Of the features; by default standardising, then ``LogisticProbe(C=0.1)``.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels of the classes, sorted.
    encoder_ : transformer
        The fitted encoder.
    classifier_ : classifier
        The fitted classifier.
    n_features_in_ : int
        Number of columns. Only defined when the encoder's is.
    feature_names_in_ : ndarray of str
        Names of the columns. Only defined when the encoder's are.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sktl import CPCFeatures, LinearProbe
    >>> X, y = load_digits(return_X_y=True)
    >>> y = np.where(np.arange(len(y)) < 200, y, -1)  # the others are unlabelled
    >>> cpc = CPCFeatures(image_shape=(8, 8), image_size=16, epochs=1, random_state=0)
    >>> LinearProbe(cpc).fit(X[:400], y[:400]).predict(X[:3])
    array([0, 1, 2])
    """

    def __init__(self, encoder: Any = None, classifier: Any = None) -> None:
        self.encoder = encoder
        self.classifier = classifier

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the encoder to all pictures, and the classifier to the labelled ones.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that the encoder takes.
        y : array-like of shape (n_images,)
            Labels; -1 or None where there is none.

        Returns
        -------
        self : LinearProbe
        """
        if y is None:
            raise ValueError(
                "LinearProbe requires y to be passed, but the target y is None; the label of a "
                "single picture may be"
            )
        check_consistent_length(X, y)
        labels = _as_labels(y)
        labelled = _labelled(labels)
        if not labelled.any():
            raise ValueError("y has no labels: all of it is -1 or None")
        if labelled.all() and any(isinstance(label, str) and label == "-1" for label in labels):
            raise ValueError(
                'y has the string "-1": if it is that of pictures without a label, put None in its '
                "place, in a list or an array of objects; if it is a class, give that another name"
            )
        listed = labels[labelled].tolist()
        if len({isinstance(label, str) for label in listed}) > 1:
            raise ParameterError("LinearProbe: y must hold strings or numbers; it has both")
        known = np.array(listed)
        check_classification_targets(known)
        if self.classifier is None and len(np.unique(known)) < 2:
            raise ValueError(
                f"LinearProbe needs labels of at least 2 classes; y has {known.tolist()[0]!r} alone"
            )
        default = make_pipeline(StandardScaler(), LogisticProbe(C=0.1))
        classifier = clone(default if self.classifier is None else self.classifier)
        self.encoder_ = clone(CPCFeatures() if self.encoder is None else self.encoder).fit(X, None)
        some = X if labelled.all() else _rows(X, np.flatnonzero(labelled))
        self.classifier_ = classifier.fit(self.encoder_.transform(some), known)
        self.classes_ = self.classifier_.classes_
        return self

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Label of each picture.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that the encoder takes.

        Returns
        -------
        labels : ndarray of shape (n_images,)
        """
        labels: npt.NDArray[Any] = self.classifier_.predict(self._features(X))
        return labels

    @available_if(_classifier_has("predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> npt.NDArray[Any]:
        """Probability of each class.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that the encoder takes.

        Returns
        -------
        probabilities : ndarray of shape (n_images, n_classes)
        """
        probabilities: npt.NDArray[Any] = self.classifier_.predict_proba(self._features(X))
        return probabilities

    @available_if(_classifier_has("decision_function"))  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> npt.NDArray[Any]:
        """Confidence in each class.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that the encoder takes.

        Returns
        -------
        scores : ndarray of shape (n_images,) or (n_images, n_classes)
        """
        scores: npt.NDArray[Any] = self.classifier_.decision_function(self._features(X))
        return scores

    @property
    def n_features_in_(self) -> int:
        """Number of columns."""
        return int(self._fitted_encoder("n_features_in_").n_features_in_)

    @property
    def feature_names_in_(self) -> npt.NDArray[Any]:
        """Names of the columns."""
        names: npt.NDArray[Any] = self._fitted_encoder("feature_names_in_").feature_names_in_
        return names

    def _fitted_encoder(self, attribute: str) -> Any:
        encoder = getattr(self, "encoder_", None)
        if encoder is None:
            raise AttributeError(f"{type(self).__name__} is not fitted; it has no {attribute}")
        return encoder

    def _features(self, X: Any) -> Any:
        check_is_fitted(self, "encoder_")
        return self.encoder_.transform(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        encoder = CPCFeatures() if self.encoder is None else self.encoder
        tags.input_tags = get_tags(encoder).input_tags
        return tags


def _as_labels(y: Any) -> npt.NDArray[Any]:
    """Numbers as they are; everything else as objects, so that -1 and None stay what they are."""
    labels: npt.NDArray[Any] = column_or_1d(np.asarray(y), warn=True)
    if labels.dtype.kind in "iufb":
        return labels
    objects: npt.NDArray[Any] = column_or_1d(np.asarray(y, dtype=object))
    return objects


def _labelled(labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    known = ~pd.isna(labels)
    known[known] = labels[known] != -1
    return np.asarray(known)


def _rows(X: Any, positions: npt.NDArray[np.intp]) -> Any:
    """Some rows of whatever holds pictures."""
    if hasattr(X, "iloc"):
        return X.iloc[positions]
    if isinstance(X, (list, tuple)):
        return [X[i] for i in positions.tolist()]
    if hasattr(X, "shape") or isinstance(X, ImageCollection):
        return X[positions]
    return as_images(X)[positions]
