"""Combinations of parameters, data and callbacks that are easily got wrong together."""

import copy
import enum
import errno
import functools
import gc
import os
import pickle
import signal
import threading
import warnings

import numpy as np
import pandas as pd
import pytest
import skorch.callbacks
import torch
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold, PredefinedSplit, ShuffleSplit
from skorch.callbacks import EarlyStopping, EpochScoring, Freezer, GradientNormClipping
from torch import nn

from sktl import CNNClassifier, CNNFeatures, Phase, as_images
from sktl.backbones import Backbone, Preprocessing
from sktl.exceptions import DivergenceError, ImageDecodeError, ParameterError, WeightsError
from sktl.images import ImageCollection
from sktl.neural_network._parts import split
from sktl.training import Augmentation, Patience, _sources, _trainer
from sktl.training._checkpoint import Checkpoint
from sktl.training._data import Activations
from sktl.training._settings import Labelled

Y = np.arange(24) % 2


def pictures(n=24, size=32, seed=0):
    """Dark and light noise in turns."""
    X = np.random.default_rng(seed).integers(0, 100, (n, size, size, 3))
    return (X + (np.arange(n) % 2 * 75)[:, None, None, None]).astype(np.uint8)


def one_phase(train="all", **parameters):
    return [("train", Phase(train, **{"epochs": 2, "lr": 0.01, **parameters}))]


def model(backbone="lenet", **parameters):
    defaults = {"weights": None, "random_state": 0, "image_size": 32, "phases": one_phase()}
    return CNNClassifier(backbone, **{**defaults, **parameters})


def difference(one, other):
    X = pictures()
    return np.abs(one.predict_proba(X) - other.predict_proba(X)).max()


def repickled(estimator):
    return pickle.loads(pickle.dumps(estimator))


def with_final_weights(estimator):
    return estimator.with_weights("final")


def test_refit_learns_from_explicit_validation_pictures_too():
    X, X_valid, y_valid = pictures(), pictures(9, seed=1), Y[:9]
    refitted = model(validation=(X_valid, y_valid), refit=True).fit(X, Y)
    phases = one_phase(epochs=refitted.best_epoch_)
    everything = np.concatenate([X, X_valid]), np.concatenate([Y, y_valid])
    assert difference(refitted, model(phases=phases, validation=None).fit(*everything)) == 0
    assert difference(refitted, model(phases=phases, validation=None).fit(X, Y)) > 1e-6


def test_refit_weighs_the_classes_of_all_pictures():
    X, X_valid, y_valid = pictures(), pictures(9, seed=1), np.zeros(9, int)
    weights = np.linspace(1, 2, 24)
    options = {"class_weight": {0: 1.0, 1: 3.0}}
    refitted = model(validation=(X_valid, y_valid), refit=True, **options).fit(X, Y, weights)
    phases = one_phase(epochs=refitted.best_epoch_)
    plain = model(phases=phases, validation=None, **options).fit(
        np.concatenate([X, X_valid]),
        np.concatenate([Y, y_valid]),
        np.append(weights, np.full(9, weights.mean())),
    )
    assert difference(refitted, plain) == 0


def test_refit_normalises_by_all_pictures():
    X = pictures()
    X[::5] //= 3
    refitted = model(refit=True).fit(X, Y)
    mean = refitted.backbone_.preprocessing.mean
    np.testing.assert_allclose(mean, X.mean((0, 1, 2)) / 255, rtol=1e-6)


def test_refit_leaves_the_history_of_the_search_for_the_best_epoch():
    fitted = model(refit=True).fit(pictures(), Y)
    fitted.partial_fit(pictures(), Y)
    assert len(fitted.history_) == 3
    assert fitted.history_["valid_loss"].notna().tolist() == [True, True, False]


@pytest.mark.parametrize("weights", ["sample_weight", "class_weight"])
def test_batches_without_weight_teach_nothing(weights):
    X = pictures()
    parameters = {"batch_size": 2, "validation": None, "phases": one_phase(epochs=5, lr=0.05)}
    if weights == "class_weight":
        fitted = model(class_weight={0: 0.0, 1: 1.0}, **parameters).fit(X, Y)
    else:
        fitted = model(**parameters).fit(X, Y, sample_weight=Y)
    assert np.isfinite(fitted.history_["train_loss"]).all()
    assert (fitted.predict(X) == 1).all()
    with pytest.raises(ValueError, match="leave no picture a weight above 0"):
        model(class_weight={0: 0.0, 1: 0.0}).fit(X, Y)


def test_a_weight_counts_whatever_else_is_in_the_batch():
    phases = one_phase(epochs=4, lr=0.002)
    plain, heavy = (
        model(batch_size=1, phases=phases, validation=None, class_weight=weight).fit(pictures(), Y)
        for weight in (None, {1: 50.0})
    )
    shares = [fitted.predict_proba(pictures())[:, 1].mean() for fitted in (plain, heavy)]
    assert shares[1] > shares[0] + 0.1
    tiny, huge = (
        model(validation=None).fit(pictures(), Y, sample_weight=np.full(24, size) * (1 + Y))
        for size in (1e-33, 1e38)
    )
    assert difference(tiny, huge) < 1e-6


@pytest.mark.parametrize("options", [{}, {"normalize": "dataset"}, {"weights": None}])
def test_the_best_epoch_may_be_before_the_trunk_learnt(options, monkeypatch):
    X = pictures()
    phases = [("head", Phase("head", 2, lr=0.05)), ("spoil", Phase("all", 2, lr=3.0))]
    options = {"weights": "default", **options, "phases": phases, "validation": 0.25}
    fitted = model("efficientnet_lite0", **options, store=None).fit(X, Y)
    assert fitted.best_epoch_ <= 2
    again = pickle.loads(pickle.dumps(fitted))
    other = fitted.with_weights("final").with_weights("best")
    for copied in (again, other):
        assert difference(fitted, copied) < 1e-6
        for one, two in zip(tensors(fitted), tensors(copied), strict=True):
            assert torch.equal(one, two)
    unspoilt = model("efficientnet_lite0", **{**options, "phases": phases[:1]}, store=None)
    assert difference(fitted, unspoilt.fit(X, Y)) < 1e-6
    ten = fitted.set_params(crops="ten").predict_proba(X)
    np.testing.assert_allclose(again.set_params(crops="ten").predict_proba(X), ten, atol=1e-6)
    losses = [f.partial_fit(X, Y).history_["train_loss"].iloc[-1] for f in (fitted, again)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def tensors(fitted):
    return [t.detach().cpu() for t in fitted.net_.module_.state_dict().values()]


def test_networks_with_the_same_tensors_have_checkpoints_of_their_own(tmp_path):
    losses = []
    for kind in (nn.ReLU, nn.GELU):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = nn.Sequential(
                nn.Conv2d(3, 4, 3, 2),
                kind(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(4, 2),
            )
        fitted = model(net, checkpoint_dir=tmp_path, validation=None).fit(pictures(), Y)
        losses.append(fitted.history_["train_loss"].tolist())
    assert losses[0] != losses[1]


def test_networks_whose_parts_have_versions_are_put_back():
    fitted = model("mnasnet0_5", phases=one_phase(epochs=1)).fit(pictures(), Y)
    assert difference(fitted, pickle.loads(pickle.dumps(fitted))) < 1e-6


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {}])
def test_callbacks_see_the_losses_of_the_history(options):
    seen = []

    class Watch(skorch.callbacks.Callback):
        def on_epoch_end(self, net, **kwargs):
            seen.append([net.history[-1, name] for name in names])

    names = ["train_loss", "valid_loss", "train_top1", "valid_top1"]
    stops = EarlyStopping(monitor="train_top1", lower_is_better=False)
    fitted = model(callbacks=[Watch(), stops], validation=0.25, **options).fit(pictures(), Y)
    np.testing.assert_array_equal(seen, fitted.history_[names])


