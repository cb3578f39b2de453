"""CPCFeatures and LinearProbe on photographs' cuts and on real clothes."""

import io
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits, load_sample_images
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from sktl import CNNClassifier, CPCFeatures, LinearProbe, Phase
from sktl.exceptions import (
    BackboneNotFoundError,
    CollapseWarning,
    DivergenceError,
    ImageDecodeError,
    ParameterError,
)
from sktl.self_supervised import _pretrain
from sktl.training import Augmentation
from sktl.training._data import Pixels


def pictures(n=40, size=24):
    rng = np.random.default_rng(0)
    images = load_sample_images().images
    y = np.arange(n) % 2
    places = [(rng.integers(0, 390), rng.integers(0, 600)) for _ in y]
    cuts = zip(y, places, strict=True)
    return np.stack([images[k][a : a + size, b : b + size] for k, (a, b) in cuts]), y


def cpc(**parameters):
    parameters = {"n_features": 16, "epochs": 2, "batch_size": 16, "random_state": 0, **parameters}
    return CPCFeatures(store=None, **parameters)


def test_it_learns_to_predict():
    X, _ = pictures(120)
    history = cpc(epochs=8, lr=0.003).fit(X).history_
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert history["accuracy"].iloc[-1] > 2 * history["chance"].iloc[-1]
    expected = [-np.log(c) for c in history["chance"]]
    # The mean over tasks of log(N) is near log of the mean of 1 / N.
    assert np.allclose(history["mi_bound"], np.array(expected) - history["loss"], atol=0.3)
    assert history["effective_rank"].iloc[-1] > 2


@pytest.mark.parametrize(
    "parameters",
    [
        {"context": "gru"}, {"directions": 4}, {"normalization": "batch"}, {"n_negatives": 31},
        {"encoder": "resnet18", "patch_size": 16, "overlap": 12, "image_size": 32},
        {"patch_augment": None}, {"precision": "bf16"}, {"pooling": "max"},
        {"encoder": torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())},
    ],
)  # fmt: skip
def test_variants(parameters):
    X, _ = pictures()
    features = cpc(**parameters).fit_transform(X)
    assert features.shape == (40, 16)
    assert np.isfinite(features).all()


def test_many_pictures(capfd):
    """So many that another runtime might be chosen, which cannot take these networks."""
    X, _ = pictures(1100)
    fitted = cpc(epochs=1).fit(X[:40])
    some = fitted.transform(X[:50])
    np.testing.assert_allclose(fitted.transform(X)[:50], some, rtol=1e-3, atol=1e-5)
    assert capfd.readouterr() == ("", "")


def test_outputs():
    X, _ = pictures()
    fitted = cpc(output="both").fit(X)
    both = fitted.transform(X)
    assert both.shape == (40, 32)
    assert len(fitted.get_feature_names_out()) == 32
    parts = [clone(fitted).set_params(output=o).fit(X).transform(X) for o in ("latents", "context")]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), both, rtol=1e-3, atol=1e-4)
    maps = fitted.encoder_.module
    mean, std = (np.array(v) for v in (fitted._preprocessing.mean, fitted._preprocessing.std))
    x = torch.from_numpy(((X / 255 - mean) / std).transpose(0, 3, 1, 2)).float()
    with torch.no_grad():
        expected = maps(x).mean((2, 3)).numpy()
    np.testing.assert_allclose(both[:, :16], expected, rtol=1e-3, atol=1e-4)


def test_places_kept_apart():
    X, _ = pictures()
    fitted = cpc(output="both", pooling="flatten").fit(X)
    rows = fitted.transform(X)
    n_places = fitted.network_.grid(torch.zeros(1, 3, 24, 24)).shape[2:].numel()
    assert rows.shape == (40, 2 * 16 * n_places)
    assert len(fitted.get_feature_names_out()) == rows.shape[1]
    means = rows.reshape(40, 32, n_places).mean(2)
    np.testing.assert_allclose(
        means, fitted.set_params(pooling="avg").transform(X), rtol=1e-4, atol=1e-5
    )


