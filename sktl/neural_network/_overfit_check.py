"""Whether a network can learn a handful of pictures by heart: if not, something is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.utils import check_random_state

from sktl.engine import resolve_store
from sktl.engine._digests import picture_digests
from sktl.exceptions import DivergenceError, ParameterError
from sktl.neural_network._checks import check_parameters
from sktl.neural_network._cnn_classifier import CNNClassifier
from sktl.neural_network._parts import classes_of
from sktl.utils._parameters import ParameterChecks

__all__ = ["OverfitReport", "overfit_check"]

# Steps that each phase is given at least.
_N_STEPS = 200


@dataclass(frozen=True)
class OverfitReport:
    """What came of an attempt to learn a few pictures by heart.

    Attributes
    ----------
    passed : bool
        Whether all of them were learnt.
    accuracy : float
        Share of them that were.
    diagnosis : str
        What is probably wrong, if anything.
    history : DataFrame
        `history_` of the attempt; empty if it diverged.

    Examples
    --------
    >>> import pandas as pd
    >>> from sktl.neural_network import OverfitReport
    >>> OverfitReport(True, 1.0, "all 32 pictures were learnt", pd.DataFrame()).passed
    True
    """

    passed: bool
    accuracy: float
    diagnosis: str
    history: pd.DataFrame


def overfit_check(
    estimator: CNNClassifier, X: Any, y: Any, *, n_images: int = 32, random_state: Any = 0
) -> OverfitReport:
    """Train on a few pictures of two classes until they are known by heart.

    A network, a learning rate and labels that are as they should be reach 100 %. Augmentation,
    mixing, the head's dropout, penalties, early stopping and schedules are off; each phase has at
    least 200 steps.

    Parameters
    ----------
    estimator : CNNClassifier
        Cloned, not changed.
    X : array-like of n_images pictures
        Anything that :func:`sktl.images.as_images` takes.
    y : array-like of shape (n_images,)
        Labels, of which the two most frequent are used.
    n_images : int, default=32
        Pictures, half of each class.
    random_state : int, RandomState instance or None, default=0
        Chooses the pictures.

    Returns
    -------
    report : OverfitReport

    Examples
    --------
    >>> import numpy as np
    >>> from sktl import CNNClassifier
    >>> from sktl.neural_network import overfit_check
    >>> dark, light = np.random.default_rng(0).integers(0, 128, (2, 20, 32, 32, 3), dtype=np.uint8)
    >>> X, y = np.concatenate([dark, light + 128]), ["dark"] * 20 + ["light"] * 20
    >>> overfit_check(CNNClassifier("lenet", weights=None, random_state=0), X, y).diagnosis
    'all 32 pictures were learnt'
    """
    checks = ParameterChecks("overfit_check")
    checks.that("estimator", estimator, isinstance(estimator, CNNClassifier), "a CNNClassifier")
    checks.done()
    check_parameters(estimator, estimator._phases())
    checks.integer("n_images", n_images, minimum=2)
    checks.done()
    images = estimator._as_images(X, estimator.value_range)
    known, numbers = classes_of(y, len(images), None, "overfit_check")
    y = known[numbers]
    classes, counts = np.unique(y, return_counts=True)
    each = n_images // 2
    if len(classes) < 2 or np.sort(counts)[-2] < each:
        raise ParameterError(
            f"n_images={n_images} needs {each} pictures of each of two classes; y has "
            f"{dict(zip(classes.tolist(), counts.tolist(), strict=True))}"
        )
    rng = check_random_state(random_state)
    two = classes[np.argsort(-counts, kind="stable")[:2]]
    chosen = np.concatenate([rng.permutation(np.flatnonzero(y == c))[:each] for c in two])
    images, labels = images[chosen], y[chosen]
    model = _without_regularisation(estimator, len(chosen))
    try:
        model.fit(images, labels)
    except DivergenceError as error:
        return OverfitReport(False, float("nan"), str(error), pd.DataFrame())
    accuracy = float(np.mean(model.predict(images) == labels))
    return OverfitReport(
        accuracy == 1.0, accuracy, _diagnosis(model, images, labels, accuracy), model.history_
    )


def _without_regularisation(estimator: CNNClassifier, n_images: int) -> CNNClassifier:
    steps = -(-n_images // estimator.batch_size)
    phases = []
    for name, phase in estimator._phases():
        epochs = max(phase.epochs, -(-_N_STEPS // steps))
        constant = {"lr": phase.base_lr, "schedule": None, "weight_decay": 0.0}
        phases.append((name, clone(phase).set_params(epochs=epochs, **constant)))
    copied: CNNClassifier = clone(estimator).set_params(
        phases=phases, augment=None, augment_copies=None, mixup=0.0, cutmix=0.0, dropout=0.0,
        label_smoothing=0.0, l1=0.0, l2=0.0, validation=None, early_stopping=None, keep="final",
        refit=False, class_weight=None, callbacks=None, checkpoint_dir=None,
    )  # fmt: skip
    return copied


def _diagnosis(model: CNNClassifier, images: Any, labels: Any, accuracy: float) -> str:
    if accuracy == 1.0:
        return f"all {len(labels)} pictures were learnt"
    store = resolve_store("memory")
    assert store is not None
    seen: dict[Any, Any] = {}
    for digest, label in zip(picture_digests(images, store), labels.tolist(), strict=True):
        if seen.setdefault(digest, label) != label:
            return (
                f"the same picture is labelled {seen[digest]!r} and {label!r}: clean the labels "
                "first"
            )
    loss = model.history_["train_loss"]
    if loss.iloc[-1] > 0.9 * loss.iloc[0]:
        return (
            f"the training loss hardly falls, from {loss.iloc[0]:.3g} to {loss.iloc[-1]:.3g}: the "
            "learning rate is far too small or too large (see find_lr), or what learns is too "
            'little (train="all")'
        )
    return (
        f"the training loss falls, from {loss.iloc[0]:.3g} to {loss.iloc[-1]:.3g}, but "
        f"{round((1 - accuracy) * len(labels))} pictures are not learnt: more epochs, a larger "
        'learning rate (see find_lr), or more that learns (train="all")'
    )
