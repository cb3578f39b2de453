"""The curve: the same labels for all ways, none seen by the encoder, numbers by hand."""

import itertools
from typing import ClassVar

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from torch import nn

from sktl import CNNClassifier, CPCFeatures, Phase, as_images
from sktl.backbones import Backbone, Preprocessing
from sktl.exceptions import ParameterError
from sktl.model_selection import LabelEfficiency, label_efficiency_curve
from sktl.model_selection._label_efficiency import _as_images, _nested, _untrained

matplotlib.use("agg")

X, Y = load_digits(n_class=4, return_X_y=True)
X, Y = X[:120], Y[:120]
PICTURES = [*(15 * X.reshape(-1, 8, 8)).astype(np.uint8)]


def cpc(**parameters):
    return CPCFeatures(image_shape=(8, 8), n_features=16, epochs=1, random_state=0, store=None,
                       **parameters)  # fmt: skip


class Recorder(CPCFeatures):
    """Keeps what it is fitted to."""

    seen: ClassVar[list[int]] = []

    def fit(self, X, y=None):
        assert y is None, "labels reached the encoder"
        self.seen.append(len(X))
        return super().fit(X)


def test_ways_folds_and_fractions():
    folds = list(StratifiedKFold(2).split(X, Y))
    encoder = Recorder(**cpc().get_params())
    curve = label_efficiency_curve(
        encoder, X, Y, fractions=[1, 0.2], cv=folds, random_state=0,
        classifier=LogisticRegression(max_iter=1000),
        scratch=CNNClassifier(
            "lenet", weights=None, phases=[("all", Phase("all", 1))], validation=None,
            random_state=0, image_shape=(8, 8),
        ),
        fine_tuned=CNNClassifier(
            layer="bottleneck", phases=[("head", Phase("head", 1))], validation=None,
            random_state=0, store=None,
        ),
    )  # fmt: skip
    assert Recorder.seen == [60, 60], "once a fold, on its training part"
    table = curve.table
    assert len(table) == 2 * 2 * 4
    assert set(table["way"]) == {"probe", "fine_tuned", "scratch", "raw"}
    assert table.groupby("fraction")["n_labels"].unique().explode().to_dict() == {0.2: 12, 1: 60}
    train, test = folds[0]
    raw = LogisticRegression(max_iter=1000)
    whole = table.query("fold == 0 and fraction == 1 and way == 'raw'")["accuracy"].item()
    # The pictures are the digits enlarged, so that the pixels say the same.
    assert whole == pytest.approx(raw.fit(X[train], Y[train]).score(X[test], Y[test]), abs=0.05)
    probe = table.query("fold == 0 and fraction == 1 and way == 'probe'")["accuracy"].item()
    fitted = cpc().fit(X[train])
    by_hand = LogisticRegression(max_iter=1000).fit(fitted.transform(X[train]), Y[train])
    assert probe == pytest.approx(by_hand.score(fitted.transform(X[test]), Y[test]), abs=0.02)
    assert curve.plot().get_xscale() == "log"


def test_default_ways():
    fold = (np.arange(80), np.arange(80, 120))
    curve = label_efficiency_curve(
        cpc(pooling="flatten"), X, Y, fractions=[0.3], cv=[fold], fine_tuned="same", random_state=0
    )
    accuracy = curve.table.set_index("way")["accuracy"]
    assert set(accuracy.index) == {"probe", "fine_tuned", "scratch", "raw"}
    assert (accuracy > 0.5).all(), accuracy
    assert "24 labels: pretraining" in curve.verdict


def test_the_verdict_is_plain():
    rows = [
        (0, 0.1, 10, "probe", 0.5), (0, 0.1, 10, "raw", 0.6), (0, 0.1, 10, "scratch", 0.3),
        (0, 1.0, 100, "probe", 0.9), (0, 1.0, 100, "raw", 0.7), (0, 1.0, 100, "scratch", 0.8),
    ]  # fmt: skip
    columns = ["fold", "fraction", "n_labels", "way", "accuracy"]
    first, second = LabelEfficiency(pd.DataFrame(rows, columns=columns)).verdict.splitlines()
    assert first.startswith("10 labels: pretraining did not help: 50.0 %")
    assert "against 60.0 % (classifier on raw pixels), -10.0 points" in first
    assert second.startswith("100 labels: pretraining helped")
    assert "+10.0 points" in second


