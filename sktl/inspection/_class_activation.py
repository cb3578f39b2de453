"""Where in a picture the evidence for a class is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from sktl.datasets._captions import shorten
from sktl.exceptions import ParameterError
from sktl.inspection._grid import make_axes, show
from sktl.inspection._networks import (
    ScoreNetwork,
    affine_part,
    as_score_network,
    normalised,
    split_pipeline,
    squares,
)
from sktl.inspection._pictures import check_count, labels_of, pictures_of

if TYPE_CHECKING:
    import torch

__all__ = ["ClassActivation", "ClassActivationDisplay", "class_activation"]

_BATCH = 16


@dataclass(frozen=True)
class ClassActivation:
    """Maps of the evidence for one class in each picture.

    Attributes
    ----------
    maps : ndarray of shape (n_images, height, width), dtype float64
        One number for each place of the feature maps.
    classes : ndarray of shape (n_images,)
        The class that each map is of.
    scores : ndarray of shape (n_images,), dtype float64
        Its decision value, or logit.
    intercepts : ndarray of shape (n_images,), dtype float64, or None
        Of its linear classifier: mean of the map plus intercept is the score. None for Grad-CAM.
    method : {"CAM", "Grad-CAM"}
        How they were made.
    pictures : ndarray of shape (n_images, size, size, 3), dtype uint8
        What the network saw.
    """

    maps: npt.NDArray[np.float64]
    classes: npt.NDArray[Any]
    scores: npt.NDArray[np.float64]
    intercepts: npt.NDArray[np.float64] | None
    method: str
    pictures: npt.NDArray[np.uint8]


def class_activation(
    estimator: Any, X: Any, target: Any = None, *, layer: str | None = None
) -> ClassActivation:
    r"""Map where in pictures the evidence for a class is.

    For a pipeline of :class:`sktl.CNNFeatures` with average pooling and a linear classifier the
    score is a mean over places, so that what each place adds is known exactly: the class
    activation map (CAM) [1]_, :math:`\sum_k w_k A_k`, with the weights of the class and the
    feature maps. For all other networks it is Grad-CAM [2]_,
    :math:`\max(0, \sum_k \alpha_k A_k)`, where :math:`\alpha_k` is the mean over the places of
    the gradient of the score.

    Parameters
    ----------
    estimator : Pipeline, CNNClassifier, Backbone or str
        A fitted pipeline of CNNFeatures and a linear classifier, between which scalers and
        projections may be; a fitted CNNClassifier; or a backbone with its own head.
    X : array-like of n_images pictures
        Anything that :func:`sktl.images.as_images` takes.
    target : label or array-like of shape (n_images,), default=None
        The class of all maps or of each; by default the one with the highest score. For a
        backbone a class name, or a number where there are no names.
    layer : str, default=None
        Path of the layer whose maps Grad-CAM takes, by default the last ones. That of a
        pipeline is the layer of its CNNFeatures; where that is behind the last maps, as
        ``"penultimate"`` may be, it is these.

    Returns
    -------
    activation : ClassActivation
        Maps, scores, and the pictures as the network saw them.

    Raises
    ------
    ParameterError
        If the estimator is none of these, or a target is not among its classes.
    NotFittedError
        If it is not fitted.

    Notes
    -----
    CAM is not clipped at 0: negative places speak against the class. Of ``crops="ten"`` the
    centre is looked at.

    References
    ----------
    .. [1] B. Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016,
       arXiv:1512.04150.
    .. [2] R. R. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via
       Gradient-based Localization", ICCV 2017, arXiv:1610.02391.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sktl import load_backbone
    >>> from sktl.inspection import class_activation
    >>> backbone = load_backbone("resnet18", weights=None)  # random weights, for the example
    >>> photographs = load_sample_images().images
    >>> class_activation(backbone, photographs, target=7).maps.shape
    (2, 7, 7)
    """
    images = pictures_of(X, estimator)
    parts = split_pipeline(estimator)
    if parts is not None and layer is None:
        features, classifier = parts
        if features.pooling == "avg" and not features._many():
            shape = features._network().shape(features.layer, features.image_size)
            if len(shape) == 3:
                return _exact(features, classifier, images, target)
    return _by_gradient(as_score_network(estimator, layer), images, target)


def _exact(features: Any, classifier: Any, images: Any, target: Any) -> ClassActivation:
    from sklearn.base import clone

    weights, intercept = affine_part(classifier, features.n_features_out_)
    # The maps of one picture would take as much of the store as the features of many.
    as_maps = clone(features).set_params(pooling="none", crops="center", store=None)
    as_maps.set_output(transform="default")
    maps = as_maps.fit_transform(images).astype(np.float64)  # (n, C, h, w)
    scores = maps.mean(axis=(2, 3)) @ weights.T + intercept
    chosen = _chosen(target, scores, classifier.classes_)
    activation = np.einsum("nk,nkhw->nhw", weights[chosen], maps)
    preprocessing = features.backbone_spec_.preprocessing.at_size(features.image_size)
    rows = np.arange(len(images))
    return ClassActivation(
        activation,
        classifier.classes_[chosen],
        scores[rows, chosen],
        intercept[chosen],
        "CAM",
        squares(images, preprocessing),
    )


def _by_gradient(network: ScoreNetwork, images: Any, target: Any) -> ClassActivation:
    import torch

    pixels = squares(images, network.preprocessing)
    like = next(network.module.parameters())
    per_class = None
    maps, scores, chosen = [], [], []
    for start in range(0, len(pixels), _BATCH):
        part = slice(start, start + _BATCH)
        x = normalised(pixels[part], network.preprocessing, like).requires_grad_(True)
        with torch.enable_grad():
            seen, values = _forward(network, x)
            if len(network.classes) == 0:
                network.classes = np.arange(values.shape[1])
            if target is not None and per_class is None:
                per_class = _targets(target, len(images), network.classes)
            of_part = values.argmax(1).cpu().numpy() if per_class is None else per_class[part]
            score = values[torch.arange(len(values)), torch.as_tensor(of_part)]
            (gradient,) = torch.autograd.grad(score.sum(), seen)
        if seen.shape[1] == seen.shape[2] != seen.shape[3]:  # (N, H, W, C) -> (N, C, H, W)
            seen, gradient = seen.permute(0, 3, 1, 2), gradient.permute(0, 3, 1, 2)
        alpha = gradient.mean((2, 3), keepdim=True)
        maps.append((alpha * seen).sum(1).clamp(min=0).detach().cpu().double().numpy())
        scores.append(score.detach().cpu().double().numpy())
        chosen.append(of_part)
    classes = network.classes[np.concatenate(chosen)]
    return ClassActivation(
        np.concatenate(maps), classes, np.concatenate(scores), None, "Grad-CAM", pixels
    )


def _forward(network: ScoreNetwork, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Feature maps and scores of one forward pass."""
    import torch

    seen: list[torch.Tensor] = []

    def note(_: Any, __: Any, output: Any) -> None:
        if not isinstance(output, torch.Tensor) or output.ndim != 4 or not output.requires_grad:
            return
        if network.maps is not None or output.shape[2] * output.shape[3] > 1:
            seen.append(output)

    watched = [network.maps] if network.maps is not None else list(network.module.modules())
    handles = [module.register_forward_hook(note) for module in watched]
    try:
        scores: torch.Tensor = network.module(x)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise ParameterError(
            "the network has no feature maps (channels, height, width) there, only vectors or "
            "tokens; pass as layer one that has, of a pipeline as that of its CNNFeatures"
        )
    return seen[-1], scores


