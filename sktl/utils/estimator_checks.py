"""What every estimator of pictures must do, as checks that anyone can run on theirs.

scikit-learn's own ``check_estimator`` feeds tables of numbers, and therefore skips nearly all of
its checks for estimators whose X is not two-dimensional. These feed pictures.
"""

from __future__ import annotations

import inspect
import io
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline

from sktl.exceptions import ParameterError
from sktl.utils._sklearn import CachingScorer

__all__ = ["check_image_estimator", "image_checks", "parametrize_with_image_checks"]

Check = Callable[[Any], None]

# float32 sums in another order; a feature that depends on its neighbours is off by far more.
_RTOL, _ATOL = 1e-4, 1e-5


def parametrize_with_image_checks(estimators: Iterable[Any]) -> Any:
    """Make a pytest decorator that runs every check on every estimator.

    Parameters
    ----------
    estimators : iterable of estimators
        Instances, as their users would construct them. Small networks and pictures keep it quick.

    Returns
    -------
    decorator : pytest.MarkDecorator
        For a test function with the arguments ``estimator`` and ``check``.

    Examples
    --------
    >>> from sktl import CNNFeatures
    >>> from sktl.utils.estimator_checks import parametrize_with_image_checks
    >>> @parametrize_with_image_checks([CNNFeatures("resnet18", weights=None, image_size=32)])
    ... def test_contract(estimator, check):
    ...     check(estimator)
    """
    import pytest

    cases = [
        pytest.param(estimator, check, id=f"{estimator!r}-{name}".replace("\n", ""))
        for estimator in estimators
        for name, check in image_checks(estimator)
    ]
    return pytest.mark.parametrize(("estimator", "check"), cases)


def check_image_estimator(estimator: Any) -> pd.DataFrame:
    """Run every check on an estimator.

    Parameters
    ----------
    estimator : estimator
        An instance. It is cloned, not changed.

    Returns
    -------
    results : DataFrame with the columns "check" and "passed"
        One row a check; all have passed.

    Raises
    ------
    AssertionError, or what the estimator raised
        From the first check that fails.
    """
    names = []
    for name, check in image_checks(estimator):
        check(estimator)
        names.append(name)
    return pd.DataFrame({"check": names, "passed": True})


def image_checks(estimator: Any) -> Iterator[tuple[str, Check]]:
    """Give the name and the function of each check that applies to an estimator.

    Parameters
    ----------
    estimator : estimator
        An instance with `transform` or `predict`; its parameters decide what applies.

    Yields
    ------
    name : str
    check : callable
        Takes the estimator, returns None, raises if the check fails.
    """
    if isinstance(estimator, type):
        raise ParameterError(
            f"estimator must be an instance; got the class. Pass {estimator.__name__}(...)"
        )
    parameters = estimator.get_params(deep=False)
    for needed, check in _CHECKS:
        if (
            needed is None
            or needed in parameters
            or (needed == "transform" and hasattr(estimator, "transform"))
            or (needed == "predict" and is_classifier(estimator))
        ):
            yield check.__name__, check


class _Pictures:
    """Two dozen small pictures of three kinds, in every form that users hold them in."""

    def __init__(self, n: int = 24) -> None:
        rng = np.random.default_rng(0)
        self.kind = np.arange(n) % 3
        self.arrays = [self._draw(rng, int(kind)) for kind in self.kind]
        self.labels = np.array(["bar", "disc", "leaf"])[self.kind]

    @staticmethod
    def _draw(rng: np.random.Generator, kind: int) -> npt.NDArray[np.uint8]:
        """A smooth coloured field of its kind, shape (height, width, 3)."""
        height, width = rng.integers(36, 60, 2)
        y, x = np.mgrid[:height, :width] / 8.0
        phase, colour = rng.uniform(0, 6, 2), rng.uniform(0.5, 1.0, 3)
        waves = (np.sin(x + phase[0]), np.sin(y + phase[1]), np.sin(x * y / 4 + phase[0]))[kind]
        field = (waves[:, :, None] + 1) / 2 * colour * np.roll([1.0, 0.6, 0.3], kind)
        noisy = 255 * field + rng.normal(0, 8, field.shape)
        picture: npt.NDArray[np.uint8] = noisy.clip(0, 255).astype(np.uint8)
        return picture

    @property
    def pil(self) -> list[Image.Image]:
        return [Image.fromarray(array) for array in self.arrays]

    @property
    def encoded(self) -> list[bytes]:
        return [_png(image) for image in self.pil]

    def paths(self, folder: str | Path) -> list[str]:
        paths = [Path(folder, f"{i:02}.png") for i in range(len(self.arrays))]
        for path, content in zip(paths, self.encoded, strict=True):
            path.write_bytes(content)
        return [str(path) for path in paths]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _fit(estimator: Any, X: Any, y: Any = None) -> Any:
    return clone(estimator).fit(X, _Pictures().labels[: len(X)] if y is None else y)


