"""The curve: the same labels for all ways, none seen by the encoder, numbers by hand."""

from typing import ClassVar

import matplotlib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from sktl import CNNClassifier, CPCFeatures, Phase
from sktl.exceptions import ParameterError
from sktl.model_selection import LabelEfficiency, label_efficiency_curve
from sktl.model_selection._label_efficiency import _untrained

matplotlib.use("agg")

X, Y = load_digits(n_class=4, return_X_y=True)
X, Y = X[:240], Y[:240]


def cpc(**parameters):
    return CPCFeatures(
        image_shape=(8, 8), image_size=16, n_features=16, epochs=1, random_state=0, store=None,
        **parameters,
    )  # fmt: skip


class Recorder(CPCFeatures):
    """Keeps what it is fitted to."""

    seen: ClassVar[list[int]] = []

    def fit(self, X, y=None):
        assert y is None, "labels reached the encoder"
        self.seen.append(len(X))
        return super().fit(X)


def test_ways_folds_and_fractions():
    folds = list(StratifiedKFold(2).split(X, Y))
    encoder = Recorder(
        image_shape=(8, 8), image_size=16, n_features=16, epochs=1, random_state=0, store=None
    )
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
    assert Recorder.seen == [120, 120], "once a fold, on its training part"
    table = curve.table
    assert len(table) == 2 * 2 * 4
    assert set(table["way"]) == {"probe", "fine_tuned", "scratch", "raw"}
    assert table.groupby("fraction")["n_labels"].unique().explode().to_dict() == {0.2: 24, 1: 120}
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
    curve = label_efficiency_curve(
        cpc(pooling="flatten"), X, Y, fractions=[0.3], cv=2, fine_tuned="same", random_state=0
    )
    means = curve.table.groupby("way")["accuracy"].mean()
    assert set(means.index) == {"probe", "fine_tuned", "scratch", "raw"}
    assert (means > 0.6).all(), means
    assert "36 labels: pretraining" in curve.verdict


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


def test_the_rival_starts_anew():
    trained = cpc().fit(X).encoder_
    fresh, again = _untrained(trained, 0), _untrained(trained, 0)
    tensors = [net.module.state_dict() for net in (trained, fresh, again)]
    weights = [name for name in tensors[0] if name.endswith("weight") and "0" in name]
    assert any((tensors[0][name] != tensors[1][name]).any() for name in weights)
    assert all((tensors[1][name] == tensors[2][name]).all() for name in tensors[1])


def test_wrong_fractions():
    with pytest.raises(ParameterError, match=r"above 0 and at most 1; got \[0, 2\]"):
        label_efficiency_curve(cpc(), X, Y, fractions=[0, 2])
    with pytest.raises(ParameterError, match="leaves 2 for 4 classes"):
        label_efficiency_curve(cpc(), X, Y, fractions=[0.02], cv=2)


class Pixels(TransformerMixin, BaseEstimator):
    """No network inside."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return np.zeros((len(X), 2))


def test_an_encoder_without_a_network():
    curve = label_efficiency_curve(
        Pixels(), [*X.reshape(-1, 8, 8)], Y, fractions=[1], cv=2, scratch=None, raw=False,
        classifier=LogisticRegression(),
    )  # fmt: skip
    assert curve.verdict == "There is nothing to compare the pretrained network with."