def test_defaults_follow_from_the_size():
    digits, _ = load_digits(return_X_y=True)
    small = cpc(image_shape=(8, 8), image_size=28, epochs=1).fit(digits[:40])
    assert (small.network_.grid.size, small.network_.grid.stride) == (8, 4)
    assert small.network_.first_step == 2
    large = cpc(epochs=1).fit(load_sample_images().images)
    assert large._preprocessing.size == 96
    assert (large.network_.grid.size, large.network_.grid.stride) == (24, 12)


@pytest.mark.parametrize("seed", [0, None])
def test_a_killed_fit_goes_on(tmp_path, monkeypatch, seed):
    X, _ = pictures()
    whole = cpc(epochs=4, random_state=0).fit(X)

    class KilledError(Exception):
        pass

    epoch = _pretrain.Pretraining._epoch

    def killed(self, pixels, number, epochs, bar):
        if number == 2:
            raise KilledError
        epoch(self, pixels, number, epochs, bar)

    with monkeypatch.context() as patched:
        patched.setattr(_pretrain.Pretraining, "_epoch", killed)
        with pytest.raises(KilledError):
            cpc(epochs=4, checkpoint_dir=tmp_path, random_state=seed).fit(X)
    resumed = cpc(epochs=4, checkpoint_dir=tmp_path, random_state=seed).fit(X)
    assert len(list(tmp_path.iterdir())) == 1
    np.testing.assert_allclose(resumed.transform(X), whole.transform(X), rtol=1e-5, atol=1e-6)
    assert len(resumed.history_) == 4


def test_checkpoints_of_other_networks_are_left_alone(tmp_path):
    X, _ = pictures()

    def encoder(scale):
        convolution = torch.nn.Conv2d(3, 8, 3)
        torch.nn.init.normal_(convolution.weight, std=scale)
        return torch.nn.Sequential(convolution, torch.nn.ReLU())

    results = [
        cpc(encoder=encoder(value), epochs=1, checkpoint_dir=tmp_path).fit(X).transform(X)
        for value in (0.1, 0.3)
    ]
    assert np.abs(results[0] - results[1]).max() > 1e-3
    assert len(list(tmp_path.glob("*.pt"))) == 2


def test_a_failed_fit_is_no_fit(monkeypatch):
    X, _ = pictures()
    model = cpc().fit(X)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_pretrain.Pretraining, "_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.fit(X)
    with pytest.raises(NotFittedError):
        model.transform(X)


def test_parameters_set_after_fit_do_not_harm_a_pickle():
    X, _ = pictures()
    model = cpc().fit(X)
    expected = model.transform(X)
    model.set_params(n_features=32, context="gru", directions=4)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.transform(X), expected)
    assert again.get_feature_names_out().shape == (16,)


def test_partial_fit_and_pickle():
    X, _ = pictures()
    model = cpc()
    for _ in range(3):
        model.partial_fit(X)
    assert model.history_["epoch"].tolist() == [1, 2, 3]
    assert model.history_["lr"].tolist() == 3 * [0.001]
    after_fit = cpc().fit(X)
    for source in (after_fit, pickle.loads(pickle.dumps(after_fit))):
        before = source.history_
        source.partial_fit(X)
        assert source.history_["epoch"].tolist() == [1, 2, 3]
        assert source.history_["loss"].tolist()[:2] == before["loss"].tolist()
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.transform(X), model.transform(X))


def test_the_encoder_is_fine_tuned():
    X, y = pictures()
    pretrained = cpc(epochs=3).fit(X)
    before = pretrained.transform(X)
    phases = [("head", Phase("head", 10, lr=0.1)), ("all", Phase("all", 3, lr=0.01))]
    tuned = CNNClassifier(
        pretrained.encoder_, phases=phases, random_state=0, validation=None, store=None
    )
    assert tuned.fit(X, y).score(X, y) > 0.75
    by_estimator = tuned.set_params(backbone=pretrained).fit(X, y)
    assert by_estimator.score(X, y) > 0.75
    with pytest.raises(BackboneNotFoundError, match="forgets what was learnt"):
        clone(tuned).fit(X, y)
    np.testing.assert_array_equal(pretrained.transform(X), before), "the encoder was changed"