def _output(fitted: Any, X: Any) -> npt.NDArray[Any]:
    """Numbers, one row a picture: features, or probabilities of the classes."""
    method = "transform" if hasattr(fitted, "transform") else "predict_proba"
    return np.asarray(getattr(fitted, method)(X))


def _classifier(estimator: Any) -> Any:
    """The estimator itself, or a classifier on top of its features."""
    if is_classifier(estimator):
        return clone(estimator)
    return make_pipeline(clone(estimator), LogisticRegression(max_iter=2000))


def _assert_close(one: Any, other: Any, what: str) -> None:
    np.testing.assert_allclose(one, other, rtol=_RTOL, atol=_ATOL, err_msg=what)


def check_init_only_assigns(estimator: Any) -> None:
    """Constructing stores the arguments as they are: it neither checks nor loads anything."""
    cls = type(estimator)
    marks = {name: object() for name in inspect.signature(cls).parameters}
    constructed = cls(**marks)
    stored = constructed.get_params(deep=False)
    assert stored.keys() == marks.keys()
    for name, mark in marks.items():
        assert stored[name] is mark, f"{name} is not stored as it was passed"
    extra = vars(constructed).keys() - marks.keys()
    assert not extra, f"__init__ sets {extra} beside its parameters"


def check_clone_and_set_params(estimator: Any) -> None:
    """A clone has the same parameters and is not fitted; set_params takes effect."""
    pictures = _Pictures(6)
    fitted = _fit(estimator, pictures.pil)
    cloned = clone(fitted)
    assert repr(cloned) == repr(estimator)
    assert not [name for name in vars(cloned) if name.endswith("_") and not name.startswith("_")]
    other = cloned.set_params(**estimator.get_params(deep=False)).fit(pictures.pil, pictures.labels)
    _assert_close(_output(other, pictures.pil), _output(fitted, pictures.pil), "after set_params")


def check_forms_of_pictures_agree(estimator: Any) -> None:
    """Path, bytes, array and PIL image of one picture give the same numbers."""
    pictures = _Pictures(6)
    fitted = _fit(estimator, pictures.pil)
    expected = _output(fitted, pictures.pil)
    with tempfile.TemporaryDirectory() as folder:
        paths = pictures.paths(folder)
        forms = {
            "str": paths,
            "Path": [Path(path) for path in paths],
            "array of str": np.array(paths),
            "array of objects": np.array(paths, dtype=object),
            "Series": pd.Series(paths, index=list("fedcba")),
            "bytes": pictures.encoded,
            "ragged arrays": pictures.arrays,
            "floats": [array / 255 for array in pictures.arrays],
            "channels first": [array.transpose(2, 0, 1) for array in pictures.arrays],
        }
        for form, X in forms.items():
            np.testing.assert_array_equal(_output(fitted, X), expected, err_msg=form)
        frame = pd.DataFrame({"path": paths})
        refitted = _fit(estimator, frame)
        np.testing.assert_array_equal(_output(refitted, frame), expected, err_msg="DataFrame")
        assert list(refitted.feature_names_in_) == ["path"]


def check_batch_size_does_not_matter(estimator: Any) -> None:
    """Batches of 1, of 5 and of all give the same numbers."""
    pictures = _Pictures(11)
    fitted = _fit(estimator, pictures.pil)
    expected = _output(fitted.set_params(batch_size=64), pictures.pil)
    for batch_size in (1, 5):
        numbers = _output(fitted.set_params(batch_size=batch_size), pictures.pil)
        _assert_close(numbers, expected, f"batch_size={batch_size}")


def check_neighbours_do_not_matter(estimator: Any) -> None:
    """A picture alone, in another order and among others gives the same numbers."""
    pictures = _Pictures(8)
    fitted = _fit(estimator, pictures.pil)
    expected = _output(fitted, pictures.pil)
    _assert_close(_output(fitted, pictures.pil[3:4]), expected[3:4], "alone")
    order = np.random.default_rng(0).permutation(8)
    _assert_close(_output(fitted, [pictures.pil[i] for i in order]), expected[order], "order")


