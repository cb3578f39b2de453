"""How small a change of the pixels is enough to mislead a network."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from sktl.exceptions import ParameterError
from sktl.inspection._grid import single_axes
from sktl.inspection._networks import ScoreNetwork, as_score_network, normalised, squares
from sktl.inspection._pictures import check_count, labels_of, pictures_of

__all__ = ["AdversarialDisplay", "adversarial_accuracy", "adversarial_pictures"]

_EPSILONS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def adversarial_pictures(
    estimator: Any, X: Any, y: Any, *, epsilon: float = 2.0, batch_size: int = 16
) -> npt.NDArray[np.float32]:
    r"""Change pictures a little, so that a network goes wrong (FGSM).

    Each pixel goes by `epsilon` in the direction in which the cross-entropy loss grows:
    :math:`x + \epsilon \operatorname{sign} \nabla_x L(x, y)`, clipped to the range of pixels.

    Parameters
    ----------
    estimator : Pipeline, CNNClassifier, Backbone or str
        As of :func:`class_activation`.
    X : array-like of n_images pictures
        Anything that :func:`sktl.images.as_images` takes.
    y : array-like of shape (n_images,)
        True labels.
    epsilon : float, default=2.0
        Change of each pixel, in levels of 0-255.
    batch_size : int, default=16
        Pictures at once.

    Returns
    -------
    pictures : ndarray of shape (n_images, size, size, 3), dtype float32
        What the network sees of the pictures, changed; RGB, values 0-255.

    Raises
    ------
    ParameterError
        If the estimator has no network with gradients, y has labels that it does not know, or
        `epsilon` is negative.

    References
    ----------
    I. J. Goodfellow, J. Shlens, C. Szegedy, "Explaining and Harnessing Adversarial Examples",
    ICLR 2015, arXiv:1412.6572, section 4.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sktl import load_backbone
    >>> from sktl.inspection import adversarial_pictures
    >>> backbone = load_backbone("resnet18", weights=None)  # random weights, for the example
    >>> photographs = load_sample_images().images
    >>> adversarial_pictures(backbone, photographs, [3, 7]).shape
    (2, 224, 224, 3)
    """
    (epsilon,) = _check_epsilons([epsilon])
    network, pixels, labels = _prepare(estimator, X, y)
    changed = np.empty(pixels.shape, dtype=np.float32)
    for part in _batches(len(pixels), batch_size):
        changed[part] = _step(pixels[part], _signs(network, pixels[part], labels[part]), epsilon)
    return changed


def adversarial_accuracy(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    epsilons: Any = _EPSILONS,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Accuracy on pictures that are changed to mislead, by the size of the change (FGSM).

    Parameters
    ----------
    estimator : Pipeline, CNNClassifier, Backbone or str
        As of :func:`class_activation`.
    X : array-like of n_images pictures
        Anything that :func:`sktl.images.as_images` takes.
    y : array-like of shape (n_images,)
        True labels.
    epsilons : sequence of float, default=(0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
        Changes of each pixel, in levels of 0-255; see :func:`adversarial_pictures`.
    batch_size : int, default=16
        Pictures at once.

    Returns
    -------
    table : DataFrame
        One row an epsilon: `epsilon`, `accuracy`, and `random_accuracy` under changes of the same
        size in random directions, for comparison.

    Raises
    ------
    ParameterError
        As :func:`adversarial_pictures`.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sktl import load_backbone
    >>> from sktl.inspection import adversarial_accuracy
    >>> backbone = load_backbone("resnet18", weights=None)  # random weights, for the example
    >>> photographs = load_sample_images().images
    >>> adversarial_accuracy(backbone, photographs, [3, 7], epsilons=[0, 1]).columns.tolist()
    ['epsilon', 'accuracy', 'random_accuracy']
    """
    epsilons = _check_epsilons(epsilons)
    network, pixels, labels = _prepare(estimator, X, y)
    rng = np.random.default_rng(0)
    right = np.zeros((2, len(epsilons)))
    for part in _batches(len(pixels), batch_size):
        signs = _signs(network, pixels[part], labels[part])
        random = rng.choice(np.array([-1, 1], dtype=np.int8), signs.shape)
        for i, epsilon in enumerate(epsilons):
            for kind, direction in enumerate((signs, random)):
                found = _predict(network, _step(pixels[part], direction, epsilon))
                right[kind, i] += (found == labels[part]).sum()
    accuracy, random_accuracy = right / len(pixels)
    return pd.DataFrame(
        {"epsilon": epsilons, "accuracy": accuracy, "random_accuracy": random_accuracy}
    )


