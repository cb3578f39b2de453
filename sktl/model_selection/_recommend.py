"""Which way of transfer learning to begin with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sktl.utils._parameters import ParameterChecks

__all__ = ["Strategy", "recommend_strategy"]

Similarity = Literal["similar", "different"]

# Distance to the pictures that a network was trained on, of efficientnet_lite0, mean of all its
# layers, 64 pictures each: Caltech-101 0.02, ImageNet 0.02, flowers 0.04, dogs and cats 0.05;
# Fashion-MNIST 0.21, handwritten digits 0.40, blurred coloured squares 0.47, noise 0.54.
_FAR = 0.12

_STRATEGIES = {
    ("small", "similar"): (
        "linear_probe",
        "Train a linear classifier on features of the last layers: with few pictures, "
        "fine-tuning would learn them by heart, and the features fit already.",
        'Pipeline([("feat", CNNFeatures()), ("clf", LogisticRegression(max_iter=1000))])',
    ),
    ("large", "similar"): (
        "fine_tune",
        "Fine-tune the whole network: there are enough pictures not to learn them by heart.",
        'CNNClassifier(phases=[("warm_up", Phase("head", 5, optimizer="adam")), '
        '("fine_tune", Phase("all", 10, lr=0.005, schedule="one_cycle"))])',
    ),
    ("small", "different"): (
        "early_features",
        "Train a linear classifier on features of an earlier layer: too few pictures to "
        "fine-tune, and the last layers know too much about other pictures.",
        'Pipeline([("feat", CNNFeatures(layer=-2)), ("clf", LogisticRegression(max_iter=1000))])',
    ),
    ("large", "different"): (
        "fine_tune_all",
        "Fine-tune the whole network at a higher rate, or train one from scratch: there are enough "
        "pictures, but beginning with pretrained weights still helps as a rule.",
        'CNNClassifier(phases=[("warm_up", Phase("head", 5, optimizer="adam")), '
        '("fine_tune", Phase("all", 30, lr=0.02, schedule="one_cycle"))])',
    ),
}


@dataclass(frozen=True)
class Strategy:
    """A way of transfer learning; given by :func:`recommend_strategy`.

    Attributes
    ----------
    name : {"linear_probe", "fine_tune", "early_features", "fine_tune_all"}
        The way.
    reason : str
        What to do, and why.
    example : str
        Code of an estimator to begin with.
    size : {"small", "large"}
        What the number of pictures was taken for.
    similarity : {"similar", "different"} or None
        How the pictures compare to those that the network was trained on; None if that is not
        known, and was taken for similar.
    distance : float or None
        The distance that was measured.
    """

    name: str
    reason: str
    example: str
    size: Literal["small", "large"]
    similarity: Similarity | None
    distance: float | None = None


def recommend_strategy(
    n_samples: int,
    similarity: Similarity | None = None,
    X: Any = None,
    *,
    backbone: Any = "efficientnet_lite0",
    large_from: int = 5000,
    random_state: int = 0,
) -> Strategy:
    """Recommend a way of transfer learning, by the number of pictures and their kind.

    Parameters
    ----------
    n_samples : int
        Number of labelled pictures to train on.
    similarity : {"similar", "different"} or None, default=None
        Whether the pictures are like those that the network was trained on, which is photographs
        of things as a rule. Measured if `X` is given.
    X : array-like of n_images pictures, default=None
        The pictures, of which up to 128 are looked at.
    backbone : str, nn.Module or Backbone, default="efficientnet_lite0"
        The pretrained network that the distance is measured with: one with batch normalisation.
    large_from : int, default=5000
        From how many pictures on a data set is large. The notes that the table is from give no
        number: this one is a rule of thumb.
    random_state : int, default=0
        Seed of the choice of pictures.

    Returns
    -------
    strategy : Strategy
        Something to begin with, not a verdict: compare it with its neighbours.

    Raises
    ------
    ImageDecodeError
        If some of the pictures looked at cannot be read.
    ParameterError
        If arguments are wrong, or the network has no batch normalisation to measure with.

    Notes
    -----
    Batch normalisation keeps the mean and the deviation that each channel had in training. The
    distance is that of the pictures' own mean and deviation to these: of each channel the squared
    2-Wasserstein distance of two normal distributions over the variance in training; of each layer
    the median of its channels; the mean of all layers. Up to 0.12 the pictures count as similar.
    Measured with efficientnet_lite0 on 64 pictures each: Caltech-101 and ImageNet 0.02, flowers
    0.04, dogs and cats 0.05; Fashion-MNIST 0.21, handwritten digits 0.40, noise 0.54. For another
    network, measure both a set that is similar and one that is not before trusting the limit.

    References
    ----------
    CS231n, "Transfer Learning", Stanford University, https://cs231n.github.io/transfer-learning/:
    the table of small or large, and similar or different.

    Examples
    --------
    >>> from sktl.model_selection import recommend_strategy
    >>> recommend_strategy(800, "similar").name
    'linear_probe'
    >>> print(recommend_strategy(20_000, "different").reason)
    Fine-tune the whole network at a higher rate, or train one from scratch: ...
    """
    checks = ParameterChecks("recommend_strategy")
    checks.integer("n_samples", n_samples, minimum=1)
    checks.integer("large_from", large_from, minimum=1)
    is_word = isinstance(similarity, str)
    is_known = similarity is None or (is_word and similarity in ("similar", "different"))
    checks.that("similarity", similarity, is_known, "'similar', 'different' or None")
    checks.that(
        "similarity",
        similarity,
        similarity is None or X is None,
        "None where X is given, from which it is measured",
    )
    checks.done()
    distance = None
    if X is not None:
        from sktl.model_selection._similarity import distance_to_training

        distance = distance_to_training(X, backbone, random_state)
        similarity = "similar" if distance <= _FAR else "different"
    size: Literal["small", "large"] = "small" if n_samples < large_from else "large"
    name, reason, example = _STRATEGIES[size, similarity or "similar"]
    if similarity is None:
        reason += (
            " How similar the pictures are to those that the network was trained on is not known: "
            "pass X to measure it, or compare with an earlier layer."
        )
    return Strategy(name, reason, example, size, similarity, distance)