def _chosen(
    target: Any, scores: npt.NDArray[np.float64], classes: npt.NDArray[Any]
) -> npt.NDArray[np.intp]:
    return scores.argmax(axis=1) if target is None else _targets(target, len(scores), classes)


def _targets(target: Any, n: int, classes: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Positions of labels among the classes; raise ParameterError."""
    labels = np.asarray(target)
    if labels.ndim > 0 and labels.shape != (n,):
        raise ParameterError(f"target must be one label or {n}; got shape {labels.shape}")
    position = {label: i for i, label in reversed(list(enumerate(classes.tolist())))}
    wanted = np.broadcast_to(labels, (n,)).tolist()
    unknown = sorted({label for label in wanted if label not in position}, key=str)
    if unknown:
        raise ParameterError(f"target has labels that are not among the classes: {unknown}")
    return np.array([position[label] for label in wanted], dtype=np.intp)


class ClassActivationDisplay:
    """Pictures under maps of where the evidence for a class is.

    Parameters
    ----------
    activation : ClassActivation
        As of :func:`class_activation`.
    y : array-like of shape (n_images,), default=None
        True labels.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sktl import load_backbone
    >>> from sktl.inspection import ClassActivationDisplay
    >>> backbone = load_backbone("resnet18", weights=None)  # random weights, for the example
    >>> photographs = load_sample_images().images
    >>> ClassActivationDisplay.from_estimator(backbone, photographs).axes_.shape
    (2, 2)
    """

    def __init__(self, activation: ClassActivation, y: Any = None) -> None:
        self.activation = activation
        self.y = y

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        target: Any = None,
        layer: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Compute the maps and draw them.

        Parameters
        ----------
        estimator : Pipeline, CNNClassifier, Backbone or str
            As of :func:`class_activation`.
        X : array-like of n_images pictures
            A few of them: all are drawn.
        y : array-like of shape (n_images,), default=None
            True labels, to be named.
        target : label or array-like of shape (n_images,), default=None
            As of :func:`class_activation`.
        layer : str, default=None
            As of :func:`class_activation`.
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.

        Returns
        -------
        display : ClassActivationDisplay
        """
        images = pictures_of(X, estimator)
        labels = None if y is None else labels_of(y, len(images))
        return cls(class_activation(estimator, images, target, layer=layer), labels).plot(ax)

    def plot(self, ax: Any = None, *, n_columns: int = 3, alpha: float = 0.55) -> Self:
        """Draw pairs of a picture and the same under its map.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.
        n_columns : int, default=3
            Pairs in a row.
        alpha : float, default=0.55
            Opacity of the maps where they are highest.

        Returns
        -------
        self : ClassActivationDisplay
        """
        found = self.activation
        n = len(found.maps)
        n_columns = check_count("n_columns", n_columns)
        n_columns = min(n_columns, n) if n != 2 else 1
        self.figure_, self.axes_ = make_axes(
            -(-n // n_columns), 2 * n_columns, (1.8, 2.15), ax, "ClassActivationDisplay.plot"
        )
        cells = self.axes_.reshape(-1, 2)
        for pair in cells[n:]:
            show(pair[0], None)
            show(pair[1], None)
        for i, (left, right) in enumerate(cells[:n]):
            title = "" if self.y is None else f"truth: {shorten(np.asarray(self.y)[i], 16)}"
            show(left, found.pictures[i], title, fontsize=8.5)
            of = f"{found.method} of {shorten(found.classes[i], 14)}"
            show(right, found.pictures[i], of, fontsize=8.5)
            evidence = np.maximum(found.maps[i], 0)
            evidence = evidence / max(evidence.max(), 1e-12)
            side = found.pictures.shape[1]
            right.imshow(
                evidence,
                extent=(-0.5, side - 0.5, side - 0.5, -0.5),
                cmap="turbo",
                alpha=alpha * (0.3 + 0.7 * evidence),  # what shows no evidence stays to be seen
                interpolation="bilinear",
                vmin=0,
                vmax=1,
            )
        return self
