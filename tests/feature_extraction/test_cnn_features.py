import functools
import pickle
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits, load_sample_images
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from torch import nn

from sktl import CNNClassifier, CNNFeatures, Phase, as_images, load_backbone
from sktl.backbones import Backbone, Preprocessing, register_backbone
from sktl.exceptions import (
    BackboneNotFoundError,
    ImageDecodeError,
    ImageFormatError,
    LayerNotFoundError,
    ParameterError,
    WeightsError,
)

PHOTOS = load_sample_images().images


def tiny(size=24):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 12, 3, 2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2),
        )  # fmt: skip
    return Backbone(net, preprocessing=Preprocessing(size=size, resize=28), name="tiny")


def test_the_default_network_recognises_photographs():
    backbone = load_backbone("efficientnet_lite0")
    weight, bias = (tensor.detach().numpy() for tensor in backbone.head.parameters())
    logits = CNNFeatures().transform(PHOTOS) @ weight.T + bias
    assert [backbone.class_names[i] for i in logits.argmax(axis=1)] == ["palace", "daisy"]


def test_penultimate_of_a_network_without_hidden_layers_is_its_bottleneck():
    features = CNNFeatures(image_size=64)
    np.testing.assert_array_equal(
        features.transform(PHOTOS),
        clone(features).set_params(layer="penultimate").transform(PHOTOS),
    )


def test_a_list_of_layers_is_concatenated_and_named():
    layers = [-2, "bottleneck", "penultimate", "8"]
    features = CNNFeatures(tiny(), layer=layers).fit(PHOTOS)
    single = [CNNFeatures(tiny(), layer=layer).transform(PHOTOS) for layer in layers]
    np.testing.assert_allclose(features.transform(PHOTOS), np.hstack(single), rtol=1e-6)
    assert features.n_features_out_ == 8 + 12 + 5 + 2
    names = features.get_feature_names_out()
    assert names[0] == "tiny_1_0"
    assert names[8] == "tiny_bottleneck_0"
    assert names[-1] == "tiny_8_1"


@pytest.mark.parametrize(
    ("pooling", "shape"),
    [("avg", (2, 12)), ("flatten", (2, 12 * 5 * 5)), ("none", (2, 12, 5, 5))],
)
def test_pooling_decides_the_shape(pooling, shape):
    features = CNNFeatures(tiny(), pooling=pooling).fit(PHOTOS)
    assert features.transform(PHOTOS).shape == shape
    assert features.n_features_out_ == np.prod(shape[1:])


def test_maps_have_no_feature_names():
    with pytest.raises(ValueError, match='pooling="flatten"'):
        CNNFeatures(tiny(), pooling="none").fit(PHOTOS).get_feature_names_out()


def test_names_need_a_fitted_estimator():
    with pytest.raises(NotFittedError):
        CNNFeatures(tiny()).get_feature_names_out()


def test_ten_crops_are_the_mean_over_single_crops():
    backbone, size = tiny(), 24
    image = Image.fromarray(PHOTOS[0]).resize((42, 28), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    right, bottom = 42 - size, 28 - size
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    crops = [v[y : y + size, x : x + size] for v in (pixels, pixels[:, ::-1]) for y, x in corners]
    plain = Backbone(backbone.module, preprocessing=Preprocessing(size=size, resize=size))
    single = CNNFeatures(plain).transform(crops)
    np.testing.assert_allclose(
        CNNFeatures(backbone, crops="ten").transform([image])[0], single.mean(axis=0), rtol=1e-5
    )


def test_all_wrong_parameters_are_named_at_once():
    features = CNNFeatures(
        tiny(), pooling="agv", crops="five", batch_size=0, layer=[], device="gpu", on_error="skip"
    )
    with pytest.raises(ParameterError) as caught:
        features.fit(PHOTOS)
    for word in ("pooling", "'avg'", "crops", "batch_size", "layer", "device", "on_error"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "error", "words"),
    [
        ({"backbone": "resnet5O"}, BackboneNotFoundError, "resnet50"),
        ({"backbone": "resnet18", "weights": "IMAGENET"}, WeightsError, "IMAGENET1K_V1"),
        ({"backbone": "resnet18", "weights": "no/file.pth"}, WeightsError, "no weights file"),
        ({"layer": "blocks.9"}, LayerNotFoundError, "blocks.6"),
        ({"layer": 17}, LayerNotFoundError, "5 stages"),
        ({"backbone": "vit_b_32", "weights": None, "image_size": 65}, ParameterError, "224"),
        ({"layer": ["bottleneck", -2], "pooling": "none"}, ParameterError, "several layers"),
    ],
)
def test_what_cannot_be_is_one_clear_error(parameters, error, words):
    with pytest.raises(error, match=words):
        CNNFeatures(**parameters).fit(PHOTOS)


