"""What can be wrong with the parameters of a classifier, found before any work."""

from __future__ import annotations

import numbers
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import check_random_state

from sktl.engine import resolve_store
from sktl.engine._recipe import PRECISIONS
from sktl.exceptions import ParameterError
from sktl.neural_network._build import bare_network
from sktl.nn.pooling import POOLINGS
from sktl.training._augmentation import Augmentation, as_augmentation
from sktl.training._checkpoint import make_folder
from sktl.training._phase import Phase
from sktl.training._stopping import as_stopping
from sktl.utils._parameters import ParameterChecks
from sktl.utils._torch import resolve_device

if TYPE_CHECKING:
    from sktl.neural_network._cnn_classifier import CNNClassifier

__all__ = ["are_phases", "check_parameters"]


def check_parameters(estimator: CNNClassifier, phases: Any) -> None:
    """Raise one error that names every wrong parameter.

    Parameters
    ----------
    estimator : CNNClassifier
    phases : list of (str, Phase)
        Those that will be trained.

    Raises
    ------
    ParameterError
    """
    owner = type(estimator).__name__
    checks = ParameterChecks(owner)
    _check_network(estimator, checks)
    _check_data(estimator, checks)
    _check_stopping(estimator.early_stopping, estimator.validation, checks)
    _check_phases(phases, checks)
    checks.done()
    network = bare_network(estimator)
    for name, phase in phases:
        try:
            network.learning(phase.train)
        except ParameterError as error:
            raise ParameterError(f"{owner}: phases__{name}: {error}") from None
    if estimator.checkpoint_dir is not None:
        make_folder(estimator.checkpoint_dir)


def are_phases(phases: Any) -> bool:
    """Whether these are pairs of a name and a Phase."""
    return (
        isinstance(phases, (list, tuple))
        and len(phases) > 0
        and all(
            isinstance(item, (list, tuple))
            and len(item) == 2
            and isinstance(item[0], str)
            and isinstance(item[1], Phase)
            for item in phases
        )
    )


def _check_network(estimator: CNNClassifier, checks: ParameterChecks) -> None:
    e = estimator
    checks.choice("layer", e.layer, ("penultimate", "bottleneck"))
    checks.choice("pooling", e.pooling, tuple(p for p in POOLINGS if p != "none"))
    checks.choice("normalize", e.normalize, ("auto", "weights", "dataset"))
    checks.choice("precision", e.precision, PRECISIONS)
    checks.integer("image_size", e.image_size, minimum=1, optional=True)
    checks.n_jobs(e.n_jobs)
    checks.attempt(resolve_device, e.device)
    checks.attempt(resolve_store, e.store)
    head: Any = e.head
    widths = isinstance(head, Sequence) and not isinstance(head, str)
    checks.that(
        "head",
        head,
        widths and all(isinstance(n, (int, np.integer)) and n > 0 for n in head),
        "a sequence of widths, such as (256,)",
    )
    checks.truth("batch_norm", e.batch_norm)
    for name in ("dropout", "label_smoothing"):
        checks.number(name, getattr(e, name), most=0.99)
    for name in ("l1", "l2", "mixup", "cutmix"):
        checks.number(name, getattr(e, name))


def _check_data(estimator: CNNClassifier, checks: ParameterChecks) -> None:
    e = estimator
    checks.choice("keep", e.keep, ("best", "final"))
    checks.truth("refit", e.refit)
    checks.truth("compile", e.compile)
    checks.choice("crops", e.crops, ("center", "ten"))
    checks.integer("batch_size", e.batch_size, minimum=1)
    checks.integer("augment_copies", e.augment_copies, minimum=1, optional=True)
    checks.integer("mix_off_epoch", e.mix_off_epoch, minimum=0, optional=True)
    checks.integer("cache_bytes", e.cache_bytes, minimum=0)
    checks.attempt(_check_random_state, e.random_state)
    fine = e.checkpoint_dir is None or isinstance(e.checkpoint_dir, (str, os.PathLike))
    checks.that("checkpoint_dir", e.checkpoint_dir, fine, "a folder or None")
    verbose: Any = e.verbose
    checks.that("verbose", verbose, isinstance(verbose, (np.bool_, numbers.Real)), "a number")
    augmentation: Any = as_augmentation(e.augment)
    if isinstance(augmentation, Augmentation):
        augmentation.check(checks)
    rule = 'an Augmentation, "light", "trivial" or None'
    checks.that("augment", e.augment, isinstance(augmentation, (Augmentation, type(None))), rule)
    callbacks: Any = e.callbacks
    checks.that(
        "callbacks",
        callbacks,
        callbacks is None
        or (isinstance(callbacks, (list, tuple)) and all(map(_is_callback, callbacks))),
        "a list of skorch callbacks, or of pairs of a name and one",
    )
    alone = e.augment_copies is not None and augmentation is None
    checks.that("augment_copies", e.augment_copies, not alone, "None without augment")
    validation: Any = e.validation
    if isinstance(validation, numbers.Real):
        checks.that("validation", validation, 0 < float(validation) < 1, "between 0 and 1")
    else:
        checks.that(
            "validation",
            validation,
            validation is None
            or (hasattr(validation, "split") and not isinstance(validation, str))
            or (isinstance(validation, tuple) and len(validation) == 2),
            "a share, a splitter, a pair (X, y) or None",
        )


def _check_random_state(random_state: Any) -> None:
    try:
        check_random_state(random_state)
    except ValueError as error:
        raise ParameterError(
            f"random_state must be a whole number, a RandomState or None; got {random_state!r}."
        ) from error


def _is_callback(item: Any) -> bool:
    if isinstance(item, tuple):
        return len(item) == 2 and isinstance(item[0], str) and _is_callback(item[1])
    return item is None or hasattr(item, "on_epoch_end")


def _check_stopping(early_stopping: Any, validation: Any, checks: ParameterChecks) -> None:
    is_count = isinstance(early_stopping, numbers.Integral) and not isinstance(early_stopping, bool)
    if early_stopping is None:
        return
    if not is_count and not hasattr(early_stopping, "stops"):
        checks.that(
            "early_stopping", early_stopping, False, "a number of epochs, a criterion or None"
        )
        return
    criterion: Any = as_stopping(early_stopping)
    criterion.check(checks)
    checks.that("early_stopping", early_stopping, validation is not None, "None without validation")


def _check_phases(phases: Any, checks: ParameterChecks) -> None:
    if not are_phases(phases):
        checks.that("phases", phases, False, "a list of (name, Phase)")
        return
    names = [name for name, _ in phases]
    fine = len(set(names)) == len(names) and not any("__" in name for name in names)
    checks.that("phases", names, fine, "named differently, without double underscores")
    for name, phase in phases:
        phase.check(checks, f"phases__{name}")
