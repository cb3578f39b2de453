"""find_lr and overfit_check on cuts of photographs."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning
from sklearn.pipeline import make_pipeline

from sktl import Phase
from sktl.exceptions import DivergenceError, ParameterError
from sktl.neural_network import LearningRateDisplay, find_lr, overfit_check
from sktl.training._net import TransferSkorchNet

_spec = importlib.util.spec_from_file_location(
    "classifier_cases", Path(__file__).with_name("test_cnn_classifier.py")
)
_cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_cases)
classifier, pictures = _cases.classifier, _cases.pictures


def test_a_found_rate_trains_better_than_a_tiny_one():
    X, y = pictures()
    model = classifier(phases=[("train", Phase("all", 5))])
    before = repr(model), torch.random.get_rng_state()
    found = find_lr(model, X, y, lr_min=1e-5, lr_max=10.0, n_steps=60)
    assert repr(model) == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])
    assert not hasattr(model, "classes_")
    assert 1e-4 < found.suggestion < 1
    losses = [
        clone(model).set_params(phases__train__lr=lr).fit(X, y).history_["train_loss"].iloc[-1]
        for lr in (found.suggestion, 1e-5)
    ]
    assert losses[0] < losses[1]
    assert list(found.frame) == ["lr", "loss", "smoothed"]
    assert found.lr[0] == pytest.approx(1e-5)


def test_the_sweep_ends_where_the_loss_explodes():
    X, y = pictures()
    found = find_lr(classifier(), X, y, lr_min=1e-4, lr_max=1e6, n_steps=60)
    assert len(found.lr) < 60
    with pytest.raises(DivergenceError):
        find_lr(classifier(), X, y, lr_min=1e25, lr_max=1e30, n_steps=10)


def test_earlier_phases_come_first():
    X, y = pictures()
    phases = [("head", Phase("head", 20, lr=0.1)), ("all", Phase("all", 5))]
    found = find_lr(classifier(phases=phases), X, y, n_steps=10)
    untrained = find_lr(classifier(phases=phases), X, y, n_steps=10, phase="head")
    assert found.loss[0] < untrained.loss[0]
    with pytest.raises(ParameterError, match="phase must be one of"):
        find_lr(classifier(phases=phases), X, y, phase="tail")


def test_smoothing_is_a_line_through_the_steps_around():
    rng = np.random.default_rng(0)
    found = LearningRateDisplay(np.geomspace(1e-3, 1, 60), rng.random(60))
    steps = np.arange(60)
    for i in range(60):
        weights = np.exp(-0.5 * ((steps - i) / 3) ** 2)
        line = np.polyfit(steps, found.loss, 1, w=np.sqrt(weights))
        assert found.smoothed[i] == pytest.approx(np.polyval(line, i))


@pytest.mark.parametrize("seed", range(20))
def test_noise_at_the_start_is_not_taken_for_a_fall(seed):
    rate = np.geomspace(1e-6, 1, 100)
    fall = 1 / (1 + (1e-3 / rate) ** 1.5)  # fastest at .001
    explosion = 4 * np.maximum(0, np.log10(rate) + 1) ** 2
    noise = np.random.default_rng(seed).normal(0, 0.15, 100)
    found = LearningRateDisplay(rate, 1.6 - fall + explosion + noise)
    assert 1e-4 < found.suggestion < 1e-2


def test_a_loss_that_only_rises_suggests_nothing():
    found = LearningRateDisplay(np.geomspace(1e-3, 1, 20), np.linspace(1, 2, 20))
    assert np.isnan(found.suggestion)
    pytest.importorskip("matplotlib").use("Agg")
    assert len(found.plot().ax_.lines) == 2


def test_the_display_draws():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    found = LearningRateDisplay(np.geomspace(1e-3, 1, 20), np.linspace(2, 1, 20))
    drawn = found.plot()
    assert drawn.ax_.get_xscale() == "log"
    matplotlib.pyplot.close(drawn.figure_)


def test_a_sound_network_learns_by_heart():
    X, y = pictures(64)
    report = overfit_check(classifier("lenet", weights=None), X, y)
    assert report.passed
    assert report.accuracy == 1.0
    assert report.diagnosis == "all 32 pictures were learnt"


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"phases": [("p", Phase("all", 5, lr=1e-12))]}, "hardly falls"),
        ({"phases": [("p", Phase("all", 5, lr=1e30))]}, "smaller lr"),
    ],
)
def test_what_is_wrong_is_said(parameters, word):
    X, y = pictures(64)
    report = overfit_check(classifier("lenet", weights=None, **parameters), X, y)
    assert not report.passed
    assert word in report.diagnosis


def test_conflicting_labels_are_found():
    X, y = pictures(64)
    twice = np.concatenate([X[:16], X[:16]])
    labels = np.array(["a", "b"] * 8 + ["b", "a"] * 8)
    report = overfit_check(classifier("lenet", weights=None), twice, labels)
    assert "the same picture is labelled 'a' and 'b'" in report.diagnosis
    with pytest.raises(ParameterError, match="two classes"):
        overfit_check(classifier(), X, y, n_images=200)


@pytest.mark.parametrize("schedule", ["step", {0: 0.02, 5: 0.002, 8: 1e-4}])
def test_rates_that_fall_are_no_fault_of_the_network(schedule):
    X, y = pictures(64)
    phases = [("train", Phase("all", 10, lr=0.02, schedule=schedule))]
    model = classifier("lenet", weights=None, phases=phases)
    assert overfit_check(model, X, y).passed
    with pytest.raises(ParameterError, match="n_images must be an integer of at least 2"):
        overfit_check(model, X, y, n_images=1)


def test_one_lucky_batch_does_not_end_the_sweep(monkeypatch):
    losses = iter([0.004, 0.004, 0.0003, 0.004, *[0.004] * 10, 0.0003, *[0.004] * 20, *[5.0] * 99])
    monkeypatch.setattr(
        TransferSkorchNet, "train_step", lambda *_: {"loss": torch.tensor(next(losses))}
    )
    X, y = pictures()
    found = find_lr(classifier(), X, y, n_steps=60)
    assert 35 <= len(found.loss) <= 38


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 20.5}, "n_steps must be an integer of at least 3; got 20.5"),
        ({"lr_min": "a"}, "lr_min must be a finite number above 0; got 'a'"),
        ({"lr_max": np.inf}, "lr_max must be a finite number above 0; got inf"),
        ({"lr_min": 2, "lr_max": 1}, "lr_min must be below lr_max"),
    ],
)
def test_wrong_options_of_the_sweep_are_named(options, message):
    X, y = pictures()
    with pytest.raises(ParameterError, match=message):
        find_lr(classifier(), X, y, **options)


@pytest.mark.parametrize("tool", [find_lr, overfit_check])
def test_tools_are_for_classifiers_of_networks(tool):
    X, y = pictures()
    with pytest.raises(ParameterError, match="estimator must be a CNNClassifier; got Pipeline"):
        tool(make_pipeline(classifier()), X, y)
    with pytest.raises(ParameterError, match="phases must be"):
        tool(classifier().set_params(phases="abc"), X, y)


def test_labels_of_a_check_are_those_of_a_fit():
    X, y = pictures()
    model = classifier()
    expected = overfit_check(model, X, y, n_images=8)
    with pytest.warns(DataConversionWarning):
        column = overfit_check(model, X, y[:, None], n_images=8)
    assert column.diagnosis == expected.diagnosis
    for wrong in (y[:-5], np.append(y, y[:5])):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            overfit_check(model, X, wrong, n_images=8)
    with pytest.raises(ParameterError, match="y must give each picture a label"):
        overfit_check(model, X, [None, *y[1:].tolist()], n_images=8)
    with pytest.raises(ValueError, match="target y is None"):
        overfit_check(model, X, None)
