"""The head that came with the weights, as a classifier."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_consistent_length, column_or_1d
from torch import nn

from sktl.backbones import Backbone, BackboneSpec
from sktl.datasets._imagenet_classes import choose_wnids, imagenet_classes, match_classes
from sktl.engine import Network, Recipe, compute_features, resolve_store
from sktl.engine._network import require_same
from sktl.engine._recipe import PRECISIONS
from sktl.engine._runtime import RUNTIMES, check_runtime
from sktl.exceptions import ImageDecodeError, ParameterError
from sktl.images import ImageCollection, ImageEstimatorMixin
from sktl.neural_network._parts import of_one_type
from sktl.utils._devices import noise
from sktl.utils._float32 import full_float32
from sktl.utils._parameters import ParameterChecks
from sktl.utils._portable import PortableMixin
from sktl.utils._torch import resolve_device

if TYPE_CHECKING:
    from sktl.engine import FeatureStore
    from sktl.engine._recipe import Precision
    from sktl.engine._runtime import Runtime

__all__ = ["ImageNetClassifier"]

_N_CLASSES = 1000


class ImageNetClassifier(PortableMixin, ImageEstimatorMixin, ClassifierMixin, BaseEstimator):
    """The original head of a network, which tells the 1,000 classes of ImageNet apart.

    Nothing is learnt: `fit` matches the labels of `y` to classes of ImageNet, by WordNet id or by
    name, so that predictions and scores speak of the labels as they are spelt there.

    Parameters
    ----------
    backbone : str, nn.Module, Backbone or fitted estimator, default="efficientnet_lite0"
        A network with ImageNet's 1,000 outputs, as of :class:`sktl.CNNFeatures`.
    weights : str, Path or None, default="default"
        As of :class:`sktl.CNNFeatures`.
    classes : {None, "dogs"} or list of str, default=None
        The subset that pictures are of: names, WordNet ids, or "dogs", the 118 breeds. By default
        the classes of `y`, or all where there is no `y`.
    restrict : bool, default=False
        Whether only classes of the subset are predicted, with probabilities that add up to 1 over
        them. Otherwise the network may well take a dog for a mop; see
        :func:`sktl.metrics.out_of_subset_rate`.
    label_map : dict, default=None
        Label in `y` -> name, WordNet id or index of a class, for labels that are neither names nor
        ids, such as numbers; these need ``restrict=True``.
    image_size : int, default=None
        Side of the square that the network sees, in pixels. By default that of the weights.
    crops : {"center", "ten"}, default="center"
        "ten" averages over the four corners and the centre, each also mirrored.
    batch_size : int, default=64
        Pictures held and forwarded at once. It does not change the result.
    device : str or torch.device, default="auto"
        "auto" is CUDA where there is one, else the CPU.
    precision : {"auto", "exact", "bf16"}, default="auto"
        As of :class:`sktl.CNNFeatures`.
    n_jobs : int, default=None
        Number of shards computed in parallel by joblib.
    runtime : {"auto", "torch", "onnxruntime", "openvino"}, default="auto"
        As of :class:`sktl.CNNFeatures`.
    store : {"default", "memory"}, str, Path, FeatureStore or None, default="default"
        Where the features that the head reads are kept, which are those of
        ``CNNFeatures(layer="penultimate")``.
    image_shape : tuple of 2 or 3 ints, default=None
        Shape of one picture, for flattened rows only; see :func:`sktl.as_images`.
    value_range : tuple of 2 floats, default=None
        Values of black and white in arrays; see :func:`sktl.as_images`.
    background : str or tuple of 3 ints, default="white"
        Colour behind transparent pixels.
    verbose : int, default=0
        If not 0, a progress bar is shown for work of more than three seconds.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels that can be predicted, sorted: those of `y` as they are spelt there, and the other
        classes of ImageNet by id where `y` has ids, else by name.
    wnids_ : ndarray of shape (n_classes,)
        WordNet id of each of them.
    in_subset_ : ndarray of shape (n_classes,), dtype bool
        Which of them are of the subset.
    backbone_spec_ : BackboneSpec
        Name, weights, digest, licence and preprocessing of the network.
    value_range_ : tuple of 2 floats
        Values of black and white. Only defined for flattened rows.
    n_features_in_ : int
        Number of columns. Only defined when X is a table.
    feature_names_in_ : ndarray of str
        Names of the columns. Only defined when X is a DataFrame with column names.

    Raises
    ------
    ParameterError
        If labels are no classes of ImageNet; all are listed, with suggestions.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sktl import ImageNetClassifier
    >>> model = ImageNetClassifier("resnet18", weights=None)  # random weights, for the example
    >>> model.fit(load_sample_images().images, ["palace", "n11939491"])
    ImageNetClassifier(backbone='resnet18', weights=None)
    >>> len(model.classes_), model.wnids_[model.in_subset_].tolist()
    (1000, ['n11939491', 'n03877845'])
    """

    def __init__(
        self,
        backbone: str | nn.Module | Backbone = "efficientnet_lite0",
        *,
        weights: str | os.PathLike[str] | None = "default",
        classes: str | Collection[str] | None = None,
        restrict: bool = False,
        label_map: Mapping[Any, Any] | None = None,
        image_size: int | None = None,
        crops: Literal["center", "ten"] = "center",
        batch_size: int = 64,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        n_jobs: int | None = None,
        runtime: Runtime = "auto",
        store: str | os.PathLike[str] | FeatureStore | None = "default",
        image_shape: tuple[int, ...] | None = None,
        value_range: tuple[float, float] | None = None,
        background: str | tuple[int, int, int] = "white",
        verbose: int = 0,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.classes = classes
        self.restrict = restrict
        self.label_map = label_map
        self.image_size = image_size
        self.crops = crops
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.n_jobs = n_jobs
        self.runtime = runtime
        self.store = store
        self.image_shape = image_shape
        self.value_range = value_range
        self.background = background
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Match labels to classes of ImageNet; nothing is learnt.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that :func:`sktl.images.as_images` takes. Only their headers are read.
        y : array-like of shape (n_images,), default=None
            Names or WordNet ids. A label may go on behind the id, as the folders of Stanford Dogs
            do (``n02085620-Chihuahua``).

        Returns
        -------
        self : ImageNetClassifier
        """
        self._check_parameters()
        images = self._read_images(X, reset=True)
        if y is not None:
            y = column_or_1d(y, warn=True)
            check_consistent_length(images, y)
            y = of_one_type(y, "ImageNetClassifier")
        vocabulary = self._vocabulary(None if y is None else np.unique(y))
        network = self._network()
        _require_imagenet(network.spec, network.shape("logits", self.image_size)[0])
        bad = images.check()
        if bad:
            raise ImageDecodeError(bad, len(images))
        self.classes_, self.wnids_, self.in_subset_, self._indices = vocabulary
        self.backbone_spec_ = network.spec_now()
        return self

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Label of each picture.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that :func:`sktl.images.as_images` takes.

        Returns
        -------
        labels : ndarray of shape (n_images,)
        """
        chosen = self.decision_function(X).argmax(axis=1)
        classes = self.classes_ if hasattr(self, "classes_") else self._vocabulary(None)[0]
        labels: npt.NDArray[Any] = classes[chosen]
        return labels

    def predict_proba(self, X: Any) -> npt.NDArray[np.float32]:
        """Probability of each class.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that :func:`sktl.images.as_images` takes.

        Returns
        -------
        probabilities : ndarray of shape (n_images, n_classes), dtype float32
            In the order of `classes_`; with ``restrict=True`` over the subset only.
        """
        probabilities: npt.NDArray[np.float32] = softmax(self.decision_function(X), axis=1)
        return probabilities

    def decision_function(self, X: Any) -> npt.NDArray[np.float32]:
        """Outputs of the network before the softmax.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that :func:`sktl.images.as_images` takes.

        Returns
        -------
        logits : ndarray of shape (n_images, n_classes), dtype float32
            In the order of `classes_`.
        """
        self._check_parameters()
        images = self._read_images(X, reset=False)
        indices = self._indices if hasattr(self, "classes_") else self._vocabulary(None)[3]
        logits: npt.NDArray[np.float32] = self._logits(images)[:, indices]
        return logits

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that :func:`sktl.images.as_images` takes.
        y : array-like of shape (n_images,)
            Labels as they are spelt in `classes_`; before `fit`, names of classes.
        sample_weight : array-like of shape (n_images,), default=None
            What each picture counts.

        Returns
        -------
        accuracy : float

        Raises
        ------
        ParameterError
            Before `fit`, if labels are no names of classes.
        """
        if not hasattr(self, "classes_"):
            names = set(imagenet_classes().values())
            strangers = [label for label in np.asarray(y).tolist() if label not in names]
            if strangers:
                raise ParameterError(
                    f"before fit, predictions are names of classes of ImageNet, which "
                    f"{strangers[:10]} are not; fit(X, y) has them spelt as in y"
                )
        return float(super().score(X, y, sample_weight))

    def _vocabulary(self, labels: npt.NDArray[Any] | None) -> tuple[npt.NDArray[Any], ...]:
        """Labels, ids, places in the subset and indices of all classes that can be predicted."""
        wnids = list(imagenet_classes())
        spelt, by_id = self._matched(labels)
        if self.classes is not None:
            subset = set(choose_wnids(self.classes))
            outside = [str(label) for wnid, label in spelt.items() if wnid not in subset]
            if outside:
                raise ParameterError(
                    f"y has labels outside of the subset that classes={self.classes!r} names: "
                    f"{outside[:10]}"
                )
        else:
            subset = set(spelt) or set(wnids)
        shown = [
            (spelt.get(wnid, wnid if by_id else name), wnid)
            for wnid, name in imagenet_classes().items()
            if wnid in subset or not self.restrict
        ]
        self._refuse_mixtures(spelt, [label for label, _ in shown])
        names = np.array([label for label, _ in shown])
        ids = np.array([wnid for _, wnid in shown])
        order = np.argsort(names)
        names, ids = names[order], ids[order]
        place = {wnid: i for i, wnid in enumerate(wnids)}
        indices = np.array([place[wnid] for wnid in ids.tolist()])
        return names, ids, np.isin(ids, sorted(subset)), indices

    def _refuse_mixtures(self, spelt: dict[str, Any], labels: list[Any]) -> None:
        """Labels of y must not be mixed up with the names of the other classes."""
        is_text = all(isinstance(label, str) for label in spelt.values())
        if not is_text and len(spelt) < len(labels):
            raise ParameterError(
                "labels that are numbers leave the other classes of ImageNet without a label; pass "
                "restrict=True alone, without classes, or names"
            )
        twice = sorted({str(label) for label in spelt.values() if labels.count(label) > 1})
        if twice:
            raise ParameterError(
                f"y has labels that are names of other classes: {twice}; use ids, or pass "
                "restrict=True without the other classes"
            )

    def _matched(self, labels: npt.NDArray[Any] | None) -> tuple[dict[str, Any], bool]:
        """WordNet id -> label as spelt in y, and whether other classes go by their ids."""
        if labels is None:
            return {}, False
        among = None if self.classes is None else choose_wnids(self.classes)
        matched = match_classes(labels.tolist(), self.label_map, among=among)
        if len(set(matched.values())) < len(matched):
            twice = [
                label for label, wnid in matched.items() if list(matched.values()).count(wnid) > 1
            ]
            raise ParameterError(f"y has several labels of one class of ImageNet: {twice[:10]}")
        spelt = {wnid: label for label, wnid in matched.items()}
        return spelt, any(str(label).startswith(wnid) for wnid, label in spelt.items())

    def _logits(self, images: ImageCollection) -> npt.NDArray[np.float32]:
        """Outputs of the network, in the order of ImageNet's classes."""
        network = self._network()
        if hasattr(self, "backbone_spec_"):
            require_same(self.backbone_spec_, network.spec_now())
        head = self._linear_head(network)
        layer = "logits" if head is None else "penultimate"
        (values,), bad = compute_features(
            images,
            network,
            Recipe((layer,), "avg", self.image_size, self.crops, self.precision),
            network.store,
            batch_size=self.batch_size,
            device=resolve_device(self.device),
            n_jobs=self.n_jobs,
            runtime=self.runtime,
            progress=bool(self.verbose),
        )
        if bad:
            raise ImageDecodeError(bad, len(images))
        if head is not None:
            with torch.inference_mode(), full_float32(head.weight.device.type):
                values = head(torch.from_numpy(values).to(head.weight)).float().cpu().numpy()
        _require_imagenet(network.spec, values.shape[1])
        return values

    def _linear_head(self, network: Network) -> nn.Linear | None:
        """The last layer, if it alone makes the outputs out of the stored features."""
        head = network.load().head if network._fact("head is last", _is_last) else None
        return head if isinstance(head, nn.Linear) else None

    def _network(self) -> Network:
        return Network(self.backbone, self.weights, resolve_store(self.store))

    def _check_parameters(self) -> None:
        checks = ParameterChecks(type(self).__name__)
        checks.choice("crops", self.crops, ("center", "ten"))
        checks.choice("precision", self.precision, PRECISIONS)
        checks.choice("runtime", self.runtime, RUNTIMES)
        checks.integer("batch_size", self.batch_size, minimum=1)
        checks.integer("image_size", self.image_size, minimum=1, optional=True)
        checks.n_jobs(self.n_jobs)
        checks.attempt(resolve_device, self.device)
        if not checks.wrong:
            checks.attempt(check_runtime, self.runtime, self.precision, resolve_device(self.device))
        checks.attempt(resolve_store, self.store)
        listed = isinstance(self.classes, Iterable) and not isinstance(self.classes, Iterator)
        if self.classes is None or listed:
            checks.attempt(choose_wnids, self.classes)
        else:
            checks.that("classes", self.classes, False, 'None, "dogs" or a list')
        is_map = self.label_map is None or isinstance(self.label_map, Mapping)
        checks.that("label_map", self.label_map, is_map, "a dict or None")
        checks.done()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


def _require_imagenet(spec: BackboneSpec, n_outputs: int) -> None:
    if n_outputs != _N_CLASSES:
        raise ParameterError(
            f"{spec.name} has {n_outputs} outputs, not the {_N_CLASSES} classes of ImageNet; "
            "CNNFeatures with a classifier behind it, or CNNClassifier, take it"
        )


def _is_last(backbone: Backbone) -> bool:
    """Whether a network's output is that of its linear head on the penultimate features."""
    if not isinstance(backbone.head, nn.Linear):
        return False
    size = backbone.preprocessing.size
    picture = noise(1, size)
    picture = picture.to(next(backbone.module.parameters(), picture))
    with torch.inference_mode(), full_float32(picture.device.type):
        features, logits = backbone.feature_network(["penultimate", "logits"])(picture)
        same = features.ndim == 2 and torch.allclose(
            backbone.head(features), logits, rtol=1e-4, atol=1e-4
        )
    return bool(same)