class AdversarialDisplay:
    """Accuracy by the size of a misleading change of the pixels.

    Parameters
    ----------
    table : DataFrame
        As of :func:`adversarial_accuracy`.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import pandas as pd
    >>> from sktl.inspection import AdversarialDisplay
    >>> table = pd.DataFrame(
    ...     {"epsilon": [0, 1, 2], "accuracy": [0.9, 0.4, 0.1], "random_accuracy": [0.9, 0.9, 0.8]}
    ... )
    >>> AdversarialDisplay(table).plot().ax_.get_ylabel()
    'Accuracy'
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, epsilons: Any = _EPSILONS, ax: Any = None
    ) -> Self:
        """Compute the accuracies and draw them.

        Parameters
        ----------
        estimator : Pipeline, CNNClassifier, Backbone or str
            As of :func:`class_activation`.
        X : array-like of n_images pictures
            Anything that :func:`sktl.images.as_images` takes.
        y : array-like of shape (n_images,)
            True labels.
        epsilons : sequence of float, default=(0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
            As of :func:`adversarial_accuracy`.
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        display : AdversarialDisplay
        """
        return cls(adversarial_accuracy(estimator, X, y, epsilons=epsilons)).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw accuracy by epsilon.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        self : AdversarialDisplay
        """
        ax = single_axes(ax, "AdversarialDisplay.plot", (5.2, 3.6))
        epsilon = self.table["epsilon"]
        ax.plot(
            epsilon, self.table["random_accuracy"], marker="s", ms=4, color="0.6",
            label="random direction",
        )  # fmt: skip
        ax.plot(
            epsilon, self.table["accuracy"], marker="o", ms=4, color="C3",
            label="direction of the gradient (FGSM)",
        )  # fmt: skip
        ax.set(xlabel="Change of each pixel (levels of 0-255)", ylabel="Accuracy")
        ax.set_ylim(-0.03, 1.03)
        ax.grid(alpha=0.25)
        ax.legend(fontsize=9)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _prepare(
    estimator: Any, X: Any, y: Any
) -> tuple[ScoreNetwork, npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The network, the pictures as it sees them, and numbers of their classes."""
    images = pictures_of(X, estimator)
    truth = labels_of(y, len(images))
    network = as_score_network(estimator)
    position = {label: i for i, label in reversed(list(enumerate(network.classes.tolist())))}
    unknown = sorted({label for label in truth.tolist() if label not in position}, key=str)
    if unknown:
        raise ParameterError(f"y has labels that are not among the classes: {unknown}")
    numbers = np.array([position[label] for label in truth.tolist()], dtype=np.int64)
    return network, squares(images, network.preprocessing), numbers


def _signs(
    network: ScoreNetwork, pixels: npt.NDArray[Any], labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.int8]:
    signs: npt.NDArray[np.int8] = np.sign(_gradients(network, pixels, labels)).astype(np.int8)
    return signs


def _gradients(
    network: ScoreNetwork, pixels: npt.NDArray[Any], labels: npt.NDArray[np.int64]
) -> npt.NDArray[Any]:
    """Of the cross entropy summed over pictures, by pixels: (n, H, W, 3)."""
    import torch

    like = next(network.module.parameters())
    x = torch.as_tensor(pixels).to(like).requires_grad_(True)
    with torch.enable_grad():
        scores = network.module(normalised(x, network.preprocessing, like))
        loss = torch.nn.functional.cross_entropy(
            scores, torch.as_tensor(labels).to(like.device), reduction="sum"
        )
        (gradient,) = torch.autograd.grad(loss, x)
    found: npt.NDArray[Any] = gradient.cpu().numpy()
    return found


def _predict(network: ScoreNetwork, pixels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    import torch

    like = next(network.module.parameters())
    with torch.no_grad():
        scores = network.module(normalised(pixels, network.preprocessing, like))
    found: npt.NDArray[np.int64] = scores.argmax(1).cpu().numpy()
    return found


def _step(
    pixels: npt.NDArray[np.uint8], signs: npt.NDArray[np.int8], epsilon: float
) -> npt.NDArray[np.float32]:
    return np.clip(pixels + np.float32(epsilon) * signs, 0, 255).astype(np.float32)


def _batches(n: int, batch_size: int) -> list[slice]:
    batch_size = check_count("batch_size", batch_size)
    return [slice(start, start + batch_size) for start in range(0, n, batch_size)]


def _check_epsilons(epsilons: Any) -> list[float]:
    try:
        values = np.asarray(epsilons, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.ndim != 1 or len(values) == 0 or not ((values >= 0) & (values <= 255)).all():
        raise ParameterError(
            f"epsilons must be levels of pixels between 0 and 255; got {epsilons!r}"
        )
    return [float(value) for value in values]
