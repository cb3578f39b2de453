"""A fitted classifier as one ONNX file: network, scaling, linear classifier, stack."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.ensemble import StackingClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sktl.engine import prepare
from sktl.exceptions import ParameterError, SavedModelError
from sktl.feature_extraction import CNNFeatures
from sktl.images import as_images
from sktl.neural_network import CNNClassifier
from sktl.nn.pooling import pool
from sktl.utils._files import replacing
from sktl.utils._optional import import_optional
from sktl.utils._sklearn import safe_indexing
from sktl.utils._tracing import write_onnx

if TYPE_CHECKING:
    from sktl.backbones import Preprocessing

__all__ = ["export_onnx"]

# Largest difference of a probability between the file and the estimator.
_TOLERANCE = 1e-4


def export_onnx(estimator: Any, file: str | os.PathLike[str], X: Any) -> Path:
    """Write a fitted classifier of pictures as one ONNX file, and check it.

    The file has one input for each network size in it, ``pixels`` or ``pixels_0``, ``pixels_1``,
    ...: pictures as uint8 of shape (n_images, size, size, 3), RGB, resized and cropped as its
    metadata say. Its output ``probabilities`` is float32 of shape (n_images, n_classes), in the
    order of the metadata's classes. Normalising is part of the file.

    Parameters
    ----------
    estimator : classifier
        Fitted: a Pipeline of CNNFeatures, StandardScaler or nothing, and a linear classifier with
        `predict_proba`; a CNNClassifier; or a StackingClassifier of these with a linear final
        estimator.
    file : str or Path
        Where to write.
    X : array-like of n_images pictures
        Some pictures, on which the file must agree with the estimator.

    Returns
    -------
    file : Path

    Raises
    ------
    SavedModelError
        If a part has no counterpart in ONNX, or the file's probabilities differ by more than 1e-4.
    ParameterError
        If there are no pictures in X, or `file` is a folder.
    FileNotFoundError
        If there is no folder to write into.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.datasets import load_sample_images
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sktl import CNNFeatures
    >>> from sktl.export import export_onnx
    >>> X = load_sample_images().images
    >>> model = make_pipeline(CNNFeatures("resnet18", weights=None), LogisticRegression())
    >>> model = model.fit(X, ["temple", "flower"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_onnx(model, Path(folder, "model.onnx"), X).name
    'model.onnx'
    """
    for package in ("onnx", "onnxruntime"):
        import_optional(package, extra="onnx", caller="export_onnx")
    check_is_fitted(estimator)
    target = Path(file)
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {os.fspath(target.absolute().parent)!r}")
    if target.is_dir():
        raise ParameterError(f"export_onnx: {target} is a folder; give the name of a file")
    parts = _Parts()
    graph = _classifier(estimator, parts).eval()
    if not hasattr(estimator, "predict_proba"):
        raise SavedModelError(
            f"{type(estimator).__name__} cannot be exported to ONNX: its last step is no "
            "classifier with predict_proba"
        )
    pixels = [_pixels(X, estimator, way) for way in parts.inputs]
    names = ["pixels"] if len(pixels) == 1 else [f"pixels_{i}" for i in range(len(pixels))]
    # A file that was there stays, unless this one holds what it promises.
    with replacing(target) as draft:
        _write(graph, pixels, names, draft)
        _describe(draft, names, parts, estimator.classes_)
        _compare(draft, names, pixels, estimator, X)
    return target


def _write(graph: nn.Module, pixels: list[torch.Tensor], names: list[str], file: Path) -> None:
    try:
        write_onnx(_Graph(graph), pixels, file, inputs=names, outputs=["probabilities"])
    except Exception as error:
        raise SavedModelError(f"the network cannot be written as ONNX: {error}") from error


class _Parts:
    """The ways in which the networks of an estimator see pictures, each once."""

    def __init__(self) -> None:
        self.inputs: list[Preprocessing] = []

    def number(self, preprocessing: Preprocessing) -> int:
        # What is normalised alike or not is cut alike; that is inside of the file.
        way = dataclasses.replace(preprocessing, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        if way not in self.inputs:
            self.inputs.append(way)
        return self.inputs.index(way)


class _Graph(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *pixels: torch.Tensor) -> torch.Tensor:
        probabilities: torch.Tensor = self.model(pixels)
        return probabilities


class _Network(nn.Module):
    """Pixels, (n, size, size, 3) of uint8, to features or logits."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, number: int, preprocessing: Preprocessing, network: Any) -> None:
        super().__init__()
        self.number, self.network = number, network
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1))

    def forward(self, pixels: tuple[torch.Tensor, ...]) -> torch.Tensor:
        x = pixels[self.number].permute(0, 3, 1, 2).float() / 255
        values: torch.Tensor = self.network((x - self.mean) / self.std)
        return values