def test_a_trained_net_holds_no_pictures():
    X = pictures()
    fitted = model("lenet", validation=0.25).fit(X, Y)
    assert len(pickle.dumps(fitted.net_)) < 3 * sum(t.nbytes for t in tensors(fitted)) + X.nbytes
    held = [type(o).__name__ for o in gc.get_referents(fitted.net_, vars(fitted.net_))]
    assert not {"partial", "Trainer", "Parts"} & set(held)


def test_callbacks_keep_what_they_saw_where_the_best_epoch_was_early():
    class Rows(skorch.callbacks.Callback):
        def initialize(self):
            self.rows = []
            return self

        def on_epoch_end(self, net, **kwargs):
            self.rows.append(net.history[-1, "valid_loss"])

    rows = Rows()
    phases = [("head", Phase("head", 2, lr=0.05)), ("spoil", Phase("all", 2, lr=3.0))]
    options = {"weights": "default", "phases": phases, "store": None, "callbacks": [rows]}
    fitted = model("efficientnet_lite0", validation=0.25, **options).fit(pictures(), Y)
    assert fitted.best_epoch_ <= 2
    np.testing.assert_array_equal(rows.rows, fitted.history_["valid_loss"])


def test_a_stop_within_the_validation_part():
    class StopLate(skorch.callbacks.Callback):
        def on_batch_end(self, net, training, **kwargs):
            if not training:
                raise KeyboardInterrupt

    fitted = model(callbacks=[StopLate()], validation=0.25).fit(pictures(), Y)
    assert fitted.history_[["train_loss", "valid_loss"]].notna().all(axis=None)
    assert len(fitted.history_) == 1


@pytest.mark.parametrize(("first", "later"), [(3.0, 300.0), (0.02, 1.0), (0.0, 1e-6)])
def test_the_unit_of_activations_follows_larger_numbers(first, later):
    pixels = Labelled(as_images(pictures(130)), np.zeros(130, np.int64)).pixels(
        Preprocessing(size=32, resize=32), 1, 10**9
    )
    sizes = iter([first, first / 3, later])
    kept = Activations.compute(
        pixels, (2, 1, 1), lambda x, _: torch.full((len(x), 2, 1, 1), next(sizes))
    )
    found = kept.read(np.arange(130))[:, 0, 0, 0]
    expected = np.repeat([first, first / 3, later], [64, 64, 2])
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_small_numbers_are_kept_as_exactly_as_large_ones(monkeypatch):
    """Batch normalisation makes much of what would be lost in 16 bits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        )  # fmt: skip
        net[0].weight.data *= 1e-6
        net[0].bias.data *= 1e-6
    phases = one_phase(["1", "2"], batch_norm="train")
    kept, anew = (
        model(net, phases=phases, validation=None, cache_bytes=n).fit(pictures(), Y)
        for n in (10**9, 0)
    )
    losses = [fitted.history_["train_loss"] for fitted in (kept, anew)]
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_class_weights_by_name():
    with pytest.raises(ValueError, match=r"not among the classes: \[7\]"):
        model(class_weight={7: 2.0}).fit(pictures(), Y)
    alone = model(class_weight={1: 3.0}).partial_fit(pictures()[::2], Y[::2], classes=[0, 1])
    assert len(alone.history_) == 1


def test_gradients_of_what_learns_no_longer_are_not_clipped_with_the_rest():
    last = ("b", Phase("head", 1, lr=0.1, momentum=0.0, clip_norm=0.01))
    first = ("a", Phase("all", 1, lr=0.01))
    parameters = {"validation": None, "batch_size": 64}
    before = model("basic5", phases=[first], **parameters).fit(pictures(), Y)
    after = model("basic5", phases=[first, last], **parameters).fit(pictures(), Y)
    heads = [m.net_.module_.head.state_dict() for m in (before, after)]
    learnt = [name for name in heads[0] if name.endswith(("weight", "bias"))]
    step = np.sqrt(sum(float((heads[1][k] - heads[0][k]).square().sum()) for k in learnt))
    assert step == pytest.approx(0.1 * 0.01, rel=1e-3)  # rate times norm


def test_what_is_too_large_for_16_bits_is_not_cached():
    X = pictures(8, 75)
    parameters = {"image_size": 75, "batch_size": 4, "phases": one_phase("last:1", epochs=1)}
    cached, plain = (
        model("inception_v3", cache_bytes=size, **parameters).fit(X, Y[:8])
        for size in (8_000_000_000, 0)
    )
    assert cached.history_["train_loss"].tolist() == plain.history_["train_loss"].tolist()


def test_dropout_before_what_learns_is_kept_with_what_is_cached():
    X = pictures(size=64)
    parameters = {
        "image_size": 64,
        "validation": None,
        "batch_size": 12,
        "phases": one_phase("fc", lr=0.05),
    }
    cached, plain = (
        model("alexnet", cache_bytes=size, **parameters).fit(X, Y) for size in (8_000_000_000, 0)
    )
    losses = cached.history_["train_loss"], plain.history_["train_loss"]
    np.testing.assert_allclose(*losses, rtol=1e-4)  # 16 bits


@pytest.mark.parametrize("policy", ["StepLR", "CosineAnnealingLR"])
def test_schedulers_of_skorch_go_on_from_phase_to_phase(policy):
    options = {"step_size": 1} if policy == "StepLR" else {"T_max": 4}
    scheduler = skorch.callbacks.LRScheduler(policy, **options)
    phases = [("a", Phase("head", 2, lr=0.1)), ("b", Phase("all", 2, lr=0.1))]
    rates = model(callbacks=[scheduler], phases=phases).fit(pictures(), Y).history_["lr"]
    assert (np.diff(rates[:2]) < 0).all()
    assert rates[3] < rates[2]


@pytest.mark.parametrize("kind", ["EarlyStopping", "Checkpoint"])
def test_callbacks_that_watch_validation_rest_without_it(kind, tmp_path):
    options = {"patience": 3} if kind == "EarlyStopping" else {"dirname": tmp_path}
    callback = getattr(skorch.callbacks, kind)(**options)
    fitted = model(refit=True, callbacks=[callback]).fit(pictures(), Y)
    assert len(fitted.partial_fit(pictures(), Y).history_) == 3


def test_a_callback_that_puts_weights_back_leaves_the_history_whole(tmp_path):
    checkpoint = skorch.callbacks.Checkpoint(dirname=tmp_path, load_best=True)
    phases = [("a", Phase("all", 6, lr=0.5)), ("b", Phase("all", 3, lr=0.5))]
    fitted = model(callbacks=[checkpoint], phases=phases, refit=True).fit(pictures(), Y)
    assert fitted.history_["phase"].tolist() == ["a"] * 6 + ["b"] * 3
    assert fitted.history_["epoch"].tolist() == list(range(1, 10))


def test_callbacks_see_accuracies():
    stopping = skorch.callbacks.EarlyStopping(
        monitor="valid_top1", lower_is_better=False, patience=1, sink=lambda text: None
    )
    fitted = model(callbacks=[("stop", stopping)], phases=one_phase(epochs=9, lr=1e-9))
    assert len(fitted.fit(pictures(), Y).history_) < 9


class Loss(skorch.callbacks.Callback):
    def on_epoch_end(self, net, dataset_valid, **kwargs):
        right = net.predict_proba(dataset_valid)[
            range(len(dataset_valid.labels)), dataset_valid.labels
        ]
        net.history.record("anew", -float(np.log(right).mean()))


def test_callbacks_that_predict_see_pictures_as_training_does():
    history = model(callbacks=[Loss()]).fit(pictures(), Y).history_
    np.testing.assert_allclose(history["anew"], history["valid_loss"], rtol=1e-5)


class Stop(skorch.callbacks.Callback):
    """As skorch's own callbacks stop training."""

    def __init__(self, when):
        self.when = when

    def on_train_begin(self, net, **kwargs):
        self._stop("train")

    def on_epoch_begin(self, net, **kwargs):
        self._stop("epoch")

    def on_batch_end(self, net, **kwargs):
        self._stop("batch")

    def _stop(self, now):
        if now == self.when:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("when", "n_epochs"), [("train", 0), ("epoch", 0), ("batch", 1)])