def test_a_fraction_is_one_point_though_folds_differ_in_size():
    rows = [
        (0, 0.1, 10, "raw", 0.5), (1, 0.1, 12, "raw", 0.7),
        (0, 1.0, 100, "raw", 0.8), (1, 1.0, 120, "raw", 0.9),
    ]  # fmt: skip
    columns = ["fold", "fraction", "n_labels", "way", "accuracy"]
    ax = LabelEfficiency(pd.DataFrame(rows, columns=columns)).plot()
    line, _, (bars,) = ax.containers[0]
    np.testing.assert_allclose(line.get_xydata(), [[11, 60], [110, 85]])
    spread = [segment[:, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(spread, [[50, 70], [80, 90]])  # means 60 and 85, spread 10 and 5
    matplotlib.pyplot.close(ax.figure)


@pytest.mark.parametrize("seed", [0, 1])
def test_labels_are_drawn_class_by_class(seed):
    y = np.random.default_rng(seed).permutation(np.repeat(["a", "b", "c"], [150, 150, 10]))
    fractions = [0.99, 0.03, 1, 0.5, 0.01]
    drawn = _nested(y, fractions, np.random.RandomState(seed))
    assert [fraction for fraction, _ in drawn] == sorted(fractions)
    numbers = [dict(zip(*np.unique(y[rows], return_counts=True), strict=True)) for _, rows in drawn]
    assert numbers[0] == {"a": 1, "b": 1, "c": 1}
    assert numbers[1] == {"a": 4, "b": 4, "c": 1}
    assert numbers[2] == {"a": 75, "b": 75, "c": 5}
    assert numbers[4] == {"a": 150, "b": 150, "c": 10}
    assert [len(rows) for _, rows in drawn] == [3, 9, 155, 307, 310]
    for (_, few), (_, more) in itertools.pairwise(drawn):
        assert set(few) < set(more)
    again = _nested(y, fractions, np.random.RandomState(seed))
    assert all((rows == same).all() for (_, rows), (_, same) in zip(drawn, again, strict=True))
    other = _nested(y, fractions, np.random.RandomState(seed + 5))
    assert (drawn[1][1] != other[1][1]).any()


def test_a_class_of_one_and_fractions_of_which_little_is_left():
    y = np.repeat([0, 1, 2], [150, 149, 1])
    (_, most), (_, everything) = _nested(y, [0.99, 1], np.random.RandomState(0))
    assert 299 in most
    assert (len(most), len(everything)) == (297, 300)


def test_the_rival_starts_anew():
    trained = cpc().fit(X).encoder_
    fresh, again = _untrained(trained, 0), _untrained(trained, 0)
    tensors = [net.module.state_dict() for net in (trained, fresh, again)]
    weights = [name for name in tensors[0] if name.endswith("weight") and "0" in name]
    assert any((tensors[0][name] != tensors[1][name]).any() for name in weights)
    assert all((tensors[1][name] == tensors[2][name]).all() for name in tensors[1])


class Scaled(nn.Module):
    """Has a parameter that no layer resets."""

    def __init__(self):
        super().__init__()
        self.conv, self.gamma = nn.Conv2d(3, 4, 3), nn.Parameter(torch.tensor([7.0]))

    def forward(self, x):
        return self.gamma * self.conv(x)


class Encoder(TransformerMixin, BaseEstimator):
    """Mean colours; its network has learnt nothing."""

    def __init__(self, network=None):
        self.network = network

    def fit(self, X, y=None):
        if self.network is not None:
            preprocessing = Preprocessing(size=8, resize=8)
            self.encoder_ = Backbone(self.network, preprocessing=preprocessing)
        return self

    def transform(self, X):
        return np.array([np.asarray(X.read_rgb(i)).mean((0, 1)) for i in range(len(X))])


def test_what_cannot_start_anew_is_refused():
    with pytest.raises(ParameterError, match=r"new weights: gamma belong.*scratch=None"):
        label_efficiency_curve(Encoder(Scaled()), PICTURES, Y, fractions=[1], cv=2)
    curve = label_efficiency_curve(
        Encoder(Scaled()), PICTURES, Y, fractions=[1], cv=2, scratch=None
    )
    assert set(curve.table["way"]) == {"probe", "raw"}


def test_an_encoder_without_a_network_is_refused_where_one_is_needed():
    with pytest.raises(ParameterError, match='scratch="same", raw=True: Encoder has no network'):
        label_efficiency_curve(Encoder(), PICTURES, Y, cv=2, fractions=[1])
    with pytest.raises(ParameterError, match="raw=True: Encoder has no network"):
        label_efficiency_curve(Encoder(), PICTURES, Y, cv=2, fractions=[1], scratch=None)
    Recorder.seen.clear()
    encoder = make_pipeline(Recorder(**cpc().get_params()), PCA(2))
    with pytest.raises(ParameterError, match="Pipeline has no network"):
        label_efficiency_curve(encoder, X, Y, cv=2)
    assert Recorder.seen == [], "it was known before"
    with pytest.raises(ParameterError, match=r"scratch must be .* got 'alike'"):
        label_efficiency_curve(cpc(), X, Y, scratch="alike")


def test_pictures_are_read_as_the_encoder_reads_them():
    clear = np.zeros((2, 8, 8, 4), np.uint8)
    assert (_as_images(clear, CPCFeatures(background="black")).decode(0) == 0).all()
    assert (_as_images(clear, CPCFeatures()).decode(0) == 255).all()
    images = as_images(clear, background="red")
    assert _as_images(images, CPCFeatures(background="black")) is images, "as of fit"


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"classifier": 3}, "classifier must be a classifier or None; got 3"),
        ({"classifier": LogisticRegression}, "classifier must be a classifier or None"),
        ({"scratch": 5}, 'scratch must be "same", a classifier or None; got 5'),
        ({"fine_tuned": 3}, 'fine_tuned must be "same", a CNNClassifier or None; got 3'),
        ({"fine_tuned": LogisticRegression()}, "fine_tuned must be"),
        ({"raw": "no"}, "raw must be True or False"),
        ({"y": np.zeros(120)}, r"two classes at least; one has \[0.0\] only"),
        ({"y": Y[:, None]}, r"one label a picture; got shape \(120, 1\)"),
        ({"fractions": 0.5}, "fractions must be a list of numbers .*; got 0.5"),
        ({"fractions": ["a"]}, r"fractions must be a list of numbers .*; got \['a'\]"),
    ],
)
def test_wrong_arguments_are_found_before_the_encoder_learns(parameters, match):
    Recorder.seen.clear()
    y = parameters.get("y", Y)
    rest = {name: value for name, value in parameters.items() if name != "y"}
    with pytest.raises(ParameterError, match=match):
        label_efficiency_curve(Recorder(**cpc().get_params()), X, y, **{"cv": 2, **rest})
    assert Recorder.seen == []


