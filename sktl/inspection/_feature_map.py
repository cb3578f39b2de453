"""Features of pictures in the plane."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import is_classifier

from sktl.datasets._captions import shorten
from sktl.exceptions import ParameterError
from sktl.images import ImageCollection
from sktl.inspection._grid import single_axes
from sktl.inspection._pictures import labels_of, pictures_of, thumbnail
from sktl.utils._optional import import_optional
from sktl.utils._parameters import ParameterChecks

__all__ = ["FeatureMapDisplay"]

Method = Literal["pca", "tsne", "umap"]
_METHODS: tuple[Method, ...] = ("pca", "tsne", "umap")
# So many colours can be told apart; beyond that classes are named in their midst.
_COLOURS = 10


class FeatureMapDisplay:
    """Pictures as points in the plane, near to each other where their features are alike.

    Parameters
    ----------
    points : ndarray of shape (n_images, 2)
        Where they are.
    y : ndarray of shape (n_images,), default=None
        Labels.
    axis_names : tuple of 2 str, default=("", "")
        What the axes are; "" for no meaning.
    images : ImageCollection, default=None
        The pictures, if they are known.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktl.inspection import FeatureMapDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> FeatureMapDisplay.from_features(X, y).axis_names
    ('PC 1 (14.9 % of the variance)', 'PC 2 (13.6 % of the variance)')
    """

    def __init__(
        self,
        points: npt.NDArray[Any],
        y: npt.NDArray[Any] | None = None,
        axis_names: tuple[str, str] = ("", ""),
        images: ImageCollection | None = None,
    ) -> None:
        self.points = points
        self.y = y
        self.axis_names = axis_names
        self.images = images

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        method: Method = "pca",
        random_state: int = 0,
        ax: Any = None,
    ) -> Self:
        """Compute features of pictures and draw their map.

        Parameters
        ----------
        estimator : transformer, Pipeline or CNNClassifier
            Fitted. Of a pipeline that ends with a classifier, its transformers; of a
            CNNClassifier, the input of its head.
        X : array-like of n_images pictures
            What the estimator takes.
        y : array-like of shape (n_images,), default=None
            Labels, for the colours.
        method : {"pca", "tsne", "umap"}, default="pca"
            As of :meth:`from_features`.
        random_state : int, default=0
            Seed of t-SNE and UMAP.
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        display : FeatureMapDisplay
        """
        _check_method(method)
        images = pictures_of(X, estimator)
        points, names = _project(_features(estimator, X, images), method, random_state)
        labels = None if y is None else labels_of(y, len(images))
        return cls(points, labels, names, images).plot(ax)

    @classmethod
    def from_features(
        cls,
        features: npt.ArrayLike,
        y: Any = None,
        *,
        method: Method = "pca",
        random_state: int = 0,
        ax: Any = None,
    ) -> Self:
        """Draw the map of features.

        Parameters
        ----------
        features : array-like of shape (n_images, n_features)
            As from :class:`sktl.CNNFeatures`.
        y : array-like of shape (n_images,), default=None
            Labels, for the colours.
        method : {"pca", "tsne", "umap"}, default="pca"
            The first two principal components, whose distances can be read; t-SNE, or UMAP of
            the package umap-learn, which show who the neighbours are.
        random_state : int, default=0
            Seed of t-SNE and UMAP.
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        display : FeatureMapDisplay
        """
        _check_method(method)
        points, names = _project(np.asarray(features), method, random_state)
        return cls(points, None if y is None else labels_of(y, len(points)), names).plot(ax)

    def plot(self, ax: Any = None, *, thumbnails: bool = False) -> Self:
        """Draw the map.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.
        thumbnails : bool, default=False
            Whether to draw the pictures instead of points, framed in the colour of the class;
            where many would overlap, some stay points.

        Returns
        -------
        self : FeatureMapDisplay
        """
        if thumbnails and self.images is None:
            raise ParameterError("thumbnails need the pictures: use from_estimator, or images=")
        size = (8.5, 7.5) if thumbnails else (6.4, 5.2)
        ax = single_axes(ax, "FeatureMapDisplay.plot", size)
        labels = np.zeros(len(self.points)) if self.y is None else self.y
        classes, number = np.unique(labels, return_inverse=True)
        colours = [f"C{i % _COLOURS}" for i in range(len(classes))]
        by_name = self.y is not None and len(classes) <= _COLOURS
        for i, (label, colour) in enumerate(zip(classes, colours, strict=True)):
            own = self.points[number == i]
            name = shorten(label, 24) if by_name else None
            ax.scatter(*own.T, s=8 if thumbnails else 22, color=colour, alpha=0.75, lw=0)
            ax.scatter([], [], s=30, color=colour, label=name)
        if thumbnails:
            self._draw_thumbnails(ax, [colours[i] for i in number])
        if by_name:
            ax.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
        elif self.y is not None:
            names = [shorten(label, 16) for label in classes]
            for i, place in enumerate(_places(self.points, number, names)):
                ax.annotate(
                    names[i], place, ha="center", va="center", fontsize=7,
                    bbox={"boxstyle": "round,pad=0.15", "fc": "w", "ec": colours[i], "alpha": 0.8},
                )  # fmt: skip
        ax.set(xlabel=self.axis_names[0], ylabel=self.axis_names[1])
        if not any(self.axis_names):
            ax.set(xticks=[], yticks=[])
        ax.set_aspect("equal", adjustable="datalim")
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _draw_thumbnails(self, ax: Any, colours: list[str]) -> None:
        boxes = import_optional(
            "matplotlib.offsetbox", extra="plot", caller="FeatureMapDisplay.plot"
        )
        assert self.images is not None
        span = float(np.ptp(self.points, axis=0).max()) or 1.0
        apart = np.array([0.055, 0.047]) * span  # about the size of a thumbnail
        drawn: list[npt.NDArray[Any]] = []
        for i, point in enumerate(self.points):
            if any((np.abs(point - other) < apart).all() for other in drawn):
                continue
            drawn.append(point)
            picture = thumbnail(self.images, i, 96)
            small = boxes.OffsetImage(picture, zoom=24 / max(picture.shape))
            frame = {"edgecolor": colours[i], "lw": 1.6}
            ax.add_artist(
                boxes.AnnotationBbox(small, point, pad=0.08, bboxprops=frame, frameon=True)
            )


def _places(
    points: npt.NDArray[Any], number: npt.NDArray[Any], names: list[str]
) -> list[npt.NDArray[Any]]:
    """Where each class is named: in its midst, or at the nearest of its points that is free."""
    span = float(np.ptp(points, axis=0).max()) or 1.0
    sizes = span * np.array([(0.02 + 0.015 * len(name), 0.045) for name in names])
    places: list[npt.NDArray[Any]] = []
    for i, size in enumerate(sizes):
        own = points[number == i]
        middle = np.median(own, axis=0)
        nearest = own[np.linalg.norm(own - middle, axis=1).argsort()]
        apart = (sizes[:i] + size) / 2
        free = (
            place
            for place in (middle, *nearest)
            if not (np.abs(np.reshape(places, (-1, 2)) - place) < apart).all(axis=1).any()
        )
        places.append(next(free, middle))
    return places


def _check_method(method: str) -> None:
    checks = ParameterChecks("FeatureMapDisplay")
    checks.choice("method", method, _METHODS)
    checks.done()
    if method == "umap":
        import_optional("umap", extra="umap", caller='FeatureMapDisplay(method="umap")')


def _features(estimator: Any, X: Any, images: ImageCollection) -> npt.NDArray[Any]:
    estimator = getattr(estimator, "best_estimator_", estimator)
    # Some classifiers transform as well, by the labels that they have learnt.
    if hasattr(estimator, "steps") and (
        is_classifier(estimator) or not hasattr(estimator, "transform")
    ):
        estimator = estimator[:-1]
    if hasattr(estimator, "transform"):
        return np.asarray(estimator.transform(X))
    if hasattr(estimator, "backbone_"):
        from sktl.feature_extraction import CNNFeatures

        features = CNNFeatures(
            estimator.backbone_,
            layer=estimator.layer,
            pooling=estimator.pooling,
            image_size=estimator.image_size,
            device=estimator.device,
            store=None,
        )
        found: npt.NDArray[Any] = features.fit_transform(images)
        return found
    raise ParameterError(
        "estimator must be a transformer, a pipeline with transformers or a fitted CNNClassifier; "
        f"got {type(estimator).__name__}"
    )


def _project(
    features: npt.NDArray[Any], method: Method, random_state: int
) -> tuple[npt.NDArray[Any], tuple[str, str]]:
    """(n, n_features) to (n, 2), and the names of the axes."""
    if features.ndim != 2 or min(features.shape) < 2:
        raise ParameterError(
            f"features must be of at least 2 pictures and have 2 columns; got {features.shape}"
        )
    from sklearn.decomposition import PCA

    # Distances are those among the first components to a good approximation, and sooner found.
    n_components = 2 if method == "pca" else min(50, *features.shape)
    pca = PCA(n_components, random_state=random_state, svd_solver="full")
    reduced: npt.NDArray[Any] = pca.fit_transform(features)
    if method == "pca":
        shares = pca.explained_variance_ratio_
        first, second = (f"PC {i + 1} ({100 * shares[i]:.1f} % of the variance)" for i in (0, 1))
        return reduced, (first, second)
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(features) - 1) / 3)
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=random_state)
        return tsne.fit_transform(reduced), ("", "")
    umap = import_optional("umap", extra="umap", caller='FeatureMapDisplay(method="umap")')
    return umap.UMAP(random_state=random_state, n_jobs=1).fit_transform(reduced), ("", "")
