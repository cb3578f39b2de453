"""Estimators in a folder, without pickle."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sklearn.exceptions import NotFittedError
from sklearn.model_selection import _split
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sktl.exceptions import ParameterError, SavedModelError
from sktl.utils._optional import import_optional
from sktl.utils._parameters import ParameterChecks, shown
from sktl.utils._portable import Luggage, packing
from sktl.utils._torch import resolve_device

__all__ = ["load", "save"]

_FORMAT = 1
_ESTIMATOR, _TENSORS, _ABOUT = "estimator.skops", "tensors.safetensors", "sktl.json"
_OF_SEARCHES = "Of a search, save the best_estimator_, which is all that predicting needs"
_OF_NETWORKS = "A network of your own is saved by its name, see sktl.register_backbone"
_OF_OTHERS = (
    "Name them in trusted=, here and in load, if all who load the folder know where it comes from"
)
# Types that a saved estimator may consist of, beside those that skops trusts. Trees are not among
# them: scikit-learn goes where the numbers of their nodes say, even if that is outside of them.
_KNOWN = (
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.utils._bunch.Bunch",
    "sktl.backbones._backbone.BackboneSpec",
    "sktl.backbones._preprocessing.Preprocessing",
    "sktl.feature_extraction._cnn_features.CNNFeatures",
    "sktl.linear_model._logistic_probe.LogisticProbe",
    "sktl.neural_network._cnn_classifier.CNNClassifier",
    "sktl.neural_network._imagenet_classifier.ImageNetClassifier",
    "sktl.self_supervised._cpc_features.CPCFeatures",
    "sktl.self_supervised._linear_probe.LinearProbe",
    "sktl.training._augmentation.Augmentation",
    "sktl.training._phase.Phase",
    "sktl.training._phase.Schedule",
    "sktl.training._stopping.Patience",
    "sktl.training._stopping.PrecheltUP",
    "sktl.utils._portable.Table",
)


def save(
    estimator: Any,
    folder: str | os.PathLike[str],
    *,
    standalone: bool = False,
    trusted: Collection[str] = (),
) -> list[Path]:
    """Write an estimator into a folder, without pickle.

    The estimator is written by skops, and what was trained by safetensors. Pretrained weights are
    named, not written, unless `standalone` is True.

    Parameters
    ----------
    estimator : estimator
        Of sktl or scikit-learn, or any nesting of them: a pipeline, a stack; fitted, unless it
        needs no fit. Of a search, save the `best_estimator_`.
    folder : str or Path
        A new or empty folder.
    standalone : bool, default=False
        Whether to take pretrained weights along, for machines that reach no hub.
    trusted : list of str, default=()
        Dotted names of further types that may be written, which :func:`load` has to be told too.
        Forests and boosted trees need it: the error without it names their types.

    Returns
    -------
    files : list of Path
        What was written.

    Raises
    ------
    SavedModelError
        If the estimator is not fitted, or has parts of types that :func:`load` would not trust,
        such as a network of your own, or if the folder is not empty. Nothing is written then.
    ParameterError
        If `estimator` is no estimator, or `trusted` is no list of names.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_sample_images
    >>> from sktl import CNNFeatures
    >>> from sktl.export import load, save
    >>> X = load_sample_images().images
    >>> features = CNNFeatures("resnet18", weights=None).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = save(features, folder)
    ...     again = load(folder)
    >>> bool((again.transform(X) == features.transform(X)).all())
    True
    """
    skops = import_optional("skops.io", extra="export", caller="save")
    checks = ParameterChecks("save")
    _check_trusted(checks, trusted)
    checks.done()
    _check_fitted(estimator)
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SavedModelError(f"{target} is there already and not empty; choose another folder")
    with packing(Luggage(with_weights=standalone)) as luggage:
        try:
            content = skops.dumps(estimator)
        except Exception as error:
            remedy = _OF_SEARCHES if hasattr(estimator, "best_estimator_") else _OF_NETWORKS
            raise SavedModelError(
                f"{type(estimator).__name__} has a part that cannot be written without pickle: "
                f"{error}. {remedy}"
            ) from error
    unknown = _unknown(skops.get_untrusted_types(data=content), trusted)
    if unknown:
        raise SavedModelError(
            f"{type(estimator).__name__} has parts of types that load would not trust: {unknown}. "
            f"{_remedy(estimator, unknown)}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    # A killed save leaves no half model under the name that was asked for.
    place = target.absolute()
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as temporary:
        whole = Path(temporary, "model")
        whole.mkdir()
        _write(whole, content, luggage, estimator)
        if target.exists():  # and may be the working folder, which cannot be replaced
            for file in sorted(whole.iterdir(), key=lambda file: file.name == _ABOUT):
                shutil.move(file, target)
        else:
            whole.rename(target)
    return sorted(target.iterdir())


def load(
    folder: str | os.PathLike[str], *, trusted: Collection[str] = (), device: Any = "auto"
) -> Any:
    """Read an estimator that :func:`save` has written.

    No code in the files is run, and only types are built that sktl, scikit-learn and their
    dependencies are made of.

    Parameters
    ----------
    folder : str or Path
        The folder.
    trusted : list of str, default=()
        Dotted names of further types that may be built. Only name what you know.
    device : str or torch.device, default="auto"
        What becomes the parameter `device` of all estimators that have one, whatever machine they
        were trained on.

    Returns
    -------
    estimator : estimator
        Fitted as it was.

    Raises
    ------
    SavedModelError
        If the folder is no saved model, of a later format, damaged, or has types that are not
        trusted.
    ParameterError
        If `trusted` is no list of names, or the device is not there.

    Examples
    --------
    >>> from sktl.export import load
    >>> load("no-such-folder")
    Traceback (most recent call last):
    ...
    sktl.exceptions.SavedModelError: no-such-folder is no saved model: it has no sktl.json
    """
    skops = import_optional("skops.io", extra="export", caller="load")
    safetensors = import_optional("safetensors.torch", extra="export", caller="load")
    checks = ParameterChecks("load")
    _check_trusted(checks, trusted)
    checks.attempt(resolve_device, device)
    checks.done()
    source = Path(folder).absolute()
    about = _about(source, folder)
    _check_files(source, folder, about["sha256"])
    try:
        types = skops.get_untrusted_types(file=source / _ESTIMATOR)
        unknown = _unknown(types, trusted)
        if unknown:
            raise SavedModelError(
                f"{folder} has types that are not trusted: {unknown}. If you know where it comes "
                "from, name them in trusted="
            )
        tensors = safetensors.load_file(source / _TENSORS)
        luggage = Luggage(tensors, folder=source, device=str(device))
        with packing(luggage):
            estimator = skops.load(source / _ESTIMATOR, trusted=[*_known(), *trusted])
    except SavedModelError:
        raise
    except Exception as error:
        raise SavedModelError(
            f"{folder} cannot be read, it was saved by {about.get('versions')}: {error}"
        ) from error
    return estimator


def _write(folder: Path, content: bytes, luggage: Luggage, estimator: Any) -> None:
    safetensors = import_optional("safetensors.torch", extra="export", caller="save")
    (folder / _ESTIMATOR).write_bytes(content)
    # Tensors may share memory, which the format does not know.
    tensors = {name: t.detach().cpu().clone().contiguous() for name, t in luggage.tensors.items()}
    safetensors.save_file(tensors, folder / _TENSORS)
    for file, (backbone, weights) in luggage.networks.items():
        from sktl.backbones import load_backbone

        state = load_backbone(backbone, weights).module.state_dict()
        state = {name: t.detach().cpu().clone().contiguous() for name, t in state.items()}
        safetensors.save_file(state, folder / file)
    versions = {
        name: importlib.metadata.version(name) for name in ("sktl", "scikit-learn", "torch")
    }
    about = {
        "format": _FORMAT,
        "estimator": type(estimator).__name__,
        "versions": versions,
        "sha256": {file.name: _sha256(file) for file in sorted(folder.iterdir())},
    }
    (folder / _ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _check_files(source: Path, folder: Any, digests: Mapping[str, str]) -> None:
    """Raise an error for files that are not those that were saved together."""
    for name, digest in digests.items():
        if not (source / name).is_file():
            raise SavedModelError(f"{folder} is damaged: it has no {name}")
        if _sha256(source / name) != digest:
            raise SavedModelError(f"{folder} is damaged: its {name} is not the one that was saved")


def _about(source: Path, folder: Any) -> dict[str, Any]:
    file = source / _ABOUT
    if not file.is_file():
        raise SavedModelError(f"{folder} is no saved model: it has no {_ABOUT}")
    try:
        about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        number = int(about["format"])
        about["sha256"] = dict(about.get("sha256", {}))  # which the first ones did not have
    except (ValueError, KeyError, TypeError) as error:
        raise SavedModelError(f"{file} is damaged: {error}") from error
    if number > _FORMAT:
        raise SavedModelError(
            f"{folder} was saved by a later sktl, {about.get('versions')}; upgrade sktl"
        )
    return about


def _check_fitted(estimator: Any) -> None:
    """Raise an error for what cannot predict or transform."""
    if isinstance(estimator, Pipeline):
        for _, step in estimator.steps:
            if step not in (None, "passthrough"):
                _check_fitted(step)
        return
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        name = type(estimator).__name__
        raise SavedModelError(f"{name} is not fitted: call its fit before save") from error
    except (AttributeError, TypeError) as error:
        raise ParameterError(
            f"save: estimator must be a fitted estimator; got {shown(estimator)}"
        ) from error


def _check_trusted(checks: ParameterChecks, trusted: Any) -> None:
    several = isinstance(trusted, Collection) and not isinstance(trusted, str)
    names = several and all(isinstance(name, str) for name in trusted)
    checks.that("trusted", trusted, names, "a list of dotted names of types")


def _remedy(estimator: Any, unknown: list[str]) -> str:
    if hasattr(estimator, "best_estimator_"):
        return _OF_SEARCHES
    if all(name.startswith("sklearn.") for name in unknown):
        return _OF_OTHERS
    return f"{_OF_NETWORKS}. {_OF_OTHERS}"


def _unknown(types: Collection[str], trusted: Collection[str]) -> list[str]:
    # Whole names alone: what begins like one of them may be anything that its module imports.
    return sorted(set(types) - _known() - set(trusted))


def _known() -> set[str]:
    return {*_KNOWN, *(f"{_split.__name__}.{name}" for name in _split.__all__)}