def test_callbacks_stop_at_any_time(when, n_epochs):
    fitted = model(callbacks=[Stop(when)]).fit(pictures(), Y)
    assert len(fitted.history_) == n_epochs
    assert fitted.predict(pictures()).shape == (24,)


class Recorder(skorch.callbacks.Callback):
    def on_epoch_end(self, net, **kwargs):
        net.history.record("values", np.ones(2))
        net.history.record("thing", object())


def test_checkpoints_hold_whatever_callbacks_record(tmp_path):
    fits = [model(checkpoint_dir=tmp_path, callbacks=[Recorder()]).fit(pictures(), Y) for _ in "ab"]
    assert [list(values) for values in fits[1].history_["values"]] == [[1.0, 1.0]] * 2
    assert difference(*fits) == 0


def test_checkpoints_of_refits_and_of_plain_fits_differ(tmp_path):
    parameters = {"checkpoint_dir": tmp_path, "phases": one_phase(epochs=8, lr=0.05)}
    model(refit=True, **parameters).fit(pictures(), Y)
    assert len(model(validation=None, **parameters).fit(pictures(), Y).history_) == 8


def test_checkpoints_are_found_again_without_a_random_state(tmp_path):
    for _ in range(2):
        model(checkpoint_dir=tmp_path, random_state=None).fit(pictures(), Y)
    assert len(list(tmp_path.iterdir())) == 1


def test_checkpoints_take_keys_of_any_type(tmp_path):
    weights = dict(zip(*np.unique(Y, return_counts=True), strict=True))
    schedule = {np.int64(0): np.float32(0.1), np.int64(1): 0.01}
    fitted = model(
        checkpoint_dir=tmp_path, class_weight=weights, phases=one_phase(schedule=schedule)
    ).fit(pictures(), Y)
    np.testing.assert_allclose(fitted.history_["lr"], [0.1, 0.01], rtol=1e-6)


def test_bad_pictures_are_named_by_their_place_in_X(tmp_path):
    from PIL import Image

    paths = []
    for i, array in enumerate(pictures()):
        Image.fromarray(array).save(tmp_path / f"{i}.png")
        paths.append(str(tmp_path / f"{i}.png"))
    bad = [3, 11, 20, 22]
    for i in bad:
        whole = (tmp_path / f"{i}.png").read_bytes()
        (tmp_path / f"{i}.png").write_bytes(whole[: len(whole) // 2])
    for parameters in ({}, {"normalize": "weights"}):
        with pytest.raises(ImageDecodeError) as caught:
            model(validation=0.3, **parameters).fit(paths, Y)
        assert [failure.index for failure in caught.value.failures] == bad
        assert caught.value.n_images == 24
    paths[7] = str(tmp_path / "nowhere.png")
    with pytest.raises(ImageDecodeError, match=r"1 of 24 .*\n *\[7\] .*nowhere.png"):
        model(validation=0.3).fit(paths, Y)


def test_what_was_fitted_outlives_what_is_refused_but_not_a_training_that_fails():
    X = pictures()
    diverging = model(phases=one_phase(lr=1e20, epochs=5), validation=None)
    with pytest.raises(DivergenceError):
        diverging.fit(X, Y)
    with pytest.raises(NotFittedError):
        diverging.predict_proba(X)
    with pytest.raises(NotFittedError):
        diverging.net_  # noqa: B018 (a property)
    weighted = model().fit(X, Y)
    before = weighted.predict_proba(X)
    with pytest.raises(ValueError, match="sample_weight"):
        weighted.fit(X, Y + np.arange(24) % 3, sample_weight=[1, 2])
    np.testing.assert_array_equal(weighted.predict_proba(X), before)
    assert weighted.classes_.tolist() == [0, 1]
    with pytest.raises(DivergenceError):
        weighted.set_params(phases=one_phase(lr=1e20, epochs=5), validation=None).fit(X, Y)
    with pytest.raises(NotFittedError):
        weighted.predict_proba(X)


def test_partial_fit_goes_on_after_an_error():
    X = pictures()
    fresh = model()
    with pytest.raises(ValueError, match="not among the classes"):
        fresh.partial_fit(X, Y + 5, classes=[0, 1])
    fresh.partial_fit(X, Y, classes=[0, 1])
    with pytest.raises(ValueError, match="classes must be those of the first call"):
        fresh.partial_fit(X, Y, classes=[0, 1, 2])
    before = fresh.predict_proba(X)
    fresh.set_params(phases=one_phase(lr=1e30), batch_size=4)
    with pytest.raises(DivergenceError):
        fresh.partial_fit(X, Y)
    np.testing.assert_array_equal(fresh.predict_proba(X), before)
    fresh.set_params(phases=one_phase()).partial_fit(X[:1], Y[:1])
    assert len(fresh.history_) == 2


def test_partial_fit_begins_a_table_of_rates():
    fitted = model(phases=one_phase(schedule={0: 0.004, 1: 0.001})).partial_fit(pictures(), Y)
    assert fitted.history_["lr"].tolist() == [0.004]


def test_batch_normalisation_needs_two_pictures():
    with pytest.raises(ParameterError, match="at least 2"):
        model("basic5").partial_fit(pictures(1), [0], classes=[0, 1])


def test_names_of_momentum():
    X = pictures()
    one = model(phases=one_phase(nesterov=True)).fit(X, Y)
    assert difference(one, model(phases=one_phase(optimizer="nesterov")).fit(X, Y)) == 0
    one = model(phases=one_phase()).fit(X, Y)
    assert difference(one, model(phases=one_phase(optimizer="momentum")).fit(X, Y)) == 0


def test_one_cycle_moves_the_momentum_that_was_asked_for():
    X = pictures()
    with_, without = (
        model(phases=one_phase(schedule="one_cycle", momentum=m, lr=0.1)).fit(X, Y)
        for m in (0.9, 0.0)
    )
    assert difference(with_, without) > 1e-5
    assert without.net_.optimizer_.param_groups[0]["momentum"] == 0
    assert with_.net_.optimizer_.param_groups[0]["momentum"] == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(("step_size", "first_lower"), [(1, 2), (3, 4)])
def test_plateau_waits_as_many_epochs_as_it_says(step_size, first_lower):
    phases = one_phase(schedule="plateau", step_size=step_size, lr=1e-12, epochs=6)
    rates = model(phases=phases).fit(pictures(), Y).history_["lr"]  # the loss stays as it is
    assert np.flatnonzero(rates < 0.5e-12)[0] == first_lower


def test_random_crops_of_networks_without_a_border():
    cropped = model(augment=Augmentation(random_crop=True), validation=None).fit(pictures(), Y)
    assert difference(cropped, model(validation=None).fit(pictures(), Y)) > 1e-6


def test_augmentation_is_searched_whatever_it_was():
    assert model().set_params(augment__rotation=5).augment.rotation == 5
    search = GridSearchCV(model(), {"augment__rotation": [0, 5]}, cv=2, error_score="raise")
    assert set(search.fit(pictures(), Y).best_params_) == {"augment__rotation"}
    light = model(augment="light").set_params(augment__rotation=5).augment
    assert (light.rotation, light.zoom) == (5, 0.1)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"phases": Phase("all")}, "phases must be a list of"),
        ({"phases": 3}, "phases must be a list of"),
        ({"validation": "0.2"}, "validation must be"),
        ({"validation": (pictures()[:0], [])}, "validation must have pictures"),
        ({"validation": 0.99}, "leaves none to learn from"),
        ({"callbacks": skorch.callbacks.EpochTimer()}, "callbacks must be a list"),
        ({"callbacks": "disable"}, "callbacks must be a list"),
        ({"early_stopping": Patience(2, min_delta="a")}, "min_delta must be a finite number"),
        ({"early_stopping": Patience(2, min_delta=-1.0)}, "min_delta must be a finite number"),
        ({"early_stopping": Patience(2, min_delta=np.nan)}, "min_delta must be a finite number"),
        (
            {"phases": one_phase(momentum=1.5)},
            "momentum must be a number of at least 0 and below 1",
        ),
        ({"phases": one_phase(schedule={-1: 0.5})}, "schedule must be a table .epoch, from 0"),
        ({"phases": one_phase(nesterov=True, momentum=0.0)}, "momentum must be a number above 0"),
        ({"augment": Augmentation(horizontal_flip="no")}, "horizontal_flip must be True or False"),
    ],
)
def test_wrong_parameters_are_named(parameters, message):
    with pytest.raises(ParameterError, match=message):
        model(**parameters).fit(pictures(), Y)


