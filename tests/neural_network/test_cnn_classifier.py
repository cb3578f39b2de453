"""CNNClassifier: what it learns is what a plain loop learns, and nothing it should not."""

import pickle
import shutil
import threading
import time
from typing import ClassVar

import numpy as np
import pytest
import sklearn
import skorch
import torch
import torch.nn.functional as F  # noqa: N812
from joblib import parallel_config
from sklearn.base import clone
from sklearn.datasets import load_sample_images
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    ShuffleSplit,
    StratifiedGroupKFold,
    cross_val_score,
)
from torch import nn

from sktl import CNNClassifier, CNNFeatures, FeatureStore, Phase
from sktl.backbones import Backbone, Preprocessing
from sktl.exceptions import DivergenceError, ImageDecodeError, ParameterError
from sktl.images import as_images
from sktl.inspection import class_activation
from sktl.neural_network import _parts
from sktl.training import Augmentation, Patience, PrecheltUP
from sktl.training._data import Pixels
from sktl.training._net import BatchWork
from sktl.training._settings import Labelled
from sktl.training._sources import Sources


def pictures(n=48, seed=0):
    """Cuts of two photographs, (n, 32, 32, 3) uint8, and which of them they are from."""
    rng = np.random.default_rng(seed)
    images = load_sample_images().images
    y = np.arange(n) % 2
    cuts = []
    for kind in y:
        top, left = rng.integers(0, 390), rng.integers(0, 600)
        cuts.append(images[kind][top : top + 32, left : left + 32])
    return np.stack(cuts), np.array(["temple", "flower"])[y]


