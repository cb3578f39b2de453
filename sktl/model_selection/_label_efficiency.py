"""How much pretraining without labels is worth, by the number of labels."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import check_cv, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_consistent_length, check_random_state
from tqdm.auto import tqdm

from sktl.exceptions import ParameterError
from sktl.images import ImageCollection, as_images

__all__ = ["LabelEfficiency", "label_efficiency_curve"]

_NAMES = {
    "probe": "classifier on pretrained features",
    "fine_tuned": "pretrained, then fine-tuned",
    "scratch": "same network from scratch",
    "raw": "classifier on raw pixels",
}
_PRETRAINED = ("probe", "fine_tuned")


@dataclass
class LabelEfficiency:
    """Accuracy by the number of labels, with and without pretraining.

    Attributes
    ----------
    table : DataFrame
        One row for each fold, fraction and way: "fold", "fraction", "n_labels", "way", "accuracy".
    """

    table: pd.DataFrame

    @property
    def summary(self) -> pd.DataFrame:
        """Mean accuracy over the folds: a row for each number of labels, a column for each way."""
        means = self.table.pivot_table("accuracy", ["fraction"], "way", aggfunc="mean", sort=False)
        n_labels = self.table.groupby("fraction")["n_labels"].mean().round().astype(int)
        means.insert(0, "n_labels", n_labels)
        means.columns.name = None
        return means.sort_index()

    @property
    def verdict(self) -> str:
        """Whether pretraining helped, and where, in words."""
        summary = self.summary
        ways = [way for way in _PRETRAINED if way in summary]
        others = [way for way in ("scratch", "raw") if way in summary]
        if not others:
            return "There is nothing to compare the pretrained network with."
        lines = []
        for row in summary.to_dict("records"):
            best, rival = max(ways, key=row.__getitem__), max(others, key=row.__getitem__)
            gain = 100 * (row[best] - row[rival])
            helped = "helped" if gain > 0 else "did not help"
            lines.append(
                f"{row['n_labels']} labels: pretraining {helped}: {100 * row[best]:.1f} % "
                f"({_NAMES[best]}) against {100 * row[rival]:.1f} % ({_NAMES[rival]}), "
                f"{gain:+.1f} points."
            )
        return "\n".join(lines)

    def plot(self, ax: Any = None) -> Any:
        """Draw accuracy against the number of labels, with the spread over the folds.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; by default in a new figure.

        Returns
        -------
        ax : matplotlib Axes
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        for way, rows in self.table.groupby("way", sort=False):
            by_labels = rows.groupby("n_labels")["accuracy"]
            mean, spread = 100 * by_labels.mean(), 100 * by_labels.std(ddof=0)
            style = "-o" if way in _PRETRAINED else "--s"
            ax.errorbar(mean.index, mean, spread, fmt=style, capsize=3, label=_NAMES[str(way)])
        ax.set(xscale="log", xlabel="labels", ylabel="accuracy (%)")
        ax.grid(alpha=0.3)
        ax.legend()
        return ax