def test_numbers_of_a_grid_are_resumed(tmp_path):
    for phase in (
        Phase("all", np.int64(2), lr=np.float64(0.01), weight_decay=np.float64(1e-3)),
        Phase("all", 2, lr=0.01, schedule="step", step_size=np.int64(1), gamma=np.float64(0.5)),
        Phase("all", 2, lr=0.01, schedule={np.int64(0): np.float64(0.01)}),
    ):
        first, again = (
            model(phases=[("train", phase)], checkpoint_dir=tmp_path).fit(pictures(), Y)
            for _ in range(2)
        )
        assert difference(first, again) == 0


class Every:
    """A criterion without words of its own."""

    def __init__(self, n_epochs):
        self.n_epochs = n_epochs

    def check(self, checks):
        pass

    def stops(self, losses):
        return len(losses) >= self.n_epochs


def test_fits_with_other_callbacks_have_checkpoints_of_their_own(tmp_path):
    def fit(**parameters):
        return model(checkpoint_dir=tmp_path, phases=one_phase(epochs=3), **parameters).fit(
            pictures(), Y
        )

    plain = fit()
    clipped = fit(callbacks=[GradientNormClipping(1e-6)])
    assert difference(plain, clipped) > 1e-6
    assert difference(clipped, fit(callbacks=[GradientNormClipping(1e-6)])) == 0
    assert len(fit(early_stopping=Every(1)).history_) == 1
    assert len(fit(early_stopping=Every(2)).history_) == 2
    assert len(list(tmp_path.iterdir())) == 4
    fit(early_stopping=Every(2))
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("layer", ["penultimate", "bottleneck"])
def test_the_trained_network_gives_the_features_below_the_head(layer):
    X = pictures()
    fitted = model("resnet18", layer=layer, validation=None).fit(X, Y)
    features = CNNFeatures(fitted.backbone_, layer="penultimate", image_size=32, store=None)
    head = fitted.net_.module_.head
    with torch.no_grad():
        logits = head(torch.from_numpy(features.fit_transform(X)))
    np.testing.assert_allclose(logits.softmax(1), fitted.predict_proba(X), atol=1e-4)


def test_a_last_step_that_left_no_numbers_is_an_error():
    X, options = pictures(), {"validation": None, "batch_size": 64}
    too_fast = one_phase(epochs=1, lr=1e25)
    with pytest.raises(DivergenceError, match=r"train_loss is .* in epoch 1"):
        model(phases=too_fast, **options).fit(X, Y)
    search = GridSearchCV(model(**options), {"phases__train__lr": [0.01, 1e25]}, cv=2, refit=False)
    with pytest.warns(FitFailedWarning), pytest.warns(UserWarning, match="non-finite"):
        search.fit(X, Y)
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [False, True]
    fitted = model(**options).partial_fit(X, Y)
    before = fitted.predict_proba(X)
    fitted.set_params(phases=too_fast)
    with pytest.raises(DivergenceError):
        fitted.partial_fit(X, Y)
    np.testing.assert_array_equal(fitted.predict_proba(X), before)
    fitted.set_params(phases=one_phase()).partial_fit(X, Y)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("counts", [[15, 8, 1], [3] * 8, [2, 2, 12], [1, 1, 2]])