def test_collapse_is_seen():
    assert _pretrain.effective_rank(np.ones((20, 4))) == 0
    line = np.outer(np.arange(20.0), np.ones(4))
    assert _pretrain.effective_rank(line) == pytest.approx(1, abs=1e-6)
    square = np.concatenate([np.eye(4), -np.eye(4)])
    assert _pretrain.effective_rank(square) == pytest.approx(4)
    gray = np.full((20, 24, 24, 3), 90, np.uint8)
    with pytest.warns(CollapseWarning, match="directions"):
        cpc(epochs=1).fit(gray)


def test_wrong_parameters_and_divergence():
    X, _ = pictures()
    with pytest.raises(ParameterError, match=r"(?s)context.*directions.*temperature"):
        cpc(context="lstm", directions=3, temperature=0).fit(X)
    with pytest.raises(ParameterError, match="overlap must be below patch_size"):
        cpc(overlap=40).fit(X)
    with pytest.raises(ParameterError, match="color_jitter"):
        cpc(patch_augment=Augmentation(color_jitter=50)).fit(X)
    with pytest.raises(ParameterError, match="lr"):
        cpc(epochs=1).fit(X).set_params(lr=-1.0).partial_fit(X)
    with pytest.raises(ParameterError, match=r"patch_size must be smaller.*rows"):
        cpc(patch_size=20, overlap=10).fit(X)
    with pytest.raises(DivergenceError):
        cpc(lr=1e30, epochs=3, normalization="batch").fit(X)


def test_unlabelled_rows():
    X, y = pictures()
    names = np.array(["temple", "flower"], dtype=object)[y]
    names[10:] = None
    numbers = np.where(np.arange(40) < 10, y, -1)
    classifier = LogisticRegression()
    by_name = LinearProbe(cpc(), classifier).fit(X, names)
    by_number = LinearProbe(cpc(), classifier).fit(list(X), numbers)
    assert set(by_name.classes_) == {"temple", "flower"}
    assert by_number.classes_.tolist() == [0, 1]
    np.testing.assert_allclose(
        by_name.predict_proba(X)[:, ::-1], by_number.predict_proba(X), rtol=1e-4, atol=1e-6
    )
    expected = cpc().fit(X)  # from all rows
    np.testing.assert_allclose(
        by_name.encoder_.transform(X), expected.transform(X), rtol=1e-5, atol=1e-6
    )
    mixed = [name if i < 10 else -1 for i, name in enumerate(np.array(["b", "a"])[y].tolist())]
    missing = pd.Series([label if label != -1 else None for label in mixed])
    for labels in (mixed, missing, missing.astype("category")):
        assert LinearProbe(cpc(epochs=1), classifier).fit(X, labels).classes_.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="put None in its place"):
        LinearProbe(cpc(epochs=1), classifier).fit(X, np.array(mixed))
    strings = [str(label) for label in mixed]
    for labels in (strings, pd.Series(strings), np.array(strings, dtype=object)):
        with pytest.raises(ValueError, match='the string "-1": if it is that of'):
            LinearProbe(cpc(epochs=1), classifier).fit(X, labels)
    with pytest.raises(ParameterError, match="strings or numbers; it has both"):
        LinearProbe(cpc(epochs=1), classifier).fit(X, [*mixed[:-1], 3])
    with pytest.raises(ValueError, match="no labels"):
        LinearProbe(cpc()).fit(X, np.full(40, -1))


def test_a_pipeline_pretrains_on_its_training_folds_only():
    from sklearn.model_selection import cross_validate

    X, y = pictures()
    model = make_pipeline(cpc(), LogisticRegression())
    folds = cross_validate(model, X, y, cv=2, return_estimator=True, return_indices=True)
    for fitted, train in zip(folds["estimator"], folds["indices"]["train"], strict=True):
        alone = cpc().fit(X[train])
        np.testing.assert_allclose(fitted[0].transform(X), alone.transform(X), rtol=1e-5, atol=1e-6)


