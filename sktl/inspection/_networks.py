"""The network inside of an estimator, and the estimator as a network with gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from sktl.exceptions import ParameterError
from sktl.images import ImageEstimatorMixin
from sktl.inspection._pictures import read_pictures
from sktl.utils._sklearn import scores_pairs

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sktl.backbones import Backbone, Preprocessing
    from sktl.images import ImageCollection

__all__ = [
    "ScoreNetwork",
    "affine_part",
    "as_backbone",
    "as_score_network",
    "normalised",
    "split_pipeline",
    "squares",
]


# Features whose weights are read off at once.
_BLOCK = 256


@dataclass
class ScoreNetwork:
    """An estimator as a network from normalised pictures to one score a class.

    Attributes
    ----------
    module : nn.Module
        (N, 3, H, W) to (N, n_classes); in eval mode.
    maps : nn.Module or None
        The module in it whose output are the feature maps; None to look for the last ones.
    preprocessing : Preprocessing
        What it sees.
    classes : ndarray of shape (n_classes,)
        Labels of the scores.
    """

    module: nn.Module
    maps: nn.Module | None
    preprocessing: Preprocessing
    classes: npt.NDArray[Any]


def as_backbone(estimator: Any) -> Backbone:
    """The network of an estimator, of a pipeline, or by name."""
    from torch import nn

    from sktl.backbones import Backbone, load_backbone
    from sktl.self_supervised import LinearProbe

    if isinstance(estimator, (str, nn.Module, Backbone)):
        return load_backbone(estimator)
    if hasattr(estimator, "best_estimator_"):
        return as_backbone(estimator.best_estimator_)
    if hasattr(estimator, "steps"):
        return as_backbone(estimator.steps[0][1])
    if hasattr(estimator, "_network"):  # CNNFeatures
        network: Backbone = estimator._network().load()
        return network
    for name in ("backbone_", "encoder_"):  # CNNClassifier, CPCFeatures and LinearProbe
        if hasattr(estimator, name):
            return as_backbone(getattr(estimator, name))
    if isinstance(estimator, (ImageEstimatorMixin, LinearProbe)):
        check_is_fitted(estimator)
    raise ParameterError(
        "estimator must be a backbone or its name, CNNFeatures, a fitted CNNClassifier or "
        f"CPCFeatures, or a pipeline that begins with one; got {type(estimator).__name__}"
    )


def split_pipeline(estimator: Any) -> tuple[Any, Any] | None:
    """CNNFeatures and what follows it in a fitted pipeline; None if it is no such pipeline."""
    from sktl.feature_extraction import CNNFeatures

    estimator = getattr(estimator, "best_estimator_", estimator)
    steps = getattr(estimator, "steps", None)
    if steps is None or len(steps) < 2 or not isinstance(steps[0][1], CNNFeatures):
        return None
    check_is_fitted(steps[0][1], "n_features_out_")
    check_is_fitted(estimator)
    return steps[0][1], estimator[1:]


def affine_part(
    classifier: Any, n_features: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Weights (n_classes, n_features) and intercepts of decision values; of two classes of both.

    They are read off the decision function itself, so that scalers, projections and all linear
    classifiers are covered alike.

    Raises
    ------
    ParameterError
        If the decision function is not affine in the features.
    """
    if not hasattr(classifier, "decision_function"):
        raise ParameterError(
            "the pipeline must end with a linear classifier, which has a decision_function; "
            f"{type(classifier[-1]).__name__} has none"
        )

    names = getattr(classifier, "feature_names_in_", None)

    def decide(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        named = rows if names is None else pd.DataFrame(rows, columns=names)
        values = np.asarray(classifier.decision_function(named), dtype=np.float64)
        return np.stack([-values, values], axis=1) if values.ndim == 1 else values

    intercept = decide(np.zeros((1, n_features)))[0]
    n_values = len(getattr(classifier, "classes_", intercept))
    if len(intercept) != n_values or scores_pairs(classifier):
        raise ParameterError(
            f"the decision values of {type(classifier[-1]).__name__} must be of classes, not of "
            "pairs of them; pass decision_function_shape='ovr'"
        )
    values = [
        decide(np.eye(min(_BLOCK, n_features - start), n_features, start))
        for start in range(0, n_features, _BLOCK)
    ]
    weights = (np.concatenate(values) - intercept).T  # (n_classes, n_features)
    trial = np.random.default_rng(0).normal(size=(3, n_features))
    predicted = trial @ weights.T + intercept
    if not np.allclose(decide(trial), predicted, rtol=1e-4, atol=1e-4 * np.abs(predicted).max()):
        raise ParameterError(
            "the pipeline must be linear behind CNNFeatures, such as a StandardScaler and a "
            f"LogisticRegression; the decision values of {type(classifier[-1]).__name__} are not"
        )
    return weights, intercept


def as_score_network(estimator: Any, layer: str | None = None) -> ScoreNetwork:
    """An estimator as a network whose scores have gradients.

    Raises
    ------
    ParameterError
        If it is none that has such a network.
    """
    from torch import nn

    from sktl.backbones import Backbone
    from sktl.backbones._feature_network import replicate
    from sktl.neural_network import CNNClassifier

    estimator = getattr(estimator, "best_estimator_", estimator)
    if isinstance(estimator, CNNClassifier):
        module = estimator.net_.module_
        module = getattr(module, "_orig_mod", module).eval()  # of what is compiled, the network
        maps = None if layer is None else _inner_module(module, layer)
        preprocessing = estimator.backbone_.preprocessing
        return ScoreNetwork(module, maps, preprocessing, estimator.classes_)
    parts = split_pipeline(estimator)
    if parts is not None:
        return _pipeline_network(*parts, layer)
    if isinstance(estimator, (str, nn.Module, Backbone)):
        backbone = as_backbone(estimator)
        tap = backbone.taps([layer or "bottleneck"])[0]
        # The module itself is the user's, who may have put it into training mode.
        module = replicate(backbone._whole).eval()
        maps = module.get_submodule(tap.path)
        names = backbone.class_names
        n: Any = getattr(backbone.head, "out_features", getattr(backbone.head, "out_channels", 0))
        classes = np.arange(n) if names is None else np.array(names)
        return ScoreNetwork(module, maps, backbone.preprocessing, classes)
    raise ParameterError(
        "estimator must be a fitted CNNClassifier, a backbone with its head, or a fitted pipeline "
        f"of CNNFeatures and a linear classifier; got {type(estimator).__name__}"
    )


def _pipeline_network(features: Any, classifier: Any, layer: str | None) -> ScoreNetwork:
    import torch
    from torch import nn

    from sktl.nn import pool

    if features._many() or layer is not None:
        raise ParameterError(
            "of a pipeline, the layer that is looked at is that of its CNNFeatures, which must be "
            f"one; got layer={layer!r} and CNNFeatures(layer={features.layer!r})"
        )
    backbone = as_backbone(features)
    weights, intercept = affine_part(classifier, features.n_features_out_)

    class Readout(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = backbone.feature_network([features.layer])
            self.maps = nn.Identity()
            self.linear = nn.Linear(weights.shape[1], weights.shape[0])
            self.linear.weight.data = torch.tensor(weights, dtype=torch.float32)
            self.linear.bias.data = torch.tensor(intercept, dtype=torch.float32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            (maps,) = self.network(x)
            scores: torch.Tensor = self.linear(pool(self.maps(maps), features.pooling))
            return scores

    module = Readout().eval()
    maps: nn.Module = module.maps
    if len(backbone.shapes([features.layer], features.image_size)[0]) != 3:  # behind the last maps
        maps = module.network.replica.get_submodule(backbone.taps(["bottleneck"])[0].path)
    preprocessing = backbone.preprocessing.at_size(features.image_size)
    return ScoreNetwork(module, maps, preprocessing, classifier.classes_)


def _inner_module(module: nn.Module, layer: str) -> nn.Module:
    """A layer of a CNNClassifier's network, by its path in the backbone."""
    known = dict(module.named_modules())
    for prefix in ("trunk.", "trunk.net.", "trunk.network.replica.", "trunk.network.replica.net."):
        if prefix + layer in known:
            found: nn.Module = known[prefix + layer]
            return found
    from sktl.exceptions import LayerNotFoundError
    from sktl.utils._parameters import suggest

    paths = [path.partition(".")[2].removeprefix("net.") for path in known if "." in path]
    raise LayerNotFoundError(f"the network has no layer {layer!r}.{suggest(layer, paths)}")


def squares(images: ImageCollection, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """What the network sees of pictures: (n, size, size, 3)."""
    from sktl.engine import prepare

    pictures = read_pictures(images)
    return np.concatenate([prepare(picture, preprocessing) for picture in pictures])


def normalised(pixels: Any, preprocessing: Preprocessing, like: torch.Tensor) -> torch.Tensor:
    """(n, H, W, 3) pixels, 0-255, to the input of a network, (n, 3, H, W)."""
    import torch

    x = torch.as_tensor(pixels, dtype=like.dtype, device=like.device).permute(0, 3, 1, 2)
    mean = torch.tensor(preprocessing.mean, dtype=like.dtype, device=like.device)[:, None, None]
    std = torch.tensor(preprocessing.std, dtype=like.dtype, device=like.device)[:, None, None]
    return (x / 255 - mean) / std