def test_each_class_keeps_a_picture_to_learn_from(seed, counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    everything = Labelled(pictures(len(labels)), labels, None)
    train, valid = split(everything, 0.2, seed)
    assert set(train.labels) == set(labels)
    assert sorted([*train.positions, *valid.positions]) == list(range(len(labels)))
    assert len(valid.labels) >= 1


def test_classes_of_one_picture_cannot_be_validated():
    with pytest.raises(ParameterError, match="leaves one of the 3 classes none to learn from"):
        split(Labelled(pictures(3), np.arange(3), None), 0.2, 0)


class Careful(skorch.callbacks.Callback):
    monitor = "valid_loss"  # and copes with its absence


def test_refit_repeats_the_rates_that_validation_pictures_decided():
    X = pictures()
    phase = Phase("all", 6, lr=0.02, schedule="plateau", step_size=1, gamma=0.5, optimizer="adam")
    seen = []

    class Rates(skorch.callbacks.Callback):
        def on_epoch_end(self, net, **_):
            seen.append(net.optimizer_.param_groups[0]["lr"])

    fitted = model(phases=[("train", phase)], refit=True, callbacks=[Rates()]).fit(X, Y)
    first, second = seen[:6], seen[6:]
    assert len(set(first)) > 1
    assert second == first[: fitted.best_epoch_]


def test_refits_at_other_rates_have_checkpoints_of_their_own(tmp_path):
    phase = Phase("all", 6, lr=0.02, schedule="plateau", step_size=1, gamma=0.5, optimizer="adam")
    for seed in range(6):
        split = ShuffleSplit(1, test_size=0.3, random_state=seed)
        parameters = {"phases": [("train", phase)], "refit": True, "validation": split}
        kept = model(checkpoint_dir=tmp_path, **parameters).fit(pictures(), Y)
        assert difference(kept, model(**parameters).fit(pictures(), Y)) == 0


def test_what_tells_fits_apart_is_the_same_in_each_process(tmp_path):
    def path(*callbacks):
        return Checkpoint(tmp_path, {"callbacks": callbacks}).path

    class Own:
        def __init__(self, number, client):
            self.number, self.client, self.lock = number, client, threading.Lock()

    freezers = [Freezer("trunk.*").initialize() for _ in range(2)]
    assert path(freezers[0]) == path(freezers[1])
    assert path(Own(1, object())) == path(Own(1, object())) != path(Own(2, object()))
    scores = [functools.partial(f1_score, average=way) for way in ("macro", "macro", "micro")]
    assert path(scores[0]) == path(scores[1]) != path(scores[2])
    assert path(lambda x: x + 1) == path(lambda x: x + 1) != path(lambda x: x + 2)
    assert path(np.float64(0.1)) == path(0.1)
    assert path(str.lower) != path(str.upper)


def test_callbacks_that_watch_scores_of_validation_pictures_rest_without_them(tmp_path):
    X = pictures()
    scores = [
        EpochScoring("f1_macro", lower_is_better=False, name="f1"),
        EarlyStopping(monitor="f1", lower_is_better=False, patience=5),
        skorch.callbacks.Checkpoint(monitor="f1_best", dirname=tmp_path),
    ]
    fitted = model(callbacks=scores, refit=True).fit(X, Y)
    assert fitted.history_["f1"].notna().all()
    fitted.partial_fit(X, Y)
    with pytest.raises(ParameterError, match=r"validation=None; got \['EarlyStopping"):
        model(callbacks=scores, validation=None).fit(X, Y)
    watching = [EarlyStopping(monitor="train_loss"), Careful()]
    model(callbacks=watching, validation=None).fit(X, Y)


class Kind(str, enum.Enum):  # noqa: UP042 (StrEnum has another str())
    ONE = "x"
    TWO = "y"


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (np.array([True, False] * 12, dtype=object), [False, True]),
        (np.array([2, 1] * 12, dtype=object), [1, 2]),
        (pd.Series([2, 1] * 12, dtype="Int64"), [1, 2]),
        (pd.Series([True, False] * 12, dtype="boolean"), [False, True]),
        (pd.Series(["b", "a"] * 12, dtype="string"), ["a", "b"]),
        (pd.Series(["b", "a"] * 12, dtype="category"), ["a", "b"]),
        (pd.Series([2.0, 1.0] * 12, dtype="category"), [1.0, 2.0]),
        (pd.Categorical([2, 1] * 12), [1, 2]),
        (pd.Series([2.0, 1.0] * 12, dtype="Float64"), [1.0, 2.0]),
        (pd.DataFrame({"y": [2, 1] * 12}, dtype="Int64"), [1, 2]),
        (np.array([Kind.ONE, Kind.TWO] * 12, dtype=object), ["x", "y"]),
        ([b == 0 for b in range(24)], [False, True]),
    ],
    ids=lambda y: "",
)
def test_labels_keep_their_type(y, classes):
    fitted = model(phases=one_phase(epochs=1)).fit(pictures(), y)
    assert fitted.classes_.tolist() == classes
    assert set(fitted.predict(pictures()).tolist()) <= set(classes)
    assert type(fitted.classes_.tolist()[0]) is type(classes[0])


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (["a", None] * 12, "12 of 24 are missing, the first at position 1"),
        ([1.0, np.nan] * 12, "12 of 24 are missing"),
        (pd.Series([1, None] * 12, dtype="Int64"), "12 of 24 are missing"),
        (np.array(["a", 1] * 12, dtype=object), r"got \['int', 'str'\]"),
        (np.array([object()] * 24), r"got \['object'\]"),
    ],
)
def test_labels_that_cannot_be_are_named(y, words):
    with pytest.raises(ParameterError, match=words):
        model().fit(pictures(), y)


@pytest.mark.parametrize(
    ("weight", "words"),
    [({0: -2}, "got -2 for 0"), ({0: float("nan")}, "got nan"), ({0: "2"}, "got '2'"),
     ("balance", "got 'balance'")],
)  # fmt: skip
def test_class_weights_that_cannot_be_are_named(weight, words):
    with pytest.raises(ParameterError, match=f"class_weight must .*{words}"):
        model(class_weight=weight).fit(pictures(), Y)


def test_balanced_classes_cannot_be_known_from_a_part():
    with pytest.raises(ParameterError, match="partial_fit"):
        model(class_weight="balanced").partial_fit(pictures(), Y)


def test_one_weight_for_all_pictures_is_no_weight():
    X, pair = pictures(), (pictures(9, seed=1), Y[:9])
    one, none = (model(validation=pair, refit=True).fit(X, Y, weight) for weight in (1.0, None))
    assert difference(one, none) == 0


@pytest.mark.parametrize(
    ("phase", "words"),
    [(Phase(augment="light"), "augment must be True or False"),
     (Phase(nesterov="no"), "nesterov must be True or False"),
     (Phase(schedule=[(0, 0.1)]), "a table")],
)  # fmt: skip
def test_phases_are_checked(phase, words):
    with pytest.raises(ParameterError, match=words):
        model(phases=[("train", phase)]).fit(pictures(), Y)


def test_vectors_kept_in_32_bits_count_as_such(monkeypatch):
    sizes = []

    def note(shape, itemsize, cache_bytes):
        sizes.append(itemsize)
        return True

    monkeypatch.setattr(_sources, "fits_on_disk", note)
    parameters = {"store": None, "augment": "light", "augment_copies": 2, "pooling": "flatten"}
    model("resnet18", phases=one_phase("head"), layer="bottleneck", **parameters).fit(pictures(), Y)
    model("resnet18", phases=one_phase("last:1"), **parameters).fit(pictures(), Y)
    assert sizes[0] == 4
    assert sizes[-1] == 2