def test_partial_fit_follows_its_parameters():
    X, _ = pictures()
    model = cpc().partial_fit(X)
    before = model.transform(X)
    model.set_params(lr=1e-12, n_negatives=5).partial_fit(X)
    np.testing.assert_allclose(model.transform(X), before, atol=1e-5)
    assert model.history_["lr"].tolist() == [0.001, 1e-12]
    assert model.history_["chance"].iloc[-1] == pytest.approx(1 / 6)


def test_partial_fit_keeps_the_momentum():
    X, _ = pictures()
    at_once, forgetful = cpc().partial_fit(X), cpc().partial_fit(X)
    assert at_once._online.optimizer.state
    forgetful.__dict__.pop("_online")
    changes = [model.partial_fit(X).transform(X) for model in (at_once, forgetful)]
    assert not np.allclose(*changes, atol=1e-4)


def test_a_failed_partial_fit_changes_nothing():
    X, _ = pictures()
    model = cpc().partial_fit(X)
    before = model.transform(X)
    with pytest.raises(DivergenceError):
        model.set_params(lr=1e30).partial_fit(X)
    np.testing.assert_array_equal(model.transform(X), before)
    assert len(model.history_) == 1
    assert np.isfinite(model.set_params(lr=0.001).partial_fit(X).transform(X)).all()


def test_a_last_step_that_diverges_is_noticed():
    X, _ = pictures()
    with pytest.raises(DivergenceError, match="features are NaN in epoch 1"):
        cpc(lr=1e20, epochs=1, batch_size=40).fit(X)
    with pytest.raises(ParameterError, match="lr must be a finite number above 0"):
        cpc(lr=np.inf).fit(X)


def test_a_damaged_first_picture_is_named(tmp_path):
    file = io.BytesIO()
    Image.fromarray(load_sample_images().images[0]).save(file, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(file.getvalue()[:20000])
    X = [tmp_path / "cut.jpg", *pictures()[0]]
    with pytest.raises(ImageDecodeError, match="truncated"):
        cpc(image_size=None).fit(X)


def test_names_of_networks_are_checked_before_pictures_are_read(monkeypatch):
    X, _ = pictures()
    monkeypatch.setattr(Pixels, "fill", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(BackboneNotFoundError, match="mobilenet_v2"):
        cpc(encoder="mobilenet_v22").fit(X)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1] * 40, "needs labels of at least 2 classes; y has 1 alone"),
        (np.linspace(0, 1, 40), "Unknown label type"),
        (np.zeros((40, 2), int), "y should be a 1d array"),
    ],
)
def test_labels_are_checked_before_pretraining(labels, message, monkeypatch):
    X, _ = pictures()
    monkeypatch.setattr(CPCFeatures, "fit", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match=message):
        LinearProbe(cpc()).fit(X, labels)


def test_confidences_of_a_classifier_without_probabilities():
    X, y = pictures()
    probe = LinearProbe(cpc(), LinearSVC()).fit(X, y)
    scores = probe.decision_function(X)
    np.testing.assert_array_equal((scores > 0).astype(int), probe.predict(X))
    assert not hasattr(probe, "predict_proba")
    assert not hasattr(LinearProbe(cpc(), GaussianNB()), "decision_function")


def test_what_was_learnt_outlives_a_fit_that_is_refused(tmp_path):
    X, _ = pictures()
    model = cpc(epochs=1).fit(X)
    before = model.transform(X)
    for bad, parameters in (([*X[:3], "nofile.jpg"], {}), (X, {"patch_size": 20})):
        with pytest.raises((ImageDecodeError, ParameterError)):
            model.set_params(**parameters).fit(bad)
        np.testing.assert_array_equal(
            model.set_params(patch_size=cpc().patch_size).transform(X), before
        )
    with pytest.raises(ParameterError, match="patch_size must be an integer of at least 2"):
        cpc(patch_size=1).fit(X)
