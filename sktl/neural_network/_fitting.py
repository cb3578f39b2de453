"""The trainer that the parameters of a classifier describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import nn

from sktl.engine import resolve_store
from sktl.engine._digests import picture_digests
from sktl.exceptions import ParameterError
from sktl.neural_network._build import Built
from sktl.training._augmentation import as_augmentation
from sktl.training._checkpoint import Checkpoint
from sktl.training._data import Pixels
from sktl.training._settings import Labelled, Settings
from sktl.training._stopping import as_stopping
from sktl.training._team import Team
from sktl.training._trainer import Trainer
from sktl.utils._torch import resolve_device

if TYPE_CHECKING:
    from sktl.neural_network._cnn_classifier import CNNClassifier
    from sktl.training._phase import Phase

__all__ = ["check_without_validation", "make_trainer", "without_validation"]

# Parameters that do not decide the result of a fit, or of which something else does.
_NOT_DESCRIBED = {
    "backbone", "checkpoint_dir", "device", "n_jobs", "phases", "random_state", "store",
    "validation", "verbose",
}  # fmt: skip


def make_trainer(
    estimator: CNNClassifier,
    built: Built,
    train: Labelled,
    valid: Labelled | None,
    seed: int,
    *,
    pixels: Sequence[Pixels] = (),
    epochs: Sequence[int] | None = None,
    phases: Sequence[tuple[str, Phase]] | None = None,
) -> Trainer:
    """A trainer of the network of an estimator.

    Parameters
    ----------
    estimator : CNNClassifier
    built : Built
        Its network.
    train, valid : Labelled
        The pictures; `valid` may be None.
    seed : int
        Of everything that is drawn in training.
    pixels : sequence of Pixels
        Those of both parts, where they have been decoded already.
    epochs : sequence of int, default=None
        Those of each phase, if not all of them will be trained.
    phases : sequence of (str, Phase), default=None
        If they are not those of the estimator.

    Returns
    -------
    trainer : Trainer

    Raises
    ------
    ParameterError
        If there are too few pictures for a batch.
    """
    e = estimator
    team = Team.launched() if e.device == "accelerate" else Team()
    least = 2 * team.size if team.size > 1 or _learns_statistics(e, built) else 1
    if min(e.batch_size, len(train.labels)) < least:
        raise ParameterError(
            f"batch_size, and the number of training pictures, must be at least {least}: in "
            f"each of {team.size} processes, batch normalisation needs two pictures; got "
            f"{e.batch_size} and {len(train.labels)}"
        )
    settings = Settings(
        batch_size=e.batch_size,
        augmentation=as_augmentation(e.augment),
        augment_copies=e.augment_copies,
        mixup=e.mixup,
        cutmix=e.cutmix,
        mix_off_epoch=e.mix_off_epoch,
        label_smoothing=e.label_smoothing,
        l1=e.l1,
        l2=e.l2,
        stopping=as_stopping(e.early_stopping),
        device=resolve_device(e.device),
        precision=e.precision,
        n_threads=e._n_threads(),
        image_size=e._described_network["image_size"],
        cache_bytes=e.cache_bytes,
        seed=seed,
        progress=bool(e.verbose) and team.is_first,
        team=team,
    )
    checkpoint = None
    if e.checkpoint_dir is not None:
        described = {**_described(e, built, train, valid, seed), "epochs": epochs}
        if phases is not None:
            described["phases"] = [(name, phase.get_params(deep=False)) for name, phase in phases]
        checkpoint = Checkpoint(e.checkpoint_dir, described)
    return Trainer(
        built.net,
        built.preprocessing,
        train,
        valid,
        settings,
        stored=built.stored,
        is_pretrained=e.weights is not None,
        has_learnt=built.has_learnt,
        pixels=pixels,
        checkpoint=checkpoint,
    )


def check_without_validation(net: Any) -> None:
    """Raise an error if callbacks watch what only validation pictures tell.

    Only skorch's: users' own may get along without.
    """
    callbacks = dict(net.callbacks_)
    lost = [
        name
        for name in _needing_validation(net)
        if type(callbacks[name]).__module__.startswith("skorch.")
    ]
    if lost:
        raise ParameterError(
            "callbacks must not watch scores of validation pictures with validation=None; got "
            f"{lost}. Pass validation=0.2, or let them watch train_loss"
        )


def _needing_validation(net: Any) -> list[str]:
    """Names of the callbacks that watch what only validation pictures tell."""
    scores = [c for _, c in net.callbacks_ if getattr(c, "on_train", None) is False]
    told = {score.name_ for score in scores if getattr(score, "name_", None)}
    watched = {name: str(getattr(c, "monitor", "")) for name, c in net.callbacks_}
    return [
        name
        for name, score in watched.items()
        if score.startswith("valid_") or score.removesuffix("_best") in told
    ]


def without_validation(net: Any) -> None:
    """Let callbacks rest that watch what only validation pictures tell."""
    resting = _needing_validation(net)
    net.callbacks_ = [(name, c) for name, c in net.callbacks_ if name not in resting]


def _learns_statistics(estimator: CNNClassifier, built: Built) -> bool:
    """Whether batch normalisation uses the statistics of the batch in some phase."""
    may = estimator.weights is None or estimator.batch_norm
    may = may or any(phase.batch_norm == "train" for _, phase in estimator._phases())
    return may and any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) for module in built.module.modules()
    )


def _described(
    estimator: CNNClassifier, built: Built, train: Labelled, valid: Labelled | None, seed: int
) -> dict[str, Any]:
    """Everything that decides the result of a fit."""
    parameters = estimator.get_params(deep=False)
    parts = [part for part in (train, valid) if part is not None]
    known = resolve_store(estimator.store) or resolve_store("memory")
    assert known is not None
    return {
        **{name: v for name, v in parameters.items() if name not in _NOT_DESCRIBED},
        "phases": [(name, phase.get_params(deep=False)) for name, phase in estimator._phases()],
        "network": built.backbone.fingerprints([estimator._described_network["layer"]]),
        "preprocessing": asdict(built.preprocessing),
        "classes": estimator.classes_.tolist(),
        "labels": [part.labels.tolist() for part in parts],
        "weights": [None if p.weights is None else p.weights.tolist() for p in parts],
        "pictures": [picture_digests(part.images, known) for part in parts],
        "seed": seed,
        "statistics": estimator._statistics,
    }