def test_checkpoints_of_another_preprocessing_are_left_alone(tmp_path):
    fits = {}
    for mean in (0.1, 0.9):
        for folder in (None, tmp_path):
            described = Preprocessing(size=32, resize=32, mean=(mean,) * 3, std=(0.25,) * 3)
            torch.manual_seed(0)
            network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2))
            backbone = Backbone(network, preprocessing=described)
            fitted = CNNClassifier(
                backbone, random_state=0, store=None, phases=one_phase(), checkpoint_dir=folder
            )
            fits[mean, folder] = fitted.fit(pictures(), Y).predict_proba(pictures())
    assert not np.allclose(fits[0.1, None], fits[0.9, None], atol=1e-5)
    for mean in (0.1, 0.9):
        np.testing.assert_array_equal(fits[mean, None], fits[mean, tmp_path])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_checkpoint_is_named(tmp_path):
    fitted = model(checkpoint_dir=tmp_path).fit(pictures(), Y)
    (file,) = tmp_path.iterdir()
    for content in (b"", b"no checkpoint"):
        file.write_bytes(content)
        with pytest.raises(ParameterError, match=r"fit-.*\.pt is damaged. Delete it"):
            fitted.fit(pictures(), Y)


def test_a_folder_of_checkpoints_that_cannot_be_is_named_before_training(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(
            ParameterError, match="checkpoint_dir must be a folder that can be made"
        ):
            model(checkpoint_dir=folder).fit(["missing.jpg"] * 24, Y)


class RecordsTables(skorch.callbacks.Callback):
    def on_epoch_end(self, net, **kwargs):
        net.history.record("table", [[1, 2], [3, 4]])
        net.history.record("array", np.arange(3))
        net.history.record("nothing", None)


def test_callbacks_may_record_tables():
    fitted = model(callbacks=[RecordsTables()], refit=True).fit(pictures(), Y)
    again = pickle.loads(pickle.dumps(fitted))
    assert difference(fitted, again) == 0
    assert again.history_["table"].tolist() == [[[1, 2], [3, 4]]] * 2
    not_refitted = model(callbacks=[RecordsTables()]).fit(pictures(), Y)
    not_refitted.with_weights("best").predict(pictures())


def test_momentum_that_led_to_other_weights_is_not_carried_on():
    phases = one_phase(epochs=12, lr=0.1)
    y = np.random.default_rng(0).permutation(Y)
    for keep in ("best", "final"):
        fitted = model(phases=phases, keep=keep).fit(pictures(), y)
        assert fitted.best_epoch_ < 12
        assert bool(fitted.net_.optimizer_.state) == (keep == "final")
    learning = model(phases=one_phase(epochs=2), keep="best").fit(pictures(), Y)
    assert learning.best_epoch_ == 2
    assert learning.net_.optimizer_.state
    best = model(phases=phases).fit(pictures(), y)
    other = best.with_weights("best")
    for one in (best, other):
        one.partial_fit(pictures(), y)
    assert difference(best, other) == 0


@pytest.mark.parametrize("scale", [0.01, 100])
def test_the_scale_of_weights_does_not_count(scale):
    options = {"validation": (pictures(9, seed=1), Y[:9]), "refit": True}
    plain = model(**options).fit(pictures(), Y)
    scaled = model(**options).fit(pictures(), Y, np.full(24, scale))
    assert difference(plain, scaled) < 1e-6


def test_area_under_the_curve_in_each_epoch():
    auc = EpochScoring("roc_auc", name="auc", lower_is_better=False)
    fitted = model(callbacks=[auc], keep="final").fit(pictures(), Y)
    _, valid = split(Labelled(as_images(pictures()), Y, None), 0.2, 0)
    expected = roc_auc_score(valid.labels, fitted.predict_proba(pictures())[valid.positions, 1])
    assert fitted.history_["auc"].iloc[-1] == pytest.approx(expected)


def test_a_splitter_that_leaves_a_class_none_to_learn_from_is_refused():
    with pytest.raises(ParameterError, match="leaves 1 of 2 classes no picture to learn from"):
        model(validation=KFold(2)).fit(pictures(), np.sort(Y))
    nowhere = PredefinedSplit(np.r_[-np.ones(9, int), np.zeros(9, int), -np.ones(6, int)])
    nowhere.split = lambda *_: iter([(np.arange(9), np.arange(9, 18))])
    with pytest.raises(ParameterError, match="leaves 1 of 3 classes"):
        model(validation=nowhere).fit(pictures(), np.r_[Y[:18], np.full(6, 2)])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"mixup": np.inf}, "mixup must be a finite number of at least 0; got inf"),
        ({"l1": np.inf}, "l1 must be a finite number of at least 0; got inf"),
        ({"validation": [["a.jpg"] * 9999, Y]}, r"got \[\['a.jpg', .*\.\.\. \(cut\)"),
        (
            {"validation": (pictures(2), [0, 7])},
            r"labels of validation has labels that are not among the classes: \[7\]",
        ),
    ],
)
def test_wrong_parameters_are_named_briefly(parameters, message):
    with pytest.raises(ValueError, match=message) as caught:
        model(**parameters).fit(pictures(), Y)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("is_float", ["training", "validation"])
def test_validation_pictures_keep_their_own_range_of_values(is_float):
    X, X_valid = pictures(), pictures(9, seed=1)
    expected = model(validation=(X_valid, Y[:9]), refit=True).fit(X, Y)
    if is_float == "training":
        X = X.astype(np.float32) / 255
    else:
        X_valid = X_valid.astype(np.float32) / 255
    fitted = model(validation=(X_valid, Y[:9]), refit=True).fit(X, Y)
    assert difference(fitted, expected) == 0


def test_damaged_pictures_of_two_sets_are_not_counted_together():
    damaged = [np.zeros((8, 8, 3), np.uint8), b"\xff\xd8\xffnothing"]
    fine = list(pictures(4))
    with pytest.raises(ImageDecodeError, match="2 of 6 pictures cannot") as error:
        model(validation=(fine + damaged[1:], Y[:5])).fit(fine + 2 * damaged[1:], Y[:6])
    assert not getattr(error.value, "__notes__", [])
    with pytest.raises(ImageDecodeError, match="1 of 5 pictures cannot") as error:
        model(validation=(fine + damaged[1:], Y[:5])).fit(fine, Y[:4])
    assert "validation" in error.value.__notes__[0]


def test_a_disk_that_fills_up_ends_keeping_but_not_training(monkeypatch):
    options = {"phases": [("head", Phase("head", 2, lr=0.01)), *one_phase()], "validation": 0.25}
    expected = model(**options).fit(pictures(), Y)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    assert difference(model(**options).fit(pictures(), Y), expected) < 1e-3


@pytest.mark.parametrize("epoch", [0, 2])
def test_an_epoch_that_a_callback_does_not_let_begin_is_none(epoch):
    class Stop(skorch.callbacks.Callback):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) > epoch:
                raise KeyboardInterrupt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a network that never learnt
        fitted = model(callbacks=[Stop()], phases=one_phase(epochs=4)).fit(pictures(), Y)
    assert len(fitted.history_) == epoch
    assert (fitted.history_.get("train_loss", pd.Series(dtype=float)) > 0).all()