def of_encoder(**parameters):
    return label_efficiency_curve(
        Encoder(), PICTURES, Y, fractions=[1], scratch=None, raw=False, **parameters
    )


def test_accuracy_is_of_predictions_whatever_the_classifier_scores_by():
    folds = list(StratifiedKFold(2).split(X, Y))
    grid = GridSearchCV(LogisticRegression(), {"C": [1.0]}, scoring="neg_log_loss")
    curve = of_encoder(cv=folds, classifier=grid)
    pd.testing.assert_frame_equal(
        curve.table, of_encoder(cv=folds, classifier=LogisticRegression()).table
    )
    assert curve.table["accuracy"].between(0, 1).all()


def test_groups_reach_the_splitter():
    groups = np.arange(120) % 8
    splitter = GroupKFold(2)
    folds = list(splitter.split(X, Y, groups))
    model = LogisticRegression()
    pd.testing.assert_frame_equal(
        of_encoder(cv=splitter, groups=groups, classifier=model).table,
        of_encoder(cv=folds, classifier=model).table,
    )
    with pytest.raises(ValueError, match="inconsistent"):
        of_encoder(cv=splitter, groups=groups[:5])


def test_wrong_fractions():
    with pytest.raises(ParameterError, match=r"above 0 and at most 1; got \[0, 2\]"):
        label_efficiency_curve(cpc(), X, Y, fractions=iter([0, 2]))
    with pytest.raises(ParameterError, match=r"got \[\]"):
        label_efficiency_curve(cpc(), X, Y, fractions=[])
    with pytest.raises(ParameterError, match="leaves 1 for 4 classes"):
        label_efficiency_curve(cpc(), X, Y, fractions=[0.02], cv=2)


def test_an_encoder_without_a_network():
    curve = label_efficiency_curve(
        Encoder(), PICTURES, Y, fractions=(f for f in [1]), cv=2, scratch=None,
        raw=False, classifier=LogisticRegression(),
    )  # fmt: skip
    assert curve.verdict == "There is nothing to compare the pretrained network with."


@pytest.mark.parametrize("missing", [-1, None, np.nan])
def test_pictures_without_a_label_are_refused(missing):
    y = Y.tolist()
    y[3] = y[7] = missing
    with pytest.raises(ParameterError, match=r"y must give each picture a label; 2 of 120 are mi"):
        label_efficiency_curve(cpc(), PICTURES, y)
    if missing != -1:
        with pytest.raises(ParameterError, match="2 of 120 are missing"):
            label_efficiency_curve(cpc(), PICTURES, [f"c{k}" if k in range(4) else k for k in y])


def test_minus_one_may_be_one_of_two_classes():
    signs = np.where(Y < 2, -1, 1)
    curve = label_efficiency_curve(
        cpc(), PICTURES, signs, fractions=[1], cv=2, scratch=None, raw=False
    )
    assert curve.table["n_labels"].tolist() == [60, 60]