def check_repeatable(estimator: Any) -> None:
    """The same call twice gives the same bits."""
    pictures = _Pictures(6)
    fitted = _fit(estimator, pictures.pil)
    np.testing.assert_array_equal(_output(fitted, pictures.pil), _output(fitted, pictures.pil))


def check_n_jobs_does_not_matter(estimator: Any) -> None:
    """Two workers give what one gives, in the same order."""
    pictures = _Pictures(11)
    fitted = _fit(estimator, pictures.encoded)
    expected = _output(fitted, pictures.encoded)
    parallel = _fit(clone(estimator).set_params(n_jobs=2), pictures.encoded)
    if "batch_size" in parallel.get_params():
        parallel.set_params(batch_size=2)
    _assert_close(_output(parallel, pictures.encoded), expected, "n_jobs=2")


def check_float32_output(estimator: Any) -> None:
    """Features are finite float32, one row a picture."""
    pictures = _Pictures(5)
    features = clone(estimator).fit_transform(pictures.pil, pictures.labels)
    assert features.dtype == np.float32
    assert len(features) == 5
    assert np.isfinite(features).all()
    assert len(np.unique(features.reshape(5, -1), axis=0)) == 5, "different pictures look the same"


def check_fit_transform_is_fit_then_transform(estimator: Any) -> None:
    """The shortcut gives what the two steps give."""
    pictures = _Pictures(5)
    features = clone(estimator).fit_transform(pictures.pil, pictures.labels)
    np.testing.assert_array_equal(features, _fit(estimator, pictures.pil).transform(pictures.pil))


def check_works_unfitted(estimator: Any) -> None:
    """An estimator whose tags say so transforms without having been fitted."""
    pictures = _Pictures(5)
    if estimator.__sklearn_tags__().requires_fit:
        return
    expected = _fit(estimator, pictures.pil).transform(pictures.pil)
    np.testing.assert_array_equal(clone(estimator).transform(pictures.pil), expected)


def check_pickle(estimator: Any) -> None:
    """Pickle and joblib hand on a fitted estimator that gives the same numbers."""
    pictures = _Pictures(6)
    fitted = _fit(estimator, pictures.pil)
    expected = _output(fitted, pictures.pil)
    np.testing.assert_array_equal(
        _output(pickle.loads(pickle.dumps(fitted)), pictures.pil), expected
    )
    buffer = io.BytesIO()
    joblib.dump(fitted, buffer)
    buffer.seek(0)
    np.testing.assert_array_equal(_output(joblib.load(buffer), pictures.pil), expected)