def label_efficiency_curve(
    encoder: Any,
    X: Any,
    y: Any,
    *,
    fractions: Sequence[float] = (0.01, 0.1, 1.0),
    cv: Any = 3,
    classifier: Any = None,
    scratch: Any = "same",
    fine_tuned: Any = None,
    raw: bool = True,
    random_state: int | np.random.RandomState | None = None,
    verbose: int = 0,
) -> LabelEfficiency:
    """Compare pretraining without labels with doing without it, for growing numbers of labels.

    In each fold the encoder learns from all pictures of the training part, without labels. Then a
    fraction of the labels is uncovered, the same for all ways, drawn class by class.

    Parameters
    ----------
    encoder : transformer
        Such as :class:`sktl.CPCFeatures`. Its fitted `encoder_` is a Backbone.
    X : array-like of n_images pictures
        Anything that :func:`sktl.as_images` takes.
    y : array-like of shape (n_images,)
        Labels, all of them.
    fractions : sequence of float, default=(0.01, 0.1, 1.0)
        Of the labels of a training part.
    cv : int, splitter or iterable of (train, test), default=3
        As in scikit-learn.
    classifier : classifier, default=None
        Of pretrained features, and of raw pixels; by default standardising and a logistic
        regression whose C is chosen by cross-validation within the labelled pictures.
    scratch : "same", classifier or None, default="same"
        What is trained on the labelled pictures alone: "same" is the architecture of the encoder
        under a linear layer, with a light augmentation, for 50 epochs of 600 pictures and fewer
        of more: 1,200 / sqrt(n), at least 4.
    fine_tuned : "same", CNNClassifier or None, default=None
        Fine-tunes the encoder on the labelled pictures: a CNNClassifier, whose `backbone` is
        replaced, or "same": first its head, then all of it.
    raw : bool, default=True
        Whether to score the classifier on raw pixels.
    random_state : int, RandomState instance or None, default=None
        Seed of the labels that are drawn, and of "same".
    verbose : int, default=0
        If not 0, a progress bar is shown for work of more than three seconds.

    Returns
    -------
    curve : LabelEfficiency
        The table, its summary, a verdict and a plot.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktl import CPCFeatures
    >>> from sktl.model_selection import label_efficiency_curve
    >>> X, y = load_digits(n_class=3, return_X_y=True)
    >>> cpc = CPCFeatures(image_shape=(8, 8), image_size=16, pooling="flatten", epochs=1,
    ...                   n_features=16, random_state=0)
    >>> curve = label_efficiency_curve(cpc, X, y, fractions=[0.1, 1], cv=2, scratch=None)
    >>> curve.summary.columns.tolist()
    ['n_labels', 'probe', 'raw']
    """
    check_consistent_length(X, y)
    labels = np.asarray(y)
    if not all(0 < fraction <= 1 for fraction in fractions):
        raise ParameterError(f"fractions must be above 0 and at most 1; got {list(fractions)}")
    rng = check_random_state(random_state)
    seed = int(rng.randint(2**31))
    images = as_images(
        X,
        image_shape=getattr(encoder, "image_shape", None),
        value_range=getattr(encoder, "value_range", None),
    )
    folds = list(check_cv(cv, labels, classifier=True).split(np.zeros(len(labels)), labels))
    ways = _Ways(classifier, scratch, fine_tuned, raw, seed)
    rows = []
    n_steps = len(folds) * len(fractions)
    with tqdm(total=n_steps, unit="fit", delay=3, disable=not verbose) as bar:
        for number, (train, test) in enumerate(folds):
            known = _nested(labels[train], fractions, rng)
            fitted = clone(encoder).fit(images[train])
            for fraction, chosen in known:
                parts = (images[train], labels[train], chosen, images[test], labels[test])
                for way, accuracy in ways.scores(fitted, *parts):
                    rows.append((number, fraction, len(chosen), way, accuracy))
                bar.update()
    columns = ["fold", "fraction", "n_labels", "way", "accuracy"]
    return LabelEfficiency(pd.DataFrame(rows, columns=columns))