class _Pooled(nn.Module):
    """Layers of a backbone, pooled and side by side."""

    def __init__(self, network: nn.Module, pooling: Any) -> None:
        super().__init__()
        self.network, self.pooling = network, pooling

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([pool(maps, self.pooling).flatten(1) for maps in self.network(x)], dim=1)


class _Probabilities(nn.Module):
    """Logits to probabilities; of a single logit, to those of both classes."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        return logits.softmax(dim=1)


class _Stack(nn.Module):
    """Probabilities of several models to those of the one that reads them."""

    def __init__(self, models: list[nn.Module], final: nn.Module) -> None:
        super().__init__()
        self.models, self.final = nn.ModuleList(models), final

    def forward(self, pixels: tuple[torch.Tensor, ...]) -> torch.Tensor:
        columns = []
        for model in self.models:
            values = model(pixels)
            columns.append(values[:, 1:] if values.shape[1] == 2 else values)
        probabilities: torch.Tensor = self.final(torch.cat(columns, dim=1))
        return probabilities


def _classifier(estimator: Any, parts: _Parts) -> nn.Module:
    """What gives the probabilities of a fitted classifier."""
    if isinstance(estimator, CNNClassifier):
        return _fine_tuned(estimator, parts)
    if isinstance(estimator, StackingClassifier):
        if set(estimator.stack_method_) != {"predict_proba"} or estimator.passthrough:
            raise SavedModelError(
                "a stack is exported where its models give probabilities, and its final estimator "
                "nothing else: stack_method='predict_proba', passthrough=False"
            )
        models = [_classifier(model, parts) for model in estimator.estimators_]
        return _Stack(models, _rows(estimator.final_estimator_))
    if isinstance(estimator, Pipeline):
        features, *rest = [step for _, step in estimator.steps if step not in (None, "passthrough")]
        if isinstance(features, CNNFeatures):
            return nn.Sequential(_features(features, parts), *map(_rows, rest))
    raise SavedModelError(
        f"{type(estimator).__name__} cannot be exported to ONNX: only a Pipeline that begins with "
        "CNNFeatures, a CNNClassifier, or a StackingClassifier of these"
    )


def _features(features: CNNFeatures, parts: _Parts) -> nn.Module:
    if features.crops != "center" or features.pooling == "none":
        raise SavedModelError('CNNFeatures is exported with crops="center", and pooled')
    backbone = features._network().load()
    preprocessing = backbone.preprocessing.at_size(features.image_size)
    network = backbone.feature_network(features._layers(), device=torch.device("cpu"))
    return _Network(parts.number(preprocessing), preprocessing, _Pooled(network, features.pooling))


def _fine_tuned(estimator: CNNClassifier, parts: _Parts) -> nn.Module:
    if estimator.crops != "center":
        raise SavedModelError('CNNClassifier is exported with crops="center"')
    built = estimator._built()
    module = copy.deepcopy(built.module).cpu().eval()
    network = _Network(parts.number(built.preprocessing), built.preprocessing, module)
    return nn.Sequential(network, _Probabilities())


def _rows(step: Any) -> nn.Module:
    """A step of a pipeline that reads rows of numbers."""
    if step is None or step == "passthrough":
        return nn.Identity()
    if isinstance(step, Pipeline):
        return nn.Sequential(*(_rows(inner) for _, inner in step.steps))
    if isinstance(step, StandardScaler):
        n = step.n_features_in_
        scale = step.scale_ if step.scale_ is not None else np.ones(n)
        mean = step.mean_ if step.mean_ is not None and step.with_mean else np.zeros(n)
        return _Affine(1 / scale, -mean / scale)
    is_linear = hasattr(step, "coef_") and hasattr(step, "intercept_")
    if is_linear and hasattr(step, "predict_proba") and _is_softmax(step):
        return nn.Sequential(_Linear(step.coef_, step.intercept_), _Probabilities())
    raise SavedModelError(
        f"{type(step).__name__} cannot be exported to ONNX: only StandardScaler, and a linear "
        "classifier whose probabilities are a softmax of its decision values"
    )


def _is_softmax(classifier: Any) -> bool:
    """Whether probabilities are the softmax, or logistic function, of the decision values.

    A copy whose decision values are its input is asked about small ones: of large ones, all ways
    make probabilities of 0 and 1.
    """
    n_values = len(classifier.coef_)
    values = np.random.default_rng(0).normal(scale=2, size=(20, n_values))
    same = copy.copy(classifier)
    vars(same).pop("feature_names_in_", None)
    try:
        same.coef_, same.intercept_ = np.eye(n_values), np.zeros(n_values)
        same.n_features_in_ = n_values
        found = same.predict_proba(values)
    except Exception:  # noqa: BLE001 (these are no attributes of its own, or not all there is)
        return False
    expected = _Probabilities()(torch.from_numpy(values)).numpy()
    return bool(np.allclose(found, expected, atol=1e-5))


class _Affine(nn.Module):
    factor: torch.Tensor
    offset: torch.Tensor

    def __init__(self, factor: Any, offset: Any) -> None:
        super().__init__()
        self.register_buffer("factor", torch.as_tensor(np.asarray(factor), dtype=torch.float32))
        self.register_buffer("offset", torch.as_tensor(np.asarray(offset), dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor + self.offset


class _Linear(nn.Module):
    coef: torch.Tensor
    intercept: torch.Tensor

    def __init__(self, coef: Any, intercept: Any) -> None:
        super().__init__()
        self.register_buffer("coef", torch.as_tensor(np.asarray(coef), dtype=torch.float32))
        self.register_buffer(
            "intercept", torch.as_tensor(np.asarray(intercept), dtype=torch.float32)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.coef.T + self.intercept


def _pixels(X: Any, estimator: Any, way: Preprocessing) -> torch.Tensor:
    """Pictures as one input of the file, at most eight."""
    first = estimator.estimators_[0] if isinstance(estimator, StackingClassifier) else estimator
    reader = first.steps[0][1] if isinstance(first, Pipeline) else first
    options = {name: getattr(reader, name) for name in ("image_shape", "value_range", "background")}
    options["value_range"] = getattr(reader, "value_range_", reader.value_range)
    images = as_images(X, **options)
    if len(images) == 0:
        raise ParameterError("export_onnx: X must have pictures to check the file with; got none")
    pictures = [prepare(images.read_rgb(i), way)[0] for i in range(min(8, len(images)))]
    return torch.from_numpy(np.stack(pictures))


def _describe(file: Path, names: list[str], parts: _Parts, classes: Any) -> None:
    """Note in the file what its inputs and outputs are."""
    onnx = import_optional("onnx", extra="onnx", caller="export_onnx")
    model = onnx.load(file)
    inputs = {
        name: {k: v for k, v in dataclasses.asdict(way).items() if k not in ("mean", "std")}
        for name, way in zip(names, parts.inputs, strict=True)
    }
    notes = {"classes": classes.tolist(), "inputs": inputs}
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in notes.items()})
    onnx.save(model, file)


def _compare(
    file: Path, names: list[str], pixels: list[torch.Tensor], estimator: Any, X: Any
) -> None:
    runtime = import_optional("onnxruntime", extra="onnx", caller="export_onnx")
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    feed = {name: part.numpy() for name, part in zip(names, pixels, strict=True)}
    (found,) = session.run(None, feed)
    expected = estimator.predict_proba(safe_indexing(X, slice(0, len(found))))
    difference = float(np.abs(found - expected).max())
    if not difference <= _TOLERANCE:
        raise SavedModelError(
            f"the ONNX file's probabilities differ from the estimator's by {difference:.2g}; it is "
            "not kept"
        )