def check_network_stays_as_it_is(estimator: Any) -> None:
    """A network passed in train mode is used in eval mode and comes back bit for bit unchanged."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3),
            nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
        )  # fmt: skip
        for buffer in network[1].buffers():  # running mean and variance, and the number of batches
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    pictures = _Pictures(6)
    numbers = _output(
        _fit(clone(estimator).set_params(backbone=network.train()), pictures.pil), pictures.pil
    )
    assert network.training, "the caller's network has been switched to eval mode"
    assert not any(module._forward_hooks for module in network.modules()), "hooks left behind"
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} has changed"
    evaluated = clone(estimator).set_params(backbone=network.eval())
    _assert_close(numbers, _output(_fit(evaluated, pictures.pil), pictures.pil), "train mode used")


def check_bad_pictures_are_named(estimator: Any) -> None:
    """One error names every bad picture, whether its header or its body is bad."""
    pictures = _Pictures(8)
    fitted = _fit(estimator, pictures.pil)
    X = pictures.encoded
    X[2], X[5] = b"", b"no picture at all"
    _assert_raises_naming(fitted, X, ("[2]", "[5]"))
    X = pictures.encoded
    X[1], X[6] = X[1][: len(X[1]) // 2], X[6][: len(X[6]) // 2]
    _assert_raises_naming(fitted, X, ("[1]", "[6]"))
    _assert_raises_naming(fitted, ["no/such/picture.jpg"], ("no/such/picture.jpg", "not found"))


def _assert_raises_naming(fitted: Any, X: Any, words: tuple[str, ...]) -> None:
    message = None
    try:
        _output(fitted, X)
    except ValueError as error:
        message = str(error)
    assert message is not None, "bad pictures raise no ValueError"
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"


def check_bad_pictures_become_nan(estimator: Any) -> None:
    """With on_error="nan", bad pictures are rows of NaN and one warning; the others are right."""
    pictures = _Pictures(8)
    fitted = _fit(estimator, pictures.pil).set_params(on_error="nan")
    expected = _output(fitted, pictures.encoded)
    X = pictures.encoded
    X[2], X[5] = b"", X[5][: len(X[5]) // 2]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        numbers = _output(fitted, X)
    named = [str(w.message) for w in caught if "[2]" in str(w.message) and "[5]" in str(w.message)]
    assert len(named) == 1, f"expected one warning that names pictures 2 and 5, got {named}"
    bad = np.isin(np.arange(8), (2, 5))
    assert np.isnan(numbers[bad]).all()
    _assert_close(numbers[~bad], expected[~bad], "beside bad pictures")


def check_empty_x(estimator: Any) -> None:
    """No pictures at all is an error, in fit and afterwards."""
    fitted = _fit(estimator, _Pictures(6).pil)
    for call in (lambda: clone(estimator).fit([], []), lambda: _output(fitted, [])):
        try:
            call()
        except ValueError:
            continue
        raise AssertionError("an empty X raises no ValueError")


def check_one_picture(estimator: Any) -> None:
    """A transformer can be fitted on a single picture."""
    pictures = _Pictures(1)
    assert len(clone(estimator).fit_transform(pictures.pil)) == 1


def check_one_class_is_an_error(estimator: Any) -> None:
    """A classifier says so when y has a single class."""
    pictures = _Pictures(6)
    try:
        clone(estimator).fit(pictures.pil, ["leaf"] * 6)
    except ValueError:
        return
    raise AssertionError("a single class raises no ValueError")


def check_store_does_not_matter(estimator: Any) -> None:
    """Without a store, with an empty one and from a full one the numbers are the same."""
    pictures = _Pictures(6)
    fitted = _fit(estimator, pictures.pil).set_params(store=None)
    expected = _output(fitted, pictures.encoded)
    with tempfile.TemporaryDirectory() as folder:
        fitted.set_params(store=Path(folder, "store"))
        np.testing.assert_array_equal(_output(fitted, pictures.encoded), expected, "empty store")
        X = [*pictures.encoded[::-1], pictures.encoded[0]]
        rows = [*range(5, -1, -1), 0]
        # Only what comes from the store is the same to the last bit.
        same = _assert_close if is_classifier(fitted) else np.testing.assert_array_equal
        same(_output(fitted, X), expected[rows], "full store")


def check_feature_names(estimator: Any) -> None:
    """One distinct name a feature; set_output gives a DataFrame with them and the index of X."""
    pictures = _Pictures(6)
    transformer = clone(estimator)
    features = transformer.fit_transform(pictures.pil)
    if features.ndim != 2:
        return
    names = transformer.get_feature_names_out()
    assert len(names) == len(set(names)) == features.shape[1]
    transformer.set_output(transform="pandas")
    with tempfile.TemporaryDirectory() as folder:
        for container in (pd.DataFrame, lambda data, index: pd.Series(data["path"], index=index)):
            X = container({"path": pictures.paths(folder)}, index=list("fedcba"))
            frame = transformer.fit_transform(X)
            assert list(frame.columns) == list(names)
            assert list(frame.index) == list("fedcba")
            _assert_close(frame.to_numpy(), features, "set_output")


def check_labels_of_any_type(estimator: Any) -> None:
    """Strings, integers with gaps and bools come back as they went in."""
    pictures = _Pictures()
    classes = (np.array(["a", "b", "c"]), np.array([3, 7, 40]), np.array([True, False, True]))
    for names in classes:
        y = names[pictures.kind]
        predicted = _classifier(estimator).fit(pictures.pil, y).predict(pictures.pil)
        assert predicted.dtype.kind == y.dtype.kind
        assert set(predicted) <= set(y)
        assert np.mean(predicted == y) > 0.6, "cannot tell its own training pictures apart"


def check_grid_search(estimator: Any) -> None:
    """Works in GridSearchCV, with paths and string labels."""
    pictures = _Pictures()
    model = _classifier(estimator)
    grid = _grid(model)
    with tempfile.TemporaryDirectory() as folder:
        paths = pictures.paths(folder)
        search = GridSearchCV(model, grid, cv=2, error_score="raise")
        search.fit(paths, pictures.labels)
        assert set(search.predict(paths[:3])) <= set(pictures.labels)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def _grid(model: Any) -> dict[str, list[Any]]:
    if "logisticregression__C" in model.get_params():
        return {"logisticregression__C": [0.1, 10.0]}
    names = [name for name in model.get_params() if name.rpartition("__")[2] == "batch_size"]
    return {name: [4, 8] for name in names[:1]}


def check_stacking(estimator: Any) -> None:
    """Works in StackingClassifier."""
    pictures = _Pictures()
    stack = StackingClassifier(
        [("one", _classifier(estimator)), ("two", _classifier(estimator))],
        LogisticRegression(),
        cv=2,
    )
    assert (
        stack.fit(pictures.encoded, pictures.labels).score(pictures.encoded, pictures.labels) > 0.6
    )


def check_cross_val_predict(estimator: Any) -> None:
    """Works in cross_val_predict, whose probabilities sum to one."""
    pictures = _Pictures()
    model = _classifier(estimator)
    probabilities = cross_val_predict(
        model, pictures.arrays, pictures.labels, cv=2, method="predict_proba"
    )
    assert probabilities.shape == (24, 3)
    _assert_close(probabilities.sum(axis=1), np.ones(24), "sum of probabilities")


def check_calibration(estimator: Any) -> None:
    """Works in CalibratedClassifierCV."""
    pictures = _Pictures()
    model = CalibratedClassifierCV(_classifier(estimator), cv=2)
    probabilities = model.fit(pictures.encoded, pictures.labels).predict_proba(pictures.encoded)
    assert probabilities.shape == (24, 3)


def check_column_transformer(estimator: Any) -> None:
    """Works on a column of a DataFrame beside a numeric one, selected as ``"path"`` or a list."""
    pictures = _Pictures(8)
    with tempfile.TemporaryDirectory() as folder:
        X = pd.DataFrame({"width": np.arange(8.0), "path": pictures.paths(folder)})
        features = clone(estimator).fit_transform(X[["path"]])
        if features.ndim != 2:
            return
        for selected in ("path", ["path"]):
            columns = ColumnTransformer(
                [("picture", clone(estimator), selected), ("width", "passthrough", ["width"])]
            )
            numbers = columns.fit_transform(X)
            _assert_close(numbers[:, :-1], features, "beside a numeric column")
            _assert_close(numbers[:, -1], X["width"], "the numeric column")


def check_fold_without_a_class(estimator: Any) -> None:
    """A scorer that ranks classes gives a number where training lacked a class of the test fold."""
    pictures = _Pictures()
    kept = [i for i in range(24) if pictures.kind[i] != 2]
    folds = [(np.array(kept[:12]), np.setdiff1d(np.arange(24), kept[:12]))]
    scores = cross_val_score(
        _classifier(estimator),
        pictures.pil,
        pictures.labels,
        cv=folds,
        scoring=CachingScorer(_share_first, {}),
        error_score="raise",
    )
    assert 0 < scores[0] < 1, "classes that training lacked can only be missed"


def _share_first(y_true: Any, y_score: Any, *, classes: Any) -> float:
    return float(np.mean(classes[y_score.argmax(axis=1)] == y_true))


# What an estimator must have, or None, and the check.
_CHECKS: tuple[tuple[str | None, Check], ...] = (
    (None, check_init_only_assigns),
    (None, check_clone_and_set_params),
    (None, check_forms_of_pictures_agree),
    ("batch_size", check_batch_size_does_not_matter),
    (None, check_neighbours_do_not_matter),
    (None, check_repeatable),
    ("n_jobs", check_n_jobs_does_not_matter),
    ("transform", check_float32_output),
    ("transform", check_fit_transform_is_fit_then_transform),
    ("transform", check_works_unfitted),
    (None, check_pickle),
    ("backbone", check_network_stays_as_it_is),
    (None, check_bad_pictures_are_named),
    ("on_error", check_bad_pictures_become_nan),
    (None, check_empty_x),
    ("transform", check_one_picture),
    ("predict", check_one_class_is_an_error),
    ("store", check_store_does_not_matter),
    ("transform", check_feature_names),
    (None, check_labels_of_any_type),
    (None, check_grid_search),
    (None, check_stacking),
    (None, check_cross_val_predict),
    (None, check_calibration),
    ("transform", check_column_transformer),
    (None, check_fold_without_a_class),
)