def test_bad_files_are_found_before_the_network_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    X = [tmp_path / "empty.jpg", tmp_path / "text.jpg", tmp_path / "missing.jpg"]
    monkeypatch.setattr(
        "sktl.engine._network.load_backbone", lambda *_, **__: pytest.fail("the network is loaded")
    )
    for method in ("fit", "fit_transform"):
        with pytest.raises(ImageDecodeError) as caught:
            getattr(CNNFeatures(), method)(X)
        assert [bad.index for bad in caught.value.failures] == [0, 1, 2]
        for word in ("empty.jpg: empty", "text.jpg: not a picture", "missing.jpg: file not found"):
            assert word in str(caught.value)


def test_digits_work_as_they_come():
    X, y = load_digits(return_X_y=True)
    X, y = X[:200], y[:200]
    model = Pipeline(
        [
            ("feat", CNNFeatures(image_shape=(8, 8), image_size=64)),
            ("clf", LogisticRegression(max_iter=1000)),
        ]
    )
    model.fit(X[:150], y[:150])
    assert model.score(X[150:], y[150:]) > 0.7
    assert model[0].value_range_ == (0, 16)
    assert model[0].n_features_in_ == 64


def test_a_dark_row_alone_is_as_dark_as_among_others():
    X = load_digits().data[:10].copy()
    X[3] = np.minimum(X[3], 1)
    features = CNNFeatures(tiny(), image_shape=(8, 8)).fit(X)
    np.testing.assert_allclose(
        features.transform(X[3:4]), features.transform(X)[3:4], rtol=1e-4, atol=1e-6
    )
    with pytest.raises(ValueError, match="65 features"):
        features.transform(np.zeros((2, 65)))


def test_rows_without_a_shape_are_an_error_that_says_what_is_missing():
    with pytest.raises(ImageFormatError, match="image_shape"):
        CNNFeatures(tiny()).fit(load_digits().data)


def test_a_collection_is_taken_as_it_is():
    images = as_images(load_digits().data[:20], image_shape=(8, 8))
    rows = CNNFeatures(tiny(), image_shape=(8, 8)).fit_transform(load_digits().data[:20])
    np.testing.assert_array_equal(CNNFeatures(tiny()).fit_transform(images), rows)


def test_a_pickle_holds_no_weights():
    model = Pipeline(
        [("feat", CNNFeatures(image_size=64)), ("clf", LogisticRegression(max_iter=100))]
    ).fit(PHOTOS * 4, ["palace", "daisy"] * 4)
    more = len(pickle.dumps(model)) - len(pickle.dumps(model[1]))
    assert more < 1_000_000
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(model)).predict(PHOTOS), ["palace", "daisy"]
    )


def test_the_index_survives_set_output():
    frame = pd.DataFrame({"picture": list(PHOTOS)}, index=["palace", "daisy"])
    features = CNNFeatures(tiny()).set_output(transform="pandas").fit_transform(frame)
    assert features.index.tolist() == ["palace", "daisy"]
    assert features.columns[0] == "tiny_0"


def test_set_params_takes_effect():
    features = CNNFeatures(tiny()).fit(PHOTOS)
    assert features.set_params(layer="penultimate").fit_transform(PHOTOS).shape == (2, 5)
    assert features.set_params(backbone="efficientnet_lite0", layer="bottleneck").fit_transform(
        PHOTOS
    ).shape == (2, 1280)


def test_estimators_share_one_loaded_network():
    one, other = CNNFeatures(image_size=64).fit(PHOTOS), CNNFeatures(image_size=64, layer=-2)
    other.fit(PHOTOS)
    assert load_backbone("efficientnet_lite0") is load_backbone("efficientnet_lite0", "default")
    assert not any(
        isinstance(value, (nn.Module, Backbone))
        for estimator in (one, other, clone(one))
        for value in vars(estimator).values()
    )