class _Ways:
    """The classifiers that are compared."""

    def __init__(
        self, classifier: Any, scratch: Any, fine_tuned: Any, raw: bool, seed: int
    ) -> None:
        self.classifier, self.scratch, self.fine_tuned = classifier, scratch, fine_tuned
        self.raw, self.seed = raw, seed

    def scores(
        self,
        encoder: Any,
        X: ImageCollection,
        y: npt.NDArray[Any],
        chosen: npt.NDArray[np.intp],
        X_test: ImageCollection,
        y_test: npt.NDArray[Any],
    ) -> Iterator[tuple[str, float]]:
        """Accuracy of each way that learns from the chosen labels."""
        some, targets = X[chosen], y[chosen]

        def by_rows(rows: npt.NDArray[Any], rows_test: npt.NDArray[Any]) -> float:
            classifier = _or_default(self.classifier, targets)
            return float(classifier.fit(rows, targets).score(rows_test, y_test))

        yield "probe", by_rows(encoder.transform(some), encoder.transform(X_test))
        epochs = int(np.clip(1200 / np.sqrt(len(chosen)), 4, 50))
        tuned = self._tuned(encoder, epochs)
        if tuned is not None:
            yield "fine_tuned", float(tuned.fit(some, targets).score(X_test, y_test))
        alone = self._alone(encoder, epochs)
        if alone is not None:
            yield "scratch", float(alone.fit(some, targets).score(X_test, y_test))
        if self.raw:
            size = encoder.encoder_.preprocessing.size
            rows, rows_test = _pixels(some, size), _pixels(X_test, size)
            if all((part == part[..., :1]).all() for part in (rows, rows_test)):  # gray
                rows, rows_test = rows[..., :1], rows_test[..., :1]
            yield "raw", by_rows(_flat(rows), _flat(rows_test))

    def _tuned(self, encoder: Any, epochs: int) -> Any:
        from sktl.neural_network import CNNClassifier
        from sktl.training import Phase

        if not isinstance(self.fine_tuned, str):
            if self.fine_tuned is None:
                return None
            return clone(self.fine_tuned).set_params(backbone=encoder.encoder_)
        phases = [
            ("head", Phase("head", 10, optimizer="adam", lr=1e-3, augment=False)),
            ("all", Phase("all", epochs, optimizer="adam", lr=1e-3, schedule="one_cycle")),
        ]
        return CNNClassifier(encoder.encoder_, phases=phases, **self._shared(encoder))

    def _alone(self, encoder: Any, epochs: int) -> Any:
        from sktl.neural_network import CNNClassifier
        from sktl.training import Phase

        if not isinstance(self.scratch, str):
            return None if self.scratch is None else clone(self.scratch)
        return CNNClassifier(
            _untrained(encoder.encoder_, self.seed),
            weights=None,
            phases=[("all", Phase("all", epochs, optimizer="adam", lr=2e-3, schedule="one_cycle"))],
            **self._shared(encoder),
        )

    def _shared(self, encoder: Any) -> dict[str, Any]:
        return {
            "layer": "bottleneck",
            "pooling": getattr(encoder, "pooling", "avg"),
            "augment": "light",
            "validation": None,
            "device": getattr(encoder, "device", "auto"),
            "store": None,
            "random_state": self.seed,
        }


def _untrained(backbone: Any, seed: int) -> Any:
    """The same architecture with new random weights."""
    from sktl.backbones import Backbone
    from sktl.backbones._weights import seeded

    module = copy.deepcopy(backbone.module)
    with seeded(seed):
        for part in module.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
    return Backbone(module, preprocessing=backbone.preprocessing, name=backbone.spec.name)


def _or_default(classifier: Any, y: npt.NDArray[Any]) -> Any:
    """A copy of a classifier, or a logistic regression that chooses its C where it can."""
    from sklearn.model_selection import GridSearchCV

    from sktl.linear_model import LogisticProbe

    if classifier is not None:
        return clone(classifier)
    smallest = int(np.unique(y, return_counts=True)[1].min())
    if smallest < 3:
        return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    model = make_pipeline(StandardScaler(), LogisticProbe())
    grid = {"logisticprobe__C": [0.0001, 0.001, 0.01, 0.1]}
    return GridSearchCV(model, grid, cv=3)


def _pixels(images: ImageCollection, size: int) -> npt.NDArray[np.uint8]:
    """Pictures squeezed to a square, shape (n, size, size, 3)."""
    from PIL import Image

    rows = np.empty((len(images), size, size, 3), np.uint8)
    for i in range(len(images)):
        picture = images.read_rgb(i)
        if picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        rows[i] = np.asarray(picture)
    return rows


def _flat(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(255)


def _nested(
    y: npt.NDArray[Any], fractions: Sequence[float], rng: np.random.RandomState
) -> list[tuple[float, npt.NDArray[np.intp]]]:
    """Rows whose labels are known, for each fraction; smaller sets are part of larger ones."""
    known, rest = [], np.arange(len(y))
    n_classes = len(np.unique(y))
    for fraction in sorted(fractions, reverse=True):
        n = round(fraction * len(y))
        if n < n_classes:
            raise ParameterError(
                f"a fraction of {fraction:g} of {len(y)} labels leaves {n} for {n_classes} classes"
            )
        if n < len(rest):
            rest, _ = train_test_split(rest, train_size=n, stratify=y[rest], random_state=rng)
        known.append((fraction, np.sort(rest)))
    return known[::-1]
