"""How much pretraining without labels is worth, by the number of labels."""

from __future__ import annotations

import copy
import numbers
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import check_cv
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_consistent_length, check_random_state

from sktl.exceptions import ParameterError
from sktl.images import ImageCollection, as_images
from sktl.utils._parameters import ParameterChecks, require_labels
from sktl.utils._progress import ProgressBar

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
            # Folds differ in size, so that one fraction is not always the same number of labels.
            of_fraction = rows.groupby("fraction")
            n_labels, accuracy = (
                of_fraction["n_labels"].mean(),
                100 * of_fraction["accuracy"].mean(),
            )
            spread = 100 * of_fraction["accuracy"].std(ddof=0)
            style = "-o" if way in _PRETRAINED else "--s"
            ax.errorbar(n_labels, accuracy, spread, fmt=style, capsize=3, label=_NAMES[str(way)])
        ax.set(xscale="log", xlabel="labels", ylabel="accuracy (%)")
        ax.grid(alpha=0.3)
        ax.legend()
        return ax


def label_efficiency_curve(
    encoder: Any,
    X: Any,
    y: Any,
    *,
    fractions: Iterable[float] = (0.01, 0.1, 1.0),
    cv: Any = 3,
    classifier: Any = None,
    scratch: Any = "same",
    fine_tuned: Any = None,
    raw: bool = True,
    groups: Any = None,
    random_state: int | np.random.RandomState | None = None,
    verbose: int = 0,
) -> LabelEfficiency:
    """Compare pretraining without labels with doing without it, for growing numbers of labels.

    In each fold the encoder learns from all pictures of the training part, without labels. Then a
    fraction of the labels is uncovered, the same for all ways: drawn class by class, in proportion
    to their sizes and at least one of each. Smaller fractions are part of larger ones.

    Parameters
    ----------
    encoder : transformer
        Such as :class:`sktl.CPCFeatures`. Its fitted `encoder_` is a Backbone, without which
        there is nothing for "same" to copy and no size for `raw`.
    X : array-like of n_images pictures
        Anything that :func:`sktl.as_images` takes.
    y : array-like of shape (n_images,)
        Labels, all of them: -1 beside two classes or more is none, as of
        :class:`sktl.LinearProbe`.
    fractions : iterable of float, default=(0.01, 0.1, 1.0)
        Of the labels of a training part.
    cv : int, splitter or iterable of (train, test), default=3
        As in scikit-learn.
    classifier : classifier, default=None
        Of pretrained features, and of raw pixels; by default standardising and a logistic
        regression whose C is chosen by cross-validation within the labelled pictures.
    scratch : "same", classifier or None, default="same"
        What is trained on the labelled pictures alone: "same" is the architecture of the encoder
        under a linear layer, with new weights and a light augmentation, for 1,200 / sqrt(n) epochs
        of n pictures, rounded down: 50 at most, which is up to 576 pictures, and 4 at least.
    fine_tuned : "same", CNNClassifier or None, default=None
        Fine-tunes the encoder on the labelled pictures: a CNNClassifier, whose `backbone` is
        replaced, or "same": first its head for 10 epochs, then all of it for as many as `scratch`.
    raw : bool, default=True
        Whether to score the classifier on raw pixels.
    groups : array-like of shape (n_images,), default=None
        For a splitter that keeps groups together, such as GroupKFold.
    random_state : int, RandomState instance or None, default=None
        Seed of the labels that are drawn, and of "same".
    verbose : int, default=0
        If not 0, a progress bar is shown for work of more than three seconds.

    Returns
    -------
    curve : LabelEfficiency
        The table, its summary, a verdict and a plot.

    Raises
    ------
    ParameterError
        If labels are missing; if a fraction is not in (0, 1] or leaves fewer labels than classes;
        if a training part has one class only; if a way is no classifier; if the encoder has no
        `encoder_` where one is needed; or if parts of it cannot be given new weights for "same".

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
    labels, fractions = _checked_labels(y), _checked_fractions(fractions)
    check_consistent_length(X, y, groups)
    rng = check_random_state(random_state)
    ways = _Ways(classifier, scratch, fine_tuned, raw, int(rng.randint(2**31)))
    ways.check(encoder)
    images = _as_images(X, encoder)
    folds = list(check_cv(cv, labels, classifier=True).split(np.zeros(len(labels)), labels, groups))
    known = [_nested(labels[train], fractions, rng) for train, _ in folds]
    rows = []
    n_steps = len(folds) * len(fractions)
    with ProgressBar(total=n_steps, unit="fit", delay=3, disable=not verbose) as bar:
        for number, (train, test) in enumerate(folds):
            fitted = clone(encoder).fit(images[train])
            ways.check_fitted(fitted)
            for fraction, chosen in known[number]:
                parts = (images[train], labels[train], chosen, images[test], labels[test])
                for way, accuracy in ways.scores(fitted, *parts):
                    rows.append((number, fraction, len(chosen), way, accuracy))
                bar.update()
    columns = ["fold", "fraction", "n_labels", "way", "accuracy"]
    return LabelEfficiency(pd.DataFrame(rows, columns=columns))


def _checked_labels(y: Any) -> npt.NDArray[Any]:
    labels = np.asarray(y)
    if labels.ndim != 1:
        raise ParameterError(f"y must have one label a picture; got shape {labels.shape}")
    require_labels(y, "label_efficiency_curve: y")
    if labels.dtype.kind in "if":
        # As of LinearProbe -1 is no label, unless it is one of two classes.
        values = np.unique(labels)
        if len(values) > 2 and values[0] == -1:
            require_labels(np.where(labels == -1, np.nan, labels), "label_efficiency_curve: y")
    return labels


def _checked_fractions(fractions: Any) -> list[float]:
    given = list(fractions) if np.iterable(fractions) else []
    if not given or not all(isinstance(f, numbers.Real) and 0 < float(f) <= 1 for f in given):
        raise ParameterError(
            f"fractions must be a list of numbers above 0 and at most 1; got {given or fractions!r}"
        )
    return given


def _as_images(X: Any, encoder: Any) -> ImageCollection:
    """Pictures as the encoder itself would read them."""
    if isinstance(X, ImageCollection):
        return X
    names = ("image_shape", "value_range", "background")
    return as_images(X, **{name: getattr(encoder, name, None) for name in names})


class _Ways:
    """The classifiers that are compared."""

    def __init__(
        self, classifier: Any, scratch: Any, fine_tuned: Any, raw: bool, seed: int
    ) -> None:
        self.classifier, self.scratch, self.fine_tuned = classifier, scratch, fine_tuned
        self.raw, self.seed = raw, seed

    def check(self, encoder: Any) -> None:
        """Raise ParameterError for what cannot be compared, as far as that can be known."""
        checks = ParameterChecks("label_efficiency_curve")
        fine = self.classifier is None or _can_classify(self.classifier)
        checks.that("classifier", self.classifier, fine, "a classifier or None")
        fine = _is_same_or_none(self.scratch) or _can_classify(self.scratch)
        checks.that("scratch", self.scratch, fine, '"same", a classifier or None')
        tuned = self.fine_tuned
        fine = _is_same_or_none(tuned) or (
            _can_classify(tuned) and "backbone" in tuned.get_params()
        )
        checks.that("fine_tuned", tuned, fine, '"same", a CNNClassifier or None')
        checks.truth("raw", self.raw)
        checks.done()
        # Other transformers may get their network when they are fitted; these never do.
        if type(encoder).__module__.startswith("sklearn.") and self._need_network():
            self._refuse(encoder)

    def check_fitted(self, encoder: Any) -> None:
        """The same, once the encoder has learnt."""
        from sktl.backbones import Backbone

        if not self._need_network():
            return
        if not isinstance(getattr(encoder, "encoder_", None), Backbone):
            self._refuse(encoder)
        if isinstance(self.scratch, str):
            _check_resettable(encoder.encoder_.module)

    def _need_network(self) -> list[str]:
        needs = {
            'scratch="same"': isinstance(self.scratch, str),
            "fine_tuned": self.fine_tuned is not None,
            "raw=True": self.raw,
        }
        return [name for name, does in needs.items() if does]

    def _refuse(self, encoder: Any) -> None:
        raise ParameterError(
            f"{', '.join(self._need_network())}: {type(encoder).__name__} has no network to go by, "
            "a Backbone as its fitted encoder_. Pass an encoder that has, such as CPCFeatures, or "
            "scratch=None (or your own classifier), fine_tuned=None and raw=False"
        )

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

        def accuracy(model: Any, known: Any, unknown: Any) -> float:
            return float(accuracy_score(y_test, model.fit(known, targets).predict(unknown)))

        def by_rows(rows: npt.NDArray[Any], rows_test: npt.NDArray[Any]) -> float:
            return accuracy(_or_default(self.classifier, targets), rows, rows_test)

        yield "probe", by_rows(encoder.transform(some), encoder.transform(X_test))
        epochs = int(np.clip(1200 / np.sqrt(len(chosen)), 4, 50))
        tuned = self._tuned(encoder, epochs)
        if tuned is not None:
            yield "fine_tuned", accuracy(tuned, some, X_test)
        alone = self._alone(encoder, epochs)
        if alone is not None:
            yield "scratch", accuracy(alone, some, X_test)
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


def _is_same_or_none(way: Any) -> bool:
    return way is None or (isinstance(way, str) and way == "same")


def _can_classify(way: Any) -> bool:
    return not isinstance(way, type) and all(
        hasattr(way, name) for name in ("fit", "predict", "get_params")
    )


def _check_resettable(module: Any) -> None:
    """Raise ParameterError if some weights would stay as they are."""
    kept = [
        f"{name}.{of_part}".lstrip(".")
        for name, part in module.named_modules()
        if not hasattr(part, "reset_parameters")
        for of_part, _ in part.named_parameters(recurse=False)
    ]
    if kept:
        more = f" and {len(kept) - 3} more" if len(kept) > 3 else ""
        raise ParameterError(
            f'scratch="same" cannot give the encoder new weights: {", ".join(kept[:3])}{more} '
            "belong to no layer with reset_parameters. Pass your own classifier as scratch, or "
            "scratch=None"
        )


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
    drawn = rng.permutation(len(y))
    classes, codes, sizes = np.unique(y[drawn], return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise ParameterError(
            "each training part must have pictures of two classes at least; one has "
            f"{classes.tolist()} only"
        )
    # One order for all fractions: the first of each class, then Sainte-Lague's, by which any
    # number of labels is shared out in proportion to the sizes of the classes.
    place = pd.Series(codes).groupby(codes).cumcount().to_numpy()
    quotients = np.where(place == 0, -1, (place + 0.5) / sizes[codes])
    drawn = drawn[np.argsort(quotients, kind="stable")]
    known = []
    for fraction in sorted(fractions):
        n = round(fraction * len(y))
        if n < len(sizes):
            raise ParameterError(
                f"a fraction of {fraction:g} of {len(y)} labels leaves {n} for {len(sizes)} classes"
            )
        known.append((fraction, np.sort(drawn[:n])))
    return known