def test_threads_do_not_disturb_each_other():
    backbone = tiny()
    expected = {layer: CNNFeatures(backbone, layer=layer, store=None).transform(PHOTOS)
                for layer in ("0", "2", "penultimate", "8")}  # fmt: skip
    found, errors = {}, []

    def work(layer):
        try:
            for _ in range(10):
                found[layer] = CNNFeatures(backbone, layer=layer, store=None).transform(PHOTOS)
                np.testing.assert_allclose(found[layer], expected[layer], rtol=1e-5)
        except Exception as error:  # noqa: BLE001 (told to the main thread)
            errors.append(error)

    threads = [threading.Thread(target=work, args=(layer,)) for layer in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert found.keys() == expected.keys()


def test_a_registered_network_works_by_name():
    module = tiny().module
    register_backbone("tiny_registered", lambda: module, preprocessing=Preprocessing(24, 28))
    np.testing.assert_allclose(
        CNNFeatures("tiny_registered").fit_transform(PHOTOS),
        CNNFeatures(tiny()).fit_transform(PHOTOS),
        rtol=1e-6,
    )


def test_half_precision_networks_give_float32():
    half = Backbone(tiny().module.to(torch.bfloat16), preprocessing=Preprocessing(24, 28))
    features = CNNFeatures(half, store=None).transform(PHOTOS)
    assert features.dtype == np.float32
    reference = CNNFeatures(tiny(), store=None).transform(PHOTOS)
    np.testing.assert_allclose(features, reference, atol=0.02)


def test_progress_is_shown_only_when_asked_for(capsys):
    CNNFeatures(tiny(), store=None).transform(PHOTOS)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_the_imagenet_samples_are_recognised(shared_data):
    folder = shared_data / "imagenet-samples"
    ids = (folder / "synsets.txt").read_text().split()
    paths = sorted(folder.glob("*.JPEG"))
    truth = np.array([ids.index(path.name.partition("_")[0]) for path in paths])
    weight, bias = (
        tensor.detach().numpy() for tensor in load_backbone("efficientnet_lite0").head.parameters()
    )
    exact = CNNFeatures(precision="exact").fit_transform(paths)
    default = CNNFeatures().fit_transform(paths)
    distance = np.linalg.norm(default - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert distance.max() < 5e-3
    predicted = (exact @ weight.T + bias).argmax(axis=1)
    np.testing.assert_array_equal((default @ weight.T + bias).argmax(axis=1), predicted)
    assert np.mean(predicted == truth) == pytest.approx(0.883, abs=0.005)


def test_other_weights_under_the_same_name_are_noticed(tmp_path):
    """A pickle names its weights; the file may have changed since."""
    images, labels = load_sample_images().images, ["temple", "flower"]
    file = tmp_path / "w.pth"
    torch.save(load_backbone("resnet18", None, random_state=1).module.state_dict(), file)
    shared = {"weights": file, "image_size": 32, "store": None}
    phases = [("head", Phase("head", 1))]
    fitted = [
        CNNFeatures("resnet18", **shared).fit(images),
        CNNClassifier("resnet18", phases=phases, validation=None, random_state=0, **shared).fit(
            images, labels
        ),
    ]
    contents = [pickle.dumps(estimator) for estimator in fitted]
    torch.save(load_backbone("resnet18", None, random_state=2).module.state_dict(), file)
    for content in contents:
        estimator = pickle.loads(content)
        use = getattr(estimator, "transform", None) or estimator.predict
        with pytest.raises(WeightsError, match="are not those of the fit"):
            use(images)


def scale_first(module, factor):
    with torch.no_grad():
        next(module.parameters()).mul_(factor)


@pytest.mark.parametrize("store", [None, "memory"])
@pytest.mark.parametrize("kind", ["module", "backbone", "estimator", "its backbone"])
def test_a_network_that_learns_on_after_the_fit_is_an_error(kind, store):
    images, labels = PHOTOS, ["temple", "flower"]
    made = tiny()
    if kind in ("module", "backbone"):
        backbone = made.module if kind == "module" else made
        learn = functools.partial(scale_first, made.module, 2)
    else:
        phases = [("all", Phase("all", 1, lr=0.1))]
        classifier = CNNClassifier(made, phases=phases, validation=None, random_state=0)
        backbone = classifier.fit(images, labels)
        backbone = backbone if kind == "estimator" else backbone.backbone_
        learn = functools.partial(classifier.partial_fit, images, labels)
    features = CNNFeatures(backbone, image_size=24, store=store).fit(images)
    before = features.transform(images)
    np.testing.assert_array_equal(features.transform(images), before)
    learn()
    with pytest.raises(WeightsError, match=r"have changed since the fit.*copy\.deepcopy"):
        features.transform(images)
    assert np.abs(features.fit_transform(images) - before).max() > 1e-3


class Counting(nn.Module):
    """Counts its forward passes in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.body = tiny().module

    def forward(self, x):
        self.calls += 1
        return self.body(x)


@pytest.mark.parametrize("wrap", [lambda net: net, Backbone])
def test_a_network_that_writes_down_its_calls_has_learnt_nothing(wrap):
    features = CNNFeatures(wrap(Counting()), image_size=24, store=None)
    once, again = features.fit_transform(PHOTOS), features.transform(PHOTOS)
    np.testing.assert_allclose(once, again, rtol=1e-5)
    features.transform(PHOTOS)


def test_a_registered_object_that_learns_on_is_noticed_too():
    made = tiny()
    register_backbone("learns-on", lambda: made.module)
    features = CNNFeatures("learns-on", image_size=24, store=None).fit(PHOTOS)
    scale_first(made.module, 2)
    with pytest.raises(WeightsError, match=r"are not those of the fit|have changed since the fit"):
        features.transform(PHOTOS)


@pytest.mark.parametrize("store", [None, "memory"])
def test_a_network_made_for_one_size_is_made_for_the_size_that_is_asked_for(store):
    for size in (64, 32):
        features = CNNFeatures(
            "lenet",
            weights=None,
            image_size=size,
            layer="penultimate",
            store=store,
            precision="exact",
        )
        backbone = load_backbone("lenet", None, image_size=size)
        direct = CNNFeatures(backbone, layer="penultimate", store=None, precision="exact")
        np.testing.assert_array_equal(features.fit_transform(PHOTOS), direct.fit_transform(PHOTOS))