def test_once_nothing_is_mixed_what_is_frozen_is_kept(monkeypatch):
    computed = []
    compute = Activations.compute

    def count(*args, **options):
        computed.append(args)
        return compute(*args, **options)

    monkeypatch.setattr(Activations, "compute", count)
    head = {"phases": [(str(i), Phase("head", 2, lr=0.01)) for i in range(2)], "validation": None}
    model("resnet18", mixup=0.4, **head).fit(pictures(), Y)
    assert len(computed) == 0
    model("resnet18", mixup=0.4, mix_off_epoch=2, **head).fit(pictures(), Y)
    assert len(computed) == 1


def test_pictures_that_losses_are_taken_of_are_decoded_once(monkeypatch):
    read, decoded = ImageCollection.read, []

    def count(self, i, **options):
        decoded.append(i)
        return read(self, i, **options)

    monkeypatch.setattr(ImageCollection, "read", count)
    monkeypatch.setattr(_trainer, "_MOST_LOOKED_AT", 5)
    augment = Augmentation(random_crop=True)
    counts = []
    for epochs in (1, 4):
        phases = one_phase(epochs=epochs)
        decoded.clear()
        model(mixup=0.4, augment=augment, validation=None, phases=phases).fit(pictures(), Y)
        counts.append(len(decoded))
    assert counts[0] == counts[1]


def test_a_phase_that_a_callback_ended_before_an_epoch_is_over_when_the_fit_is_called_again(
    tmp_path,
):
    class Stop(skorch.callbacks.Callback):
        is_new = True

        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) > 2 and Stop.is_new:
                raise KeyboardInterrupt

    parameters = {"checkpoint_dir": tmp_path, "phases": one_phase(epochs=4), "callbacks": [Stop()]}
    first = model(**parameters).fit(pictures(), Y)
    assert len(first.history_) == 2
    Stop.is_new = False
    again = model(**parameters).fit(pictures(), Y)
    assert len(again.history_) == 2
    assert difference(first, again) == 0


def test_a_network_may_learn_through_what_it_keeps_of_a_size():
    kept = {}

    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            maps = self.layer(x)
            if maps.shape[-2:] not in kept:
                kept[maps.shape[-2:]] = torch.ones(maps.shape[-2:], device=x.device)
            return (maps * kept[maps.shape[-2:]]).relu()

    backbone = Backbone(Keeping(), preprocessing=Preprocessing(size=32, resize=32))
    fitted = model(backbone, weights="default", image_size=None).fit(pictures(), Y)
    assert len(fitted.history_) == 2


def test_pictures_on_two_backgrounds_are_not_learnt_from_together():
    pair = as_images(list(pictures(4)), background="black"), Y[:4]
    model(validation=pair).fit(list(pictures()), Y)
    with pytest.raises(ParameterError, match="the same background"):
        model(validation=pair, refit=True).fit(list(pictures()), Y)


def phases_of(*momenta, optimizer="sgd", lr=0.01):
    return [
        (f"phase_{i}", Phase("all", 1, optimizer=optimizer, momentum=momentum, lr=lr))
        for i, momentum in enumerate(momenta)
    ]


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_momentum_comes_and_goes_from_phase_to_phase(optimizer):
    """After a phase without, it is as new: a phase of one step shows no trace of the first."""
    fitted = model(
        phases=phases_of(0.9, 0.0, 0.9, optimizer=optimizer, lr=1e-3),
        validation=None,
        batch_size=24,
    ).fit(pictures(), Y)
    module, optimizer = fitted.net_.module_, fitted.net_.optimizer_
    buffers = [optimizer.state[p]["momentum_buffer"] for p in module.head.parameters()]
    for parameter, buffer in zip(module.head.parameters(), buffers, strict=True):
        gradient = parameter.grad
        if isinstance(optimizer, torch.optim.RMSprop):
            gradient = gradient / (optimizer.state[parameter]["square_avg"].sqrt() + 1e-8)
        torch.testing.assert_close(buffer, gradient, rtol=1e-4, atol=1e-7)


def test_momentum_that_a_later_call_asks_for():
    fitted = model(phases=phases_of(0.0, optimizer="rmsprop", lr=1e-3), validation=None)
    fitted.partial_fit(pictures(), Y).set_params(phases__phase_0__momentum=0.9)
    assert len(fitted.partial_fit(pictures(), Y).history_) == 2


