"""ONNX files: equal probabilities, by ONNX Runtime alone."""

import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier, StackingClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from sktl import CNNClassifier, CNNFeatures, Phase, as_images
from sktl.exceptions import ParameterError, SavedModelError
from sktl.export import export_onnx
from sktl.export._onnx import _is_softmax
from sktl.linear_model import LogisticProbe

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

IMAGES = load_sample_images().images
X = np.stack([image[i : i + 40, i : i + 40] for i in range(0, 120, 10) for image in IMAGES])
TWO = np.array(["temple", "flower"] * 12)
THREE = np.array(["temple", "flower", "sky"] * 8)


def features(size=32, **parameters):
    return CNNFeatures("resnet18", weights=None, image_size=size, store=None, **parameters)


@pytest.mark.parametrize("y", [TWO, THREE], ids=["two classes", "three classes"])
@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(features(), StandardScaler(), LogisticProbe()),
        make_pipeline(
            features(layer=[-2, "bottleneck"], pooling="max"), LogisticRegression(max_iter=2000)
        ),
        StackingClassifier(
            [
                ("one", make_pipeline(features(), LogisticRegression(max_iter=2000))),
                ("two", make_pipeline(features(48), LogisticRegression(max_iter=2000))),
            ],
            make_pipeline("passthrough", StandardScaler(), LogisticRegression(max_iter=2000)),
            cv=2,
        ),
        CNNClassifier(
            "resnet18",
            weights=None,
            image_size=32,
            phases=[("all", Phase("all", 2, lr=0.001))],
            validation=None,
            random_state=0,
            store=None,
        ),
    ],
    ids=["pipeline", "layers", "stack", "fine-tuned"],
)
def test_equal_probabilities(model, y, tmp_path):
    fitted = model.fit(X, y)
    file = export_onnx(fitted, tmp_path / "model.onnx", X[:4])
    notes = {p.key: json.loads(p.value) for p in onnx.load(file).metadata_props}
    assert notes["classes"] == fitted.classes_.tolist()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    feed = {}
    for name, way in notes["inputs"].items():
        feed[name] = _resized(way)
    (probabilities,) = session.run(None, feed)
    np.testing.assert_allclose(probabilities, fitted.predict_proba(X), rtol=1e-3, atol=1e-4)


def _resized(way):
    from PIL import Image

    pictures = []
    for image in X:  # square, so that cropping is of the centre
        picture = Image.fromarray(image)
        side, cut = way["resize"], round((way["resize"] - way["size"]) / 2)
        resized = picture.resize((side, side), Image.Resampling[way["interpolation"].upper()])
        pictures.append(resized.crop((cut, cut, cut + way["size"], cut + way["size"])))
    return np.stack([np.asarray(picture) for picture in pictures])


def test_rows_are_read_as_in_fit_and_a_good_file_is_kept(tmp_path):
    rows = np.round(X.mean(axis=3).reshape(len(X), -1) / 16)
    rows[0, :2] = 0, 16
    reader = features(image_shape=(40, 40))
    model = make_pipeline(reader, LogisticProbe()).fit(rows, TWO)
    dark = rows.clip(0, 1)
    file = export_onnx(model, tmp_path / "model.onnx", dark)
    before = file.read_bytes()
    with pytest.raises(SavedModelError):
        export_onnx(make_pipeline(reader, SVC()).fit(rows, TWO), file, rows)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_nothing_to_check_with_and_nowhere_to_write(tmp_path):
    model = make_pipeline(features(), LogisticRegression(max_iter=2000)).fit(X, TWO)
    with pytest.raises(ParameterError, match="pictures to check the file with; got none"):
        export_onnx(model, tmp_path / "model.onnx", [])
    with pytest.raises(FileNotFoundError, match=r"no folder '.*models'"):
        export_onnx(model, tmp_path / "models" / "model.onnx", X)
    with pytest.raises(ParameterError, match="is a folder; give the name of a file"):
        export_onnx(model, tmp_path, X)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", [list, tuple, as_images, np.asarray, torch.from_numpy])
def test_no_more_pictures_are_predicted_than_compared(form, tmp_path, monkeypatch):
    model = make_pipeline(features(), LogisticRegression(max_iter=2000)).fit(X, TWO)
    seen = []
    predict = CNNFeatures.transform
    monkeypatch.setattr(
        CNNFeatures, "transform", lambda self, X: (seen.append(len(X)), predict(self, X))[1]
    )
    export_onnx(model, tmp_path / "model.onnx", form(X))
    assert seen == [8]


@pytest.mark.parametrize(
    ("model", "culprit"),
    [
        (make_pipeline(features(), RandomForestClassifier(n_estimators=2)), "RandomForest"),
        (make_pipeline(features(), SVC(kernel="linear", C=0.1)), "SVC"),
        (make_pipeline(features(crops="ten"), LogisticRegression(max_iter=2000)), "crops"),
        (make_pipeline(features(), StandardScaler()), "last step is no classifier"),
        (make_pipeline(features(), SGDClassifier(loss="modified_huber")), "SGDClassifier cannot"),
    ],
)
def test_what_has_no_counterpart_is_refused(model, culprit, tmp_path):
    fitted = model.fit(X, TWO)
    with pytest.raises(SavedModelError, match=culprit):
        export_onnx(fitted, tmp_path / "model.onnx", X)
    assert not (tmp_path / "model.onnx").exists()


def test_one_against_the_rest_is_no_softmax(tmp_path):
    """Even where its decision values are so large that both are 0 or 1."""
    for y in (TWO, THREE):
        model = SGDClassifier(loss="log_loss", alpha=1e-6, random_state=0)
        fitted = make_pipeline(features(), StandardScaler(), model).fit(X, y)
        assert np.abs(fitted.decision_function(X)).min() > 10
        if y is TWO:  # of two classes it is the same
            export_onnx(fitted, tmp_path / "two.onnx", X)
            continue
        with pytest.raises(SavedModelError, match="SGDClassifier cannot be exported"):
            export_onnx(fitted, tmp_path / "three.onnx", X)


@pytest.mark.parametrize("n_features", [1, 3, 30])
def test_probabilities_of_classifiers_with_more_classes_than_features(n_features):
    random = np.random.default_rng(0)
    y = np.repeat(np.arange(20), 6)
    rows = random.normal(size=(120, n_features)) + random.normal(size=(20, n_features))[y]
    against_rest = SGDClassifier(loss="log_loss", max_iter=20, random_state=0, tol=None)
    assert not _is_softmax(against_rest.fit(rows, y))
    for model in (LogisticRegression(max_iter=200), LogisticProbe(), LinearDiscriminantAnalysis()):
        assert _is_softmax(model.fit(rows, y))