def small(seed=0):
    """A network of two stages, batch-normalised, that counts as pretrained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1),
            nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
        )  # fmt: skip
        for norm in (module[1], module[6]):
            norm.running_mean.uniform_(-0.2, 0.2)
            norm.running_var.uniform_(0.3, 0.8)
    return Backbone(module.requires_grad_(False), preprocessing=Preprocessing(size=32, resize=32))


def classifier(backbone=None, **parameters):
    parameters = {
        "phases": [("train", Phase("all", 3, lr=0.05))],
        "validation": None,
        "random_state": 0,
        "store": None,
        "batch_size": 16,
        **parameters,
    }
    return CNNClassifier(backbone or small(), **parameters)


def tensors(fitted):
    return {k: v.clone() for k, v in fitted._built().module.state_dict().items()}


class Watched(nn.BatchNorm2d):
    """Notes in which order the numbers of its gradients lie in memory."""

    def forward(self, x):
        return Gradient.apply(super().forward(x))


class Gradient(torch.autograd.Function):
    is_channels_last: ClassVar = []

    @staticmethod
    def forward(context, x):
        return x.view_as(x)

    @staticmethod
    def backward(context, gradient):
        like = {"memory_format": torch.channels_last}
        Gradient.is_channels_last.append(gradient.is_contiguous(**like))
        return gradient


def test_gradients_of_batch_normalisations_lie_as_their_maps_do():
    X, y = pictures(16)
    module = small().module
    module[6], module[7] = Watched(16), nn.ReLU6()
    backbone = Backbone(module, preprocessing=Preprocessing(size=32, resize=32))
    Gradient.is_channels_last.clear()
    for train in ("all", ["5", "6"]):  # the second behind stored activations
        classifier(backbone, phases=[("train", Phase(train, 1, lr=0.05))]).fit(X, y)
    assert Gradient.is_channels_last == [True, True]


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_training_is_a_plain_loop(batch_norm):
    """The same steps in plain PyTorch give the same weights, statistics and predictions."""
    X, y = pictures()
    phase = Phase("all", 3, lr=0.05, weight_decay=0.01, batch_norm=batch_norm)
    weight = np.random.default_rng(0).uniform(0, 5, 48)
    options = {"label_smoothing": 0.1, "class_weight": {"flower": 3.0}}
    model = classifier(phases=[("train", phase)], **options).fit(X, y, sample_weight=weight)
    weight = weight * np.where(y == "flower", 3.0, 1.0)
    weight = torch.from_numpy(weight / weight.mean()).float()  # whatever is in a batch

    seed = model._seed
    body = nn.Sequential(*list(small().module.children())[:-1]).requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(16, 2)
    net = nn.Sequential(body, head)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    x = (torch.from_numpy(X).permute(0, 3, 1, 2) / 255 - mean) / std
    labels = torch.from_numpy((y == "temple").astype(np.int64))
    losses = []
    for epoch in range(3):
        order = np.random.default_rng([seed, 0, epoch, 2]).permutation(48)
        net.train()
        if batch_norm == "frozen":
            body[1].eval()
            body[6].eval()
        for start in range(0, 48, 16):
            some = order[start : start + 16]
            optimizer.zero_grad()
            each = F.cross_entropy(
                net(x[some]), labels[some], label_smoothing=0.1, reduction="none"
            )
            loss = (each * weight[some]).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    with torch.no_grad():
        expected = net.eval()(x).softmax(1).numpy()
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(
        model.history_["train_loss"], np.reshape(losses, (3, 3)).mean(1), rtol=1e-4
    )
    assert list(model.classes_) == ["flower", "temple"]


def test_frozen_means_frozen():
    X, y = pictures()
    before = {f"trunk.{k}": v for k, v in small().module.state_dict().items()}
    head = classifier(phases=[("h", Phase("head", 3))]).fit(X, y)
    assert all(torch.equal(v, before[k]) for k, v in tensors(head).items() if k in before)
    last = classifier(phases=[("l", Phase("last:1", 3, batch_norm="train"))]).fit(X, y)
    changed = {k for k, v in tensors(last).items() if k in before and not torch.equal(v, before[k])}
    assert changed == {
        *(f"trunk.5.{n}" for n in ("weight", "bias")),
        *(f"trunk.6.{n}" for n in ("weight", "bias", "running_mean", "running_var")),
        "trunk.6.num_batches_tracked",
    }


@pytest.mark.parametrize("train", ["head", "last:1"])
@pytest.mark.parametrize("copies", [None, 2])
def test_what_is_frozen_is_computed_once_and_alike(train, copies, monkeypatch):
    """Cached and uncached training agree to the rounding of 16-bit maps."""
    X, y = pictures()
    parameters = {"phases": [("p", Phase(train, 4, lr=0.05))], "validation": 0.25}
    if copies:
        parameters |= {"augment": "light", "augment_copies": copies}
        parameters["phases"] = [("p", Phase(train, 30, lr=0.1))]
        assert classifier(**parameters).fit(X, y).score(X, y) > 0.7
        return
    cached = classifier(**parameters).fit(X, y)
    monkeypatch.setattr(Sources, "_is_stored", lambda self, phase: False)
    monkeypatch.setattr(Sources, "_cut", lambda self: None)
    plain = classifier(**parameters).fit(X, y)
    np.testing.assert_allclose(cached.predict_proba(X), plain.predict_proba(X), atol=2e-3)
    columns = ["train_loss", "valid_loss"]
    np.testing.assert_allclose(cached.history_[columns], plain.history_[columns], atol=2e-3)


def test_cached_copies_are_the_augmented_pictures():
    """With one copy and every draw fixed, the cache is that of the changed pictures."""
    X, y = pictures()
    flipped = np.ascontiguousarray(X[:, ::-1])

    class UpsideDown(Augmentation):
        def __call__(self, pixels, rng, size=None):
            return pixels.flip(2)

    phases = [("p", Phase("last:1", 3, lr=0.05))]
    one = classifier(phases=phases, augment=UpsideDown(), augment_copies=1).fit(X, y)
    other = classifier(phases=phases).fit(flipped, y)
    np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(X), atol=1e-4)


def test_too_little_room_is_no_obstacle():
    X, y = pictures()
    phases = [("p", Phase("last:1", 3, lr=0.05))]
    roomy = classifier(phases=phases).fit(X, y)
    tight = classifier(phases=phases, cache_bytes=0).fit(X, y)
    np.testing.assert_allclose(roomy.predict_proba(X), tight.predict_proba(X), atol=2e-3)


def test_validation_and_test_are_never_augmented():
    X, y = pictures()
    seen = []

    class Spy(Augmentation):
        def __call__(self, pixels, rng, size=None):
            seen.append(pixels.clone())
            return pixels

    model = classifier(augment=Spy(), validation=0.25).fit(X, y)
    n_fit = len(torch.cat(seen))
    assert n_fit == 3 * 36
    model.predict(X)
    assert len(torch.cat(seen)) == n_fit


class KilledError(Exception):
    pass


class Kill(skorch.callbacks.Callback):
    def __init__(self, epoch):
        self.epoch_ = epoch  # no parameter, so that whoever is killed later makes the same fit

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) > self.epoch_:
            raise KilledError


@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_a_killed_fit_goes_on(tmp_path, epoch):
    X, y = pictures()
    parameters = {
        "phases": [
            ("warm_up", Phase("head", 3, lr=0.05)),
            ("fine_tune", Phase("last:1", 3, lr=0.02, schedule="cosine")),
        ],
        "validation": 0.25,
        "dropout": 0.2,
        "augment": Augmentation(horizontal_flip=True),
        "keep": "final",
    }
    whole = classifier(**parameters).fit(X, y)
    with pytest.raises(KilledError):
        classifier(**parameters, checkpoint_dir=tmp_path, callbacks=[Kill(epoch)]).fit(X, y)
    resumed = classifier(**parameters, checkpoint_dir=tmp_path, callbacks=[Kill(99)])
    resumed.fit(X, y)
    np.testing.assert_allclose(resumed.predict_proba(X), whole.predict_proba(X), atol=1e-6)
    columns = ["phase", "epoch", "train_loss", "valid_loss", "lr"]
    assert resumed.history_[columns].equals(whole.history_[columns])
    again = classifier(**parameters, checkpoint_dir=tmp_path, callbacks=[Kill(0)]).fit(X, y)
    np.testing.assert_array_equal(again.predict_proba(X), resumed.predict_proba(X))
    other = classifier(
        **{**parameters, "dropout": 0.3}, checkpoint_dir=tmp_path, callbacks=[Kill(0)]
    )
    with pytest.raises(KilledError):
        other.fit(X, y)  # other parameters are another fit


def test_best_and_final_weights_are_both_there():
    X, y = pictures(60)
    X_valid, y_valid = pictures(40, seed=1)
    model = classifier(
        phases=[("p", Phase("all", 8, lr=0.3))], validation=(X_valid, y_valid), keep="best"
    ).fit(X, y)
    row = model.history_.iloc[model.best_epoch_ - 1]
    assert model.best_score_ == row["valid_top1"] == model.history_["valid_top1"].max()
    assert model.score(X_valid, y_valid) == pytest.approx(model.best_score_)
    final = model.with_weights("final")
    assert final.score(X_valid, y_valid) == pytest.approx(model.final_score_)
    assert model.score(X_valid, y_valid) == pytest.approx(model.best_score_), "the original changed"


def test_refit_trains_on_everything_for_the_best_epochs():
    X, y = pictures(60)
    parameters = {"phases": [("p", Phase("all", 6, lr=0.2))], "validation": 0.3}
    searched = classifier(**parameters, refit=True).fit(X, y)
    alone = classifier(phases=[("p", Phase("all", searched.best_epoch_, lr=0.2))]).fit(X, y)
    np.testing.assert_allclose(searched.predict_proba(X), alone.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("stopping", [2, Patience(2), PrecheltUP(1, 2)])
def test_early_stopping_ends_the_phase(stopping):
    X, y = pictures(60)
    noise = np.random.default_rng(0).permutation(y)
    phases = [("a", Phase("all", 60, lr=0.2)), ("b", Phase("head", 2))]
    model = classifier(phases=phases, validation=0.4, early_stopping=stopping).fit(X, noise)
    counts = model.history_["phase"].value_counts()
    assert counts["a"] < 60
    assert counts["b"] == 2


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
def test_divergence_is_an_error_and_a_search_goes_on():
    X, y = pictures()
    with pytest.raises(DivergenceError, match=r"phase 'train'.*clip_norm"):
        classifier().set_params(phases__train__lr=1e30).fit(X, y)
    search = GridSearchCV(classifier(), {"phases__train__lr": [0.05, 1e30]}, cv=2)
    with pytest.warns(FitFailedWarning, match="DivergenceError"):
        search.fit(X, y)
    assert np.isnan(search.cv_results_["mean_test_score"][1])
    assert search.best_params_ == {"phases__train__lr": 0.05}


def test_optimizer_state_goes_with_what_still_learns():
    X, y = pictures()
    states = []

    class Look(skorch.callbacks.Callback):
        def on_train_begin(self, net, **kwargs):
            states.append({id(p) for p in net.optimizer_.state})

        def on_train_end(self, net, **kwargs):
            self.head = {id(p) for p in net.module_.head.parameters()}

    look = Look()
    phases = [
        ("a", Phase("head", 2)),
        ("b", Phase("last:1", 1)),
        ("c", Phase("all", 1, optimizer="adam")),
    ]
    classifier(phases=phases, callbacks=[look]).fit(X, y)
    assert states[0] == set()
    assert states[1] == look.head, "momentum of the head is carried over, the rest starts clean"
    assert states[2] == set(), "another optimizer starts clean"


def test_mixing_is_off_after_its_epoch_and_its_metrics_are_those_of_real_pictures(monkeypatch):
    X, y = pictures(60)
    model = classifier(mixup=1.0, cutmix=1.0, mix_off_epoch=2, validation=0.25).fit(X, y)
    mixes = []
    from sktl.training import _net as module

    mixup = module.mixup
    monkeypatch.setattr(module, "mixup", lambda *a: mixes.append(a) or mixup(*a))
    phases = [("a", Phase("all", 2, lr=0.0 + 1e-9)), ("b", Phase("all", 2, lr=1e-9))]
    still = classifier(mixup=1.0, mix_off_epoch=2, phases=phases).fit(X, y)
    assert len(mixes) == 2 * 4
    # Nothing is learnt: the loss on pictures as they are stays that of the same network.
    assert np.ptp(still.history_["train_loss"]) < 1e-4
    assert model.score(X, y) > 0.6
    search = GridSearchCV(classifier(validation=0.25), {"mixup": [0.0, 0.3]}, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_weights_of_samples_and_classes():
    X, y = pictures()
    ignored = np.arange(48) % 3 > 0
    weighted = classifier(batch_size=48).fit(X, y, sample_weight=ignored.astype(float))
    alone = classifier(batch_size=32).fit(X[ignored], y[ignored])
    np.testing.assert_allclose(
        weighted.predict_proba(X), alone.predict_proba(X), rtol=0.02, atol=1e-3
    )
    few = np.concatenate([np.flatnonzero(y == "temple")[:4], np.flatnonzero(y == "flower")])
    plain, balanced = (
        classifier(class_weight=w, phases=[("p", Phase("head", 10, lr=0.02))]).fit(X[few], y[few])
        for w in (None, "balanced")
    )
    of_temple = [m.predict_proba(X)[:, 1].mean() for m in (plain, balanced)]
    assert of_temple[1] > of_temple[0] + 0.1


def test_partial_fit():
    X, y = pictures()
    model = classifier(phases=[("p", Phase("all", 1, lr=0.05))])
    for start in range(0, 48, 16):
        model.partial_fit(
            X[start : start + 16], y[start : start + 16], classes=["flower", "temple"]
        )
    assert len(model.history_) == 3
    for _ in range(6):
        model.partial_fit(X, y)
    assert model.score(X, y) > 0.8
    with pytest.raises(ValueError, match="castle"):
        model.partial_fit(X[:2], ["castle", "temple"])


def test_a_pickle_goes_on_learning():
    X, y = pictures()
    model = classifier(phases=[("p", Phase("all", 1, lr=0.05))], store=None)
    model.partial_fit(X, y).partial_fit(X, y)
    again = pickle.loads(pickle.dumps(model)).partial_fit(X, y)
    assert again.history_["epoch"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(again.history_["train_loss"][:2], model.history_["train_loss"])
    assert again.best_epoch_ == 3


def test_parameters_set_after_the_fit_leave_its_network_alone():
    X, y = pictures()
    model = classifier().fit(X, y)
    expected = model.predict_proba(X)
    model.set_params(backbone="lenet", weights=None, head=(8,), pooling="max", image_size=48)
    np.testing.assert_array_equal(model.predict_proba(X), expected)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(again.predict_proba(X), expected, atol=1e-6)
    assert model.fit(X, y).predict_proba(X).shape == (48, 2)
    assert model.backbone_.spec.name == "lenet"


def test_another_device_is_gone_to():
    X, y = pictures()
    for phases in ([("p", Phase("head", 2))], [("p", Phase("all", 2, lr=0.05))]):
        model = classifier(phases=phases).partial_fit(X, y)
        expected, first = model.predict_proba(X), model.net_
        model.set_params(device="cpu:0")
        np.testing.assert_allclose(model.predict_proba(X), expected, atol=1e-6)
        assert model.net_ is not first
        assert model.net_.device == "cpu:0"
        assert len(model.partial_fit(X, y).history_) == 2


def test_parameters_of_phases_are_searched_like_steps():
    model = CNNClassifier()
    assert "phases__fine_tune__lr" in model.get_params()
    model.set_params(phases__fine_tune__lr=0.123, phases__warm_up__epochs=2)
    assert dict(model.phases)["fine_tune"].lr == 0.123
    assert CNNClassifier().get_params()["phases__fine_tune__lr"] != 0.123, "the default changed"
    cloned = clone(model)
    cloned.set_params(phases__fine_tune__lr=0.5)
    assert dict(model.phases)["fine_tune"].lr == 0.123, "a clone shares its phases"
    with pytest.raises(ParameterError, match="no phase 'tune'"):
        model.set_params(phases__tune__lr=1)
    augmented = CNNClassifier(augment=Augmentation(rotation=5))
    assert augmented.set_params(augment__rotation=20).augment.rotation == 20


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"head": 256}, "head"), ({"dropout": 1.5}, "dropout"), ({"keep": "worst"}, "keep"),
        ({"validation": 1.5}, "validation"), ({"augment": "heavy"}, "augment"),
        ({"augment_copies": 2}, "augment_copies"), ({"phases": []}, "phases"),
        ({"early_stopping": 3, "validation": None}, "early_stopping"), ({"layer": "top"}, "layer"),
        ({"phases": [("a", Phase("last:0"))]}, "last:k"), ({"mixup": -1}, "mixup"),
        ({"phases": [("a", Phase(["nothing"]))]}, "nothing"), ({"device": "tpu"}, "device"),
        ({"refit": "yes"}, "refit"), ({"compile": "fast"}, "compile"), ({"n_jobs": "2"}, "n_jobs"),
    ],
)  # fmt: skip
def test_wrong_parameters_are_named_before_work(parameters, named):
    X, y = pictures(8)
    with pytest.raises(ParameterError, match=named):
        classifier(**parameters).fit(X, y)


def test_bad_pictures_are_named_before_training(tmp_path):
    X, y = pictures(8)
    broken = [*X[:6], b"no picture", b""]
    with pytest.raises(ImageDecodeError) as caught:
        classifier().fit(broken, y)
    assert [bad.index for bad in caught.value.failures] == [6, 7]


def test_splitters_and_labels():
    X, y = pictures()
    splitter = ShuffleSplit(1, test_size=0.5, random_state=3)
    model = classifier(validation=splitter).fit(X, y)
    assert np.isfinite(model.history_["valid_loss"]).all()
    with pytest.raises(ValueError, match="y is None"):
        classifier().fit(X, None)
    with pytest.raises(ValueError, match="inconsistent"):
        classifier().fit(X, y[:-1])


@pytest.mark.parametrize("validation", [0.25, GroupKFold(4), StratifiedGroupKFold(4)])
@pytest.mark.parametrize("name", [int, "patient {}".format])
def test_groups_are_kept_back_whole(validation, name, monkeypatch):
    X, y = pictures(40)
    groups = [name(i) for i in np.random.default_rng(0).permutation(40) // 4]
    parts = []
    whole = _parts.split

    def watched(*arguments):
        parts.append(whole(*arguments))
        return parts[-1]

    monkeypatch.setattr("sktl.neural_network._cnn_classifier.split", watched)
    model = classifier(validation=validation, random_state=0).fit(X, y, groups=groups)
    ((train, valid),) = parts
    seen, kept_back = ({groups[i] for i in part.positions} for part in (train, valid))
    assert not seen & kept_back
    assert seen | kept_back == set(groups)
    assert len(kept_back) in (2, 3)
    assert set(train.labels) == {0, 1}
    assert np.isfinite(model.history_["valid_loss"]).all()


def test_groups_are_handed_on_by_searches():
    X, y = pictures(40)
    groups = np.arange(40) // 4
    with sklearn.config_context(enable_metadata_routing=True):
        model = classifier(validation=GroupKFold(4))
        scores = cross_val_score(
            model, X, y, cv=GroupKFold(2), params={"groups": groups}, error_score="raise"
        )
    assert np.isfinite(scores).all()


def test_a_group_with_the_only_pictures_of_a_class_is_there_to_learn_from():
    X, _ = pictures(20)
    labels = np.repeat(np.arange(4), 5)
    groups = [*range(15), *[15] * 5]
    everything = Labelled(as_images(X), labels, None)
    for seed in range(20):
        train, valid = _parts.split(everything, 0.9, seed, np.array(groups))
        assert set(train.labels) == {0, 1, 2, 3}
        assert len(valid.labels)
        # Groups that are there to learn from are no part of the share.
        few, kept_back = _parts.split(everything, 0.25, seed, np.array(groups))
        assert len(few.labels) == 16
        assert len(kept_back.labels) == 4


def test_groups_of_one_class_are_kept_back_of_each_class():
    X, _ = pictures(120)
    groups = np.arange(120) // 12
    labels = groups % 2
    for seed in range(20):
        everything = Labelled(as_images(X), labels, None)
        train, valid = _parts.split(everything, 0.2, seed, groups)
        assert np.bincount(valid.labels).tolist() == [12, 12]
        assert not set(groups[train.positions]) & set(groups[valid.positions])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([0] * 20, "0.2 of 1 groups: each has all pictures of some class"),
        ([0] * 19 + [None], "groups must give each picture a group; that at position 19 has none"),
        ([0] * 19, "inconsistent"),
    ],
)
def test_bad_groups_are_named(groups, message):
    X, y = pictures(20)
    with pytest.raises(ValueError, match=message):
        classifier(validation=0.2).fit(X, y, groups=groups)


def test_groups_are_checked_before_pictures_are_read():
    _, y = pictures(20)
    for validation in (None, 0.2, GroupKFold(2)):
        with pytest.raises(ValueError, match="inconsistent"):
            classifier(validation=validation).fit(["missing.jpg"] * 20, y, groups=[0] * 19)


def test_callbacks_of_skorch():
    X, y = pictures(60)
    calls = skorch.callbacks.EpochScoring("accuracy", name="their_accuracy", lower_is_better=False)
    stop = skorch.callbacks.EarlyStopping(patience=2, threshold=10.0)
    phases = [("a", Phase("all", 20, lr=0.05)), ("b", Phase("head", 1))]
    model = classifier(phases=phases, callbacks=[calls, stop], validation=0.25).fit(X, y)
    np.testing.assert_allclose(model.history_["their_accuracy"], model.history_["valid_top1"])
    assert (model.history_["phase"] == "a").sum() == 3
    assert (model.history_["phase"] == "b").sum() == 1


def test_a_pickle_holds_only_what_was_changed():
    X, y = pictures()
    phases = [("h", Phase("head", 1))]
    model = CNNClassifier(phases=phases, validation=None, random_state=0, image_size=64).fit(X, y)
    dumped = pickle.dumps(model)
    assert len(dumped) < 100_000
    np.testing.assert_array_equal(pickle.loads(dumped).predict_proba(X), model.predict_proba(X))


def test_head_phases_forward_nothing_that_is_stored(tmp_path, monkeypatch):
    X, y = pictures()
    store = tmp_path / "store"
    features = CNNFeatures(image_size=64, layer="penultimate", store=store).fit_transform(X)
    assert features.shape == (48, 1280)
    from sktl.engine._runner import Runner

    monkeypatch.setattr(Runner, "__call__", lambda *a: pytest.fail("forwarded again"))
    phases = [("h", Phase("head", 5))]
    model = CNNClassifier(phases=phases, random_state=0, image_size=64, store=store).fit(X, y)
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize("precision", ["auto", "exact", "bf16"])
def test_a_head_learns_from_the_features_that_it_will_see(tmp_path, precision):
    X, y = pictures()
    store = FeatureStore(tmp_path / "store")
    phases = [("h", Phase("head", 2))]
    model = CNNClassifier(phases=phases, image_size=64, store=store, precision=precision)
    model.fit(X, y).predict(X)
    assert store.info()[["rows", "hits"]].to_numpy().tolist() == [[48, 48]]


def test_memory_that_is_too_small_is_said_with_its_remedy(monkeypatch):
    X, y = pictures()

    def full(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(BatchWork, "loss", full)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        classifier().fit(X, y)
    assert "A smaller batch_size than 16" in caught.value.__notes__[0]


def test_pictures_that_are_not_kept_are_decoded_by_several_threads(monkeypatch):
    X, y = pictures()
    names = set()
    decode = Pixels._decode

    def slow(*args):
        time.sleep(0.005)
        names.add(threading.current_thread().name)
        return decode(*args)

    expected = classifier(cache_bytes=0).fit(X, y).predict_proba(X)
    monkeypatch.setattr(Pixels, "_decode", slow)
    found = classifier(cache_bytes=0, n_jobs=3).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(names) >= 3


def test_nothing_global_is_touched():
    X, y = pictures()
    torch.manual_seed(3)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one = classifier(dropout=0.5, augment="trivial").fit(X, y)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    torch.manual_seed(4)
    other = classifier(dropout=0.5, augment="trivial").fit(X, y)
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))


def test_searches_in_worker_processes():
    X, y = pictures()
    grid = {"phases__train__lr": [0.01, 0.05]}
    with parallel_config("loky", n_jobs=2):
        parallel = GridSearchCV(classifier("lenet", weights=None), grid, cv=2).fit(X, y)
    alone = GridSearchCV(classifier("lenet", weights=None), grid, cv=2).fit(X, y)
    np.testing.assert_allclose(
        parallel.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"], atol=0.05
    )


def test_ten_crops_are_the_mean_of_the_logits_of_crops():
    X, y = pictures()
    backbone = Backbone(small().module, preprocessing=Preprocessing(size=24, resize=32))
    model = classifier(backbone).fit(X, y)
    crops = [
        v[:, a : a + 24, b : b + 24]
        for v in (X, X[:, :, ::-1])
        for a, b in ((0, 0), (0, 8), (8, 0), (8, 8), (4, 4))
    ]
    whole = classifier(Backbone(small().module, preprocessing=Preprocessing(size=24, resize=24)))
    whole.fit(X, y)
    whole._states = model._states
    whole._load("final")
    logits = np.mean([whole._logits(np.ascontiguousarray(c)) for c in crops], axis=0)
    model.set_params(crops="ten")
    np.testing.assert_allclose(model._logits(X), logits, rtol=1e-3, atol=1e-4)


def test_from_scratch_normalises_by_the_training_pictures():
    X, y = pictures()
    model = classifier("lenet", weights=None).fit(X, y)
    preprocessing = model._built().preprocessing
    np.testing.assert_allclose(preprocessing.mean, X.mean((0, 1, 2)) / 255, rtol=1e-6)
    np.testing.assert_allclose(preprocessing.std, X.std((0, 1, 2)) / 255, rtol=1e-6)
    assert classifier("lenet", weights=None, normalize="weights").fit(X, y)._built()
    assert model.fit(X, y).backbone_.name == "lenet"
    features = CNNFeatures(model.backbone_, layer="penultimate", store=None).fit_transform(X)
    assert features.shape == (48, 84)


def test_mixed_precision():
    X, y = pictures()
    full = classifier().fit(X, y).predict_proba(X)
    mixed = classifier(precision="bf16").fit(X, y)
    assert 0 < np.abs(mixed.predict_proba(X) - full).max() < 0.1


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_training_is_the_same():
    X, y = pictures()
    phases = [("head", Phase("head", 2, lr=0.05)), ("all", Phase("all", 2, lr=0.05))]
    plain = classifier(phases=phases, validation=0.25).fit(X, y)
    torch._dynamo.reset()
    compiled = classifier(phases=phases, validation=0.25, compile=True).fit(X, y)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    expected = plain.predict_proba(X)
    np.testing.assert_allclose(compiled.predict_proba(X), expected, atol=1e-5)
    again = pickle.loads(pickle.dumps(compiled))
    np.testing.assert_allclose(again.predict_proba(X), expected, atol=1e-5)
    maps = [class_activation(m, X[:2], layer="5").maps for m in (plain, compiled)]
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-4)


def test_no_shock_at_the_crossover(shared_data):
    """On real pictures the first fine-tuning epoch has no higher loss than the one before.

    Of three draws, as 48 validation pictures say little.
    """
    from sktl import load_image_folder

    X, y = load_image_folder(shared_data / "flowers", return_X_y=True)
    phases = [
        ("warm_up", Phase("head", 15, optimizer="adam")),
        ("fine_tune", Phase("last:2", 2, lr=0.005)),
    ]
    before, after = [], []
    for seed in range(3):
        some = np.random.default_rng(seed).permutation(len(X))[:240]
        model = CNNClassifier(phases=phases, image_size=96, random_state=0, store="memory")
        history = model.fit(X[some], y[some]).history_
        before.append(history[history["phase"] == "warm_up"].iloc[-1])
        after.append(history[history["phase"] == "fine_tune"].iloc[0])
        assert after[-1]["train_loss"] < 1.1 * before[-1]["train_loss"]
        assert model.score(X[some], y[some]) > 0.9
    valid = [np.mean([row["valid_loss"] for row in rows]) for rows in (before, after)]
    assert valid[1] < 1.3 * valid[0]