class Pressing(skorch.callbacks.Callback):
    """Presses Ctrl-C at the end of the second epoch."""

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 2:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def handler():
    """Python's own, whatever shell has begun the tests: in its background, SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_a_callback_is_no_end_of_the_phase(tmp_path, handler):
    options = {"checkpoint_dir": tmp_path, "validation": None, "phases": one_phase(epochs=4)}
    with pytest.raises(KeyboardInterrupt):
        model(callbacks=[Pressing()], **options).fit(pictures(), Y)
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = model(callbacks=[skorch.callbacks.Callback()], **options).fit(pictures(), Y)
    assert len(resumed.history_) == 4


class Graceful(skorch.callbacks.Callback):
    """Ends the phase after a Ctrl-C that a handler has only taken note of."""

    def __init__(self, pressed):
        self.pressed = pressed

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 2:
            signal.raise_signal(signal.SIGINT)
        if self.pressed:
            self.pressed.clear()
            raise KeyboardInterrupt


def test_a_handler_that_only_takes_note_leaves_the_end_of_the_phase_to_a_callback():
    pressed, before = [], signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    try:
        phases = [("a", Phase("all", 5, lr=0.01)), ("b", Phase("all", 1, lr=0.01))]
        fitted = model(callbacks=[Graceful(pressed)], validation=None, phases=phases)
        assert fitted.fit(pictures(), Y).history_["phase"].tolist() == ["a", "a", "b"]
    finally:
        signal.signal(signal.SIGINT, before)


class Residual(nn.Module):
    """Adds, in its own forward, what a cut between the two would hand on once."""

    def __init__(self, scale=1.0, dropout=0.0):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 3, bias=False)
        self.head = nn.Linear(8, 2)
        self.dropout = dropout
        with torch.no_grad():
            self.third.weight.mul_(scale)

    def forward(self, x):
        x = self.first(x).relu()
        if self.dropout:
            x = self.second(nn.functional.dropout(x, self.dropout, self.training)).relu()
            x = nn.functional.dropout(x, self.dropout, self.training)
        else:
            x = x + self.second(x).relu()
        return self.head(self.third(x).relu().mean((2, 3)))


@pytest.mark.parametrize("options", [{"scale": 1.0}, {"scale": 1e-5}, {"dropout": 0.5}])
def test_no_cut_where_forward_itself_does_more_than_hand_on(options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Residual(**options)
    zeros = {}

    class Watching(skorch.callbacks.Callback):
        """Notes how many zeros the part that learns is given in training."""

        def on_train_begin(self, net, **kwargs):
            for path, part in net.module_.learner.named_modules():
                if path.rpartition(".")[2] == "third":
                    self.hook = part.register_forward_pre_hook(self.note)

        def note(self, part, inputs):
            if part.training:
                zeros.setdefault(self.n, []).append(float((inputs[0] == 0).float().mean()))

    predicted = {}
    for n in (10**9, 0):
        watching = Watching()
        watching.n = n
        fitted = model(
            net,
            phases=one_phase(["third"], epochs=4, optimizer="adam"),
            validation=0.25,
            keep="final",
            cache_bytes=n,
            callbacks=[watching],
        ).fit(pictures(), Y)
        predicted[n] = fitted.predict_proba(pictures())
    np.testing.assert_allclose(predicted[10**9], predicted[0], atol=1e-3)
    np.testing.assert_allclose(np.mean(zeros[10**9]), np.mean(zeros[0]), atol=1e-3)


class Functional(nn.Module):
    """Normalises and, by batch, drops in its own forward."""

    def __init__(self, p=0.0):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, bias=False)
        self.third, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, 2)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))
        self.p = p

    def forward(self, x):
        x = self.first(x)
        if self.training and float(torch.rand(())) < self.p:
            x = x * 0
        x = nn.functional.batch_norm(self.second(x), self.mean, self.var, training=self.training)
        return self.head(self.third(x.relu()).relu().mean((2, 3)))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.9])
def test_looking_for_a_cut_leaves_no_trace(p):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Functional(p)
    phases = one_phase(["third"], epochs=4, lr=0.1)
    options = {"validation": None, "phases": phases, "batch_size": 8}
    kept, anew = (model(net, cache_bytes=n, **options).fit(pictures(), Y) for n in (10**9, 0))
    if p:
        assert difference(kept, anew) < 1e-3
    module = anew.net_.module_
    module.cut = None
    before = net.mean.clone()
    with torch.random.fork_rng(devices=[]):
        module.begin(phases[0][1], is_pretrained=True)
        module.find_cut(torch.randn(2, 3, 32, 32))
    assert torch.equal(net.mean, before)
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    module.find_cut(torch.randn(2, 3, 32, 32))
    assert all(torch.equal(b, buffers[name]) for name, b in module.named_buffers())


class Splitting:
    def __init__(self, *parts):
        self.parts = parts

    def split(self, X, y=None, groups=None):
        yield from self.parts


def test_a_splitter_that_gives_masks():
    is_valid = np.arange(24) % 6 < 2
    by_mask, by_position = (
        model(validation=Splitting(parts)).fit(pictures(), Y)
        for parts in ((~is_valid, is_valid), (np.flatnonzero(~is_valid), np.flatnonzero(is_valid)))
    )
    assert difference(by_mask, by_position) == 0
    pd.testing.assert_frame_equal(
        by_mask.history_.drop(columns="seconds"), by_position.history_.drop(columns="seconds")
    )


@pytest.mark.parametrize(
    ("splitter", "message"),
    [
        (PredefinedSplit([-1] * 24), "gives no split with pictures in both parts"),
        (Splitting((np.arange(24), np.array([]))), "gives no split with pictures in both parts"),
        (Splitting((Y < 2, Y > 2)), "gives no split with pictures in both parts"),
        (Splitting((np.arange(24), [5, 7])), "2 pictures in both parts, the first at position 5"),
    ],
)
def test_splitters_that_keep_nothing_apart(splitter, message):
    with pytest.raises(ParameterError, match=message):
        model(validation=splitter).fit(pictures(), Y)


def test_batches_of_one_picture_leave_none_out():
    seen = []

    class Counting(skorch.callbacks.Callback):
        def on_batch_end(self, net, batch, training, **kwargs):
            seen.append(len(batch[1]))

    phases = one_phase("head", epochs=1)
    model(batch_size=1, validation=None, phases=phases, callbacks=[Counting()]).fit(pictures(), Y)
    assert seen == [1] * 24


def test_a_plateau_does_not_compare_losses_with_and_without_mixing():
    phases = one_phase(epochs=12, lr=0.05, schedule="plateau", step_size=2)
    options = {"validation": None, "label_smoothing": 0.2, "batch_size": 8}
    fitted = model("small3", phases=phases, mixup=0.2, mix_off_epoch=6, **options)
    history = fitted.fit(pictures(), Y).history_
    expected, rate, best, n_worse = [], 0.05, np.inf, 0
    for epoch, loss in enumerate(history["train_loss"]):
        expected.append(rate)
        best = np.inf if epoch == 6 else best
        n_worse = 0 if loss < best else n_worse + 1
        best = min(best, loss)
        if n_worse == 2:
            rate, n_worse = rate / 10, 0
    np.testing.assert_allclose(history["lr"], expected)


@pytest.mark.parametrize("train", ["head", "all", ["0"]])
@pytest.mark.parametrize("wrap", [lambda net: net, Backbone])
@pytest.mark.parametrize("again", [lambda m: m, copy.deepcopy, repickled, with_final_weights])
def test_a_fitted_network_stays_though_the_one_it_was_copied_from_learns_on(train, wrap, again):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        )  # fmt: skip
    fitted = model(wrap(net), phases=one_phase(train), validation=None, weights="default")
    before = fitted.fit(pictures(), Y).predict_proba(pictures())
    with torch.no_grad():
        net[0].weight.mul_(3)
        net[2].weight.mul_(3)
    np.testing.assert_allclose(again(fitted).predict_proba(pictures()), before, atol=1e-6)
    twice = again(again(fitted)).partial_fit(pictures(), Y)
    straight = model(
        wrap(net), phases=one_phase(train, epochs=3), validation=None, weights="default"
    )
    assert len(twice.history_) == 3
    assert difference(twice, straight.fit(pictures(), Y)) > 1e-4, "it learns on from the new net"


@pytest.mark.parametrize("wrap", [lambda net: net, Backbone])
def test_copies_that_hold_all_that_learnt_need_the_network_no_more(wrap):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
        )
    phases = [("head", Phase("head", 1)), ("all", Phase("all", 1, lr=1e-4))]
    fitted = model(wrap(net), phases=phases, weights="default", keep="final").fit(pictures(), Y)
    copied, before = copy.copy(fitted), fitted.predict_proba(pictures())
    with torch.no_grad():
        net[0].weight.mul_(3)
    for other in (copied, repickled(copied), repickled(fitted), with_final_weights(fitted)):
        np.testing.assert_allclose(other.predict_proba(pictures()), before, atol=1e-6)


def test_a_head_whose_network_learnt_on_fails_each_time():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
        )
    phases = [("head", Phase("head", 1))]
    fitted = model(net, phases=phases, weights="default", validation=None).fit(pictures(), Y)
    copied = repickled(fitted)
    with torch.no_grad():
        copied.backbone[0].weight.mul_(3)
    for _ in range(2):
        with pytest.raises(WeightsError, match="have changed since the fit"):
            copied.predict(pictures())


def test_a_network_that_is_gone_is_no_reason_not_to_pickle():
    inner = model(phases=one_phase(epochs=1)).fit(pictures(), Y)
    outer = model(inner, phases=one_phase("head", epochs=1), weights="default", validation=None)
    before = outer.fit(pictures(), Y).predict_proba(pictures())
    with pytest.raises(ValueError, match="inconsistent"):
        inner.fit(pictures(), Y[:3])
    content = pickle.dumps(outer)
    assert len(content) > 0
    np.testing.assert_array_equal(outer.predict_proba(pictures()), before)
