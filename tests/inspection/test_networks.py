"""What looks into networks: against hand computations, gradients against differences."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC
from torch import nn

from sktl import CNNClassifier, CNNFeatures, FeatureStore, Phase, as_images
from sktl.backbones import Backbone, Preprocessing
from sktl.backbones._weights import seeded
from sktl.exceptions import ImageFormatError, LayerNotFoundError, ParameterError
from sktl.inspection import (
    AdversarialDisplay,
    AugmentationDisplay,
    ClassActivationDisplay,
    FeatureMapDisplay,
    FirstLayerFiltersDisplay,
    ImageGridDisplay,
    ImageSetDisplay,
    TopPatchesDisplay,
    _adversarial,
    adversarial_accuracy,
    adversarial_pictures,
    class_activation,
    receptive_field,
    top_patches,
)
from sktl.inspection._networks import affine_part, as_score_network, normalised, squares
from sktl.inspection._pictures import pictures_of
from sktl.self_supervised import CPCFeatures, LinearProbe


@pytest.fixture
def classifier(pictures):
    phases = [("train", Phase(epochs=3, lr=0.02))]
    model = CNNClassifier("lenet", weights=None, phases=phases, random_state=0, validation=None)
    return model.fit(*pictures)


def field_by_hand(layers, size):
    """First pixel and one behind the last of each place, layer by layer: (kernel, stride, pad)."""
    ends = [(i, i + 1) for i in range(size)]
    for kernel, stride, pad in layers:
        n = (len(ends) + 2 * pad - kernel) // stride + 1
        inside = [
            range(max(0, j * stride - pad), min(len(ends), j * stride - pad + kernel))
            for j in range(n)
        ]
        ends = [(ends[r[0]][0], ends[r[-1]][1]) for r in inside]
    return ends


@pytest.mark.parametrize(
    ("layers", "size"),
    [
        ([(3, 1, 1), (2, 2, 0), (3, 1, 1), (2, 2, 0), (3, 1, 1)], 32),
        ([(7, 2, 3), (3, 2, 1), (3, 1, 1), (3, 2, 1)], 32),
        ([(5, 1, 0), (2, 2, 0), (5, 1, 0)], 28),  # without padding no stride divides the size
        ([(3, 2, 1)] * 4, 32),  # reaches beyond the picture
    ],
)
def test_receptive_field_is_that_of_the_arithmetic(layers, size):
    modules = [
        nn.MaxPool2d(k, s) if k == 2 else nn.Conv2d(3, 3, k, stride=s, padding=p)
        for k, s, p in layers
    ]
    net = nn.Sequential(*modules, nn.Conv2d(3, 4, 1))
    backbone = Backbone(net, preprocessing=Preprocessing(size=size, resize=size))
    field = receptive_field(backbone, str(len(layers)))
    expected = field_by_hand(layers, size)
    assert field.rows.tolist() == [list(ends) for ends in expected]
    assert field.columns.tolist() == field.rows.tolist()


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ([(3, 1, 1)], [(1, 2, 0)]),
        ([(3, 2, 1)], [(5, 3, 0)]),
        ([(1, 2, 0), (3, 1, 1)], [(3, 1, 1), (1, 3, 0)]),  # pixels that nothing depends on
    ],
)
def test_receptive_field_of_axes_that_are_treated_unlike(rows, columns):
    modules = [
        nn.Conv2d(3, 3, *zip(*axes, strict=True)) for axes in zip(rows, columns, strict=True)
    ]
    net = nn.Sequential(*modules, nn.Conv2d(3, 4, 1))
    backbone = Backbone(net, preprocessing=Preprocessing(size=48, resize=48))
    field = receptive_field(backbone, str(len(rows) - 1))
    assert field.rows.tolist() == [list(ends) for ends in field_by_hand(rows, 48)]
    assert field.columns.tolist() == [list(ends) for ends in field_by_hand(columns, 48)]


def test_receptive_field_with_branches_gates_and_uneven_axes():
    class Net(nn.Module):
        def __init__(self, gated):
            super().__init__()
            self.wide = nn.Conv2d(3, 4, (1, 5), padding=(0, 2))
            self.narrow = nn.Conv2d(3, 4, 3, padding=1)
            self.out, self.gated = nn.Identity(), gated

        def forward(self, x):
            maps = self.wide(x) + torch.relu(self.narrow(x))
            gate = maps.mean((2, 3), keepdim=True).sigmoid() if self.gated else 1
            return self.out(maps * gate).flatten(2).mean(2)

    preprocessing = Preprocessing(size=16, resize=16)
    field = receptive_field(Backbone(Net(False), preprocessing=preprocessing), "out")
    assert field.rows[8].tolist() == [7, 10]
    assert field.columns[8].tolist() == [6, 11]
    field = receptive_field(Backbone(Net(True), preprocessing=preprocessing), "out")
    assert (field.rows == [0, 16]).all()


def test_top_patches_by_a_plain_loop(backbone, pictures):
    X, _ = pictures
    X = X.copy()
    X[5, 20, 10] = 255  # a place to be found
    table = top_patches(backbone, X, "1", n_patches=4, batch_size=5)
    network = as_score_network(backbone, "1")
    x = normalised(squares(pictures_of(X), network.preprocessing), network.preprocessing,
                   next(network.module.parameters()))  # fmt: skip
    with torch.no_grad():
        maps = network.module[:2](x).numpy()
    for number, rows in table.groupby("filter"):
        strongest = maps[:, number].max(axis=(1, 2))
        order = np.argsort(-strongest, kind="stable")[:4]
        np.testing.assert_allclose(rows["activation"], strongest[order], rtol=1e-5)
        np.testing.assert_array_equal(rows["image"], order)
        first = rows.iloc[0]
        y, x_ = np.unravel_index(maps[order[0], number].argmax(), (32, 32))
        box = [first["top"], first["bottom"], first["left"], first["right"]]
        assert box == [max(0, y - 1), min(32, y + 2), max(0, x_ - 1), min(32, x_ + 2)]


def test_patches_are_cut_from_what_the_network_sees(backbone, pictures):
    X, _ = pictures
    display = TopPatchesDisplay.from_estimator(backbone, X, "1", filters=[2, 5], n_patches=3)
    seen = squares(pictures_of(X), backbone.preprocessing)
    for row, patch in zip(display.table.itertuples(), display.patches, strict=True):
        assert patch.shape == (3, 3, 3)
        if row.bottom - row.top == row.right - row.left == 3:
            np.testing.assert_array_equal(
                patch, seen[row.image, row.top : row.bottom, row.left : row.right]
            )
    assert [ax.get_title() for ax in display.axes_.flat] == ["filter 2", "filter 5"]
    for filters in ([99], [-1], [], [0.7], [True], ["a"], 3):
        with pytest.raises(ParameterError, match="filters must be"):
            top_patches(backbone, X, "1", filters=filters)
    with pytest.raises(ParameterError, match="maps"):
        top_patches(backbone, X, "penultimate")
    with pytest.raises(LayerNotFoundError):
        top_patches(backbone, X, "nope")


def test_first_layer_filters(backbone, classifier):
    display = FirstLayerFiltersDisplay.from_estimator(CNNFeatures(backbone, store=None))
    np.testing.assert_array_equal(display.filters, backbone.module[0].weight.detach().numpy())
    pixels = np.asarray(display.axes_[0, 0].images[0].get_array())
    assert {0, 255} & set(pixels.ravel().tolist())
    assert FirstLayerFiltersDisplay.from_estimator(classifier).filters.shape == (6, 3, 5, 5)
    with pytest.raises(ParameterError, match="estimator must be"):
        FirstLayerFiltersDisplay.from_estimator(LogisticRegression())


@pytest.mark.parametrize("n_classes", [2, 3])
def test_mean_of_the_cam_plus_intercept_is_the_decision_value(pipeline, pictures, n_classes):
    X, y = pictures
    X, y = X[: 4 * n_classes], y[: 4 * n_classes]
    model = pipeline.fit(X, y)
    found = class_activation(model, X, target=y)
    decision = model.decision_function(X)
    if n_classes == 2:
        decision = np.stack([-decision, decision], axis=1)
    expected = decision[np.arange(len(y)), np.searchsorted(model.classes_, y)]
    assert found.method == "CAM"
    assert found.maps.shape == (len(y), 16, 16)
    np.testing.assert_allclose(found.maps.mean(axis=(1, 2)) + found.intercepts, expected, rtol=1e-4)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4)
    by_default = class_activation(model, X)
    np.testing.assert_array_equal(by_default.classes, model.predict(X))


def test_cam_knows_any_linear_classifier_and_no_other(backbone, pictures):
    X, y = pictures
    features = CNNFeatures(backbone, store=None, precision="exact")
    ridge = make_pipeline(features, RidgeClassifier()).fit(X, y)
    found = class_activation(ridge, X)
    sums = found.maps.mean(axis=(1, 2)) + found.intercepts
    np.testing.assert_allclose(sums, ridge.decision_function(X).max(axis=1), rtol=1e-4)
    with pytest.raises(ParameterError, match=r"linear.*SVC"):
        class_activation(make_pipeline(features, SVC()).fit(X, y), X)
    pairs = SVC(kernel="linear", decision_function_shape="ovo")
    three = np.arange(len(y)) % 3
    with pytest.raises(ParameterError, match="not of pairs"):
        class_activation(make_pipeline(features, pairs).fit(X, three), X)
    with pytest.raises(ParameterError, match=r"linear.*RandomForestClassifier"):
        class_activation(make_pipeline(features, RandomForestClassifier(2)).fit(X, y), X)
    with pytest.raises(ParameterError, match="estimator must be"):
        class_activation(LogisticRegression(), X)


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_pipelines_whose_output_are_tables(pipeline, pictures, pooling):
    X, y = pictures
    pipeline.set_params(cnnfeatures__pooling=pooling).fit(X, y)
    expected = class_activation(pipeline, X)
    pipeline.set_output(transform="pandas").fit(X, y)
    found = class_activation(pipeline, X)
    np.testing.assert_allclose(found.maps, expected.maps, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.scores, pipeline.decision_function(X).max(axis=1), rtol=1e-3)


def test_maps_are_not_put_into_the_store(pipeline, pictures, tmp_path):
    X, y = pictures
    store = FeatureStore(tmp_path / "store.sqlite")
    pipeline.set_params(cnnfeatures__store=store).fit(X, y)
    class_activation(pipeline, X)
    assert store.info()["pooling"].tolist() == ["avg"]


def test_weights_are_read_off_in_blocks():
    class Linear:
        weights = np.random.default_rng(0).normal(size=(3, 1000))
        most_rows = 0

        def decision_function(self, rows):
            self.most_rows = max(self.most_rows, len(rows))
            return rows @ self.weights.T + [1, 2, 3]

    classifier = Linear()
    weights, intercept = affine_part(classifier, 1000)
    np.testing.assert_allclose(weights, classifier.weights, atol=1e-12)
    np.testing.assert_allclose(intercept, [1, 2, 3])
    assert classifier.most_rows <= 256  # and not 1000, of 1000 numbers each


def test_a_pipeline_of_a_list_of_layers_is_refused(backbone, pictures):
    X, y = pictures
    features = CNNFeatures(backbone, layer=["1"], store=None)
    model = make_pipeline(features, LogisticRegression()).fit(X, y)
    with pytest.raises(ParameterError, match=r"must be one; got .*layer=\['1'\]"):
        class_activation(model, X)


def test_grad_cam_of_a_backbone_by_hand(backbone, pictures):
    X, _ = pictures
    found = class_activation(backbone, X, target=2)
    assert found.method == "Grad-CAM"
    pixels = squares(pictures_of(X), backbone.preprocessing)
    x = normalised(pixels, backbone.preprocessing, backbone.module[0].weight)
    with torch.no_grad():
        maps = backbone.module[:5](x)
        scores = backbone.module(x)[:, 2]
    # Behind the maps there are a mean over 16 x 16 places and a linear layer.
    alpha = backbone.module[7].weight[2].detach() / 256
    expected = torch.einsum("k,nkhw->nhw", alpha, maps).clamp(min=0)
    np.testing.assert_allclose(found.maps, expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(found.scores, scores.numpy(), rtol=1e-4)


def test_grad_cam_of_a_pipeline_on_vectors_is_of_the_last_maps(pictures):
    X, y = pictures
    with seeded(0):
        net = nn.Sequential(
            nn.Conv2d(3, 5, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(5 * 7 * 7, 8), nn.ReLU(), nn.Linear(8, 4),
        )  # fmt: skip
    backbone = Backbone(net, preprocessing=Preprocessing(size=32, resize=36))
    features = CNNFeatures(backbone, layer="penultimate", store=None, precision="exact")
    model = make_pipeline(features, LogisticRegression()).fit(X, y)
    found = class_activation(model, X, target="red")
    x = normalised(squares(pictures_of(X), backbone.preprocessing), backbone.preprocessing,
                   net[0].weight)  # fmt: skip
    maps = net[:3](x).detach().requires_grad_(True)
    weights = torch.tensor(model[-1].coef_[1], dtype=torch.float32)
    (gradient,) = torch.autograd.grad((net[3:6](maps) @ weights).sum(), maps)
    expected = (gradient.mean((2, 3), keepdim=True) * maps).sum(1).clamp(min=0).detach()
    assert found.method == "Grad-CAM"
    assert expected.max() > 0
    np.testing.assert_allclose(found.maps, expected.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.scores, model.decision_function(X)[:, 1], rtol=1e-3, atol=1e-4)


def test_grad_cam_of_other_poolings_and_of_classifiers(backbone, pictures, classifier):
    X, y = pictures
    features = CNNFeatures(backbone, store=None, pooling="max", precision="exact")
    model = make_pipeline(features, LogisticRegression()).fit(X, y)
    found = class_activation(model, X, target="red")
    assert found.method == "Grad-CAM"
    np.testing.assert_allclose(found.scores, model.decision_function(X)[:, 1], rtol=1e-3, atol=1e-3)
    found = class_activation(classifier, X)
    assert found.maps.shape == (12, 5, 5)
    np.testing.assert_array_equal(found.classes, classifier.predict(X))
    assert class_activation(classifier, X, layer="relu1").maps.shape == (12, 28, 28)
    with pytest.raises(LayerNotFoundError, match="relu1"):
        class_activation(classifier, X, layer="relu_1")
    with pytest.raises(ParameterError, match=r"among the classes.*blue"):
        class_activation(classifier, X, target="blue")
    with pytest.raises(ParameterError, match="target must be"):
        class_activation(classifier, X, target=["red", "dark"])


@pytest.mark.parametrize("searched", [False, True])
def test_flattened_rows_are_read_in_the_range_that_fit_found(backbone, pictures, searched):
    X, y = pictures
    rows = X.reshape(len(X), -1)
    features = CNNFeatures(backbone, store=None, image_shape=(40, 40, 3), precision="exact")
    model = make_pipeline(features, LogisticRegression())
    model = GridSearchCV(model, {"logisticregression__C": [1.0]}, cv=2) if searched else model
    model.fit(rows, y)
    for few in (np.clip(rows[:3], 0, 16), rows[:3] * 0.9):  # darker, and no whole numbers
        expected = model.decision_function(few).max(axis=1)
        np.testing.assert_allclose(class_activation(model, few).scores, expected, rtol=1e-4)
    dark = np.clip(rows[:3], 0, 16)
    changed = adversarial_pictures(model, dark, y[:3], epsilon=0)
    assert changed.max() <= 16
    shown = FeatureMapDisplay.from_estimator(model, dark).images
    assert max(np.max(shown.decode(i)) for i in range(3)) <= 16


def test_the_map_of_a_classifier_that_transforms_is_of_its_features(backbone, pictures):
    """What LinearDiscriminantAnalysis projects by are the labels."""
    X, y = pictures
    features = CNNFeatures(backbone, store=None)
    model = make_pipeline(features, LinearDiscriminantAnalysis()).fit(X, y)
    points = FeatureMapDisplay.from_estimator(model, X, y).points
    expected = FeatureMapDisplay.from_features(features.transform(X), y).points
    np.testing.assert_allclose(points, expected)


def test_class_activation_display(pipeline, pictures):
    X, y = pictures
    display = ClassActivationDisplay.from_estimator(pipeline, X[3:8], y[3:8])
    assert display.axes_.shape == (2, 6)
    assert display.axes_[0, 0].get_title() == "truth: dark"
    assert display.axes_[0, 1].get_title().startswith("CAM of ")
    assert len(display.axes_[0, 1].images) == 2
    with pytest.raises(ParameterError, match="n_columns"):
        display.plot(n_columns=0)
    with pytest.raises(ParameterError, match="one label a picture, 3"):
        ClassActivationDisplay.from_estimator(SVC(), X[:3], ["dark"])  # before any work


@pytest.mark.parametrize("empty", [[], np.empty((0, 40, 40, 3), dtype=np.uint8)])
def test_no_pictures_are_refused(pipeline, backbone, empty):
    for look in (
        lambda: class_activation(pipeline, empty),
        lambda: class_activation(backbone, as_images(empty)),
        lambda: top_patches(backbone, empty, "1"),
        lambda: adversarial_accuracy(pipeline, empty, []),
        lambda: AugmentationDisplay.from_images(empty),
        lambda: ImageGridDisplay.from_images(empty),
        lambda: ImageSetDisplay.from_images(empty),
    ):
        with pytest.raises(ImageFormatError, match="X has 0 pictures"):
            look()


def test_the_gradient_is_that_of_differences(classifier, pictures):
    X, _ = pictures
    network = as_score_network(classifier)
    network.module = network.module.double()
    pixels = squares(pictures_of(X[:2]), network.preprocessing).astype(np.float64)
    labels = np.array([0, 2])
    gradient = _adversarial._gradients(network, pixels, labels)
    assert gradient.shape == pixels.shape

    def losses(values):
        with torch.no_grad():
            x = normalised(values, network.preprocessing, next(network.module.parameters()))
            scores = network.module(x)
        return nn.functional.cross_entropy(scores, torch.tensor(labels), reduction="none").numpy()

    rng = np.random.default_rng(0)
    for _ in range(5):
        place = (slice(None), *rng.integers(0, 32, 2), rng.integers(3))
        up, down = pixels.copy(), pixels.copy()
        up[place] += 1e-3
        down[place] -= 1e-3
        differences = (losses(up) - losses(down)) / 2e-3
        np.testing.assert_allclose(gradient[place], differences, rtol=1e-4, atol=1e-9)


def test_adversarial_pictures_and_accuracy(pipeline, classifier, pictures):
    X, y = pictures
    for model in (pipeline, classifier):
        network = as_score_network(model)
        seen = squares(pictures_of(X), network.preprocessing).astype(float)
        changed = adversarial_pictures(model, X, y, epsilon=3, batch_size=5)
        difference = np.abs(changed - seen)
        assert difference.max() == 3
        assert changed.min() >= 0
        assert changed.max() <= 255
        table = adversarial_accuracy(model, X, y, epsilons=[0, 3, 40], batch_size=5)
        assert table["accuracy"][0] == table["random_accuracy"][0] == model.score(X, y)
        found = network.classes[_adversarial._predict(network, changed)]
        assert table["accuracy"][1] == (found == y).mean()
        assert table["accuracy"][2] < table["random_accuracy"][2]


def test_adversarial_display_and_bad_input(pipeline, pictures):
    X, y = pictures
    display = AdversarialDisplay.from_estimator(pipeline, X, y, epsilons=[0, 10])
    lines = {line.get_label(): line.get_ydata() for line in display.ax_.lines}
    np.testing.assert_array_equal(lines["random direction"], display.table["random_accuracy"])
    with pytest.raises(ParameterError, match="epsilons"):
        adversarial_accuracy(pipeline, X, y, epsilons=[-1])
    with pytest.raises(ParameterError, match=r"epsilons must be levels .*\['a'\]"):
        adversarial_pictures(pipeline, X, y, epsilon="a")
    with pytest.raises(ParameterError, match=r"among the classes.*blue"):
        adversarial_accuracy(pipeline, X, np.where(y == "red", "blue", y))
    with pytest.raises(ParameterError, match="one label a picture"):
        adversarial_pictures(pipeline, X, y[:3])


@pytest.mark.parametrize("look", [class_activation, top_patches, adversarial_accuracy])
def test_what_is_not_fitted_is_said_to_be(look, backbone, pictures):
    X, y = pictures
    more = (y,) if look is adversarial_accuracy else ()
    features = CNNFeatures(backbone, store=None)
    unfitted = [CNNClassifier("lenet", weights=None)]
    if look is top_patches:
        unfitted += [CPCFeatures(), LinearProbe(CPCFeatures())]
    else:
        unfitted += [make_pipeline(features, LogisticRegression())]
        unfitted += [make_pipeline(features, LogisticRegression().fit(np.eye(6), np.arange(6)))]
    for estimator in unfitted:
        with pytest.raises(NotFittedError, match="not fitted"):
            look(estimator, X, *more)


def test_a_module_in_training_mode_is_looked_at_in_eval_mode(pictures):
    X, _ = pictures
    with seeded(0):
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(4, 3),
        )  # fmt: skip
    backbone = Backbone(net, preprocessing=Preprocessing(size=32, resize=36))
    expected = class_activation(backbone, X, target=1)
    changed = adversarial_pictures(backbone, X, [1] * len(X))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    found = class_activation(backbone, X, target=1)
    np.testing.assert_array_equal(found.maps, expected.maps)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(adversarial_pictures(backbone, X, [1] * len(X)), changed)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.training


def test_nothing_is_changed(pipeline, backbone, pictures):
    X, y = pictures
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    class_activation(backbone, X)
    adversarial_pictures(pipeline, X, y)
    top_patches(backbone, X, "1")
    assert all(torch.equal(before[n], v) for n, v in backbone.module.state_dict().items())
    assert not backbone.module.training
    assert all(p.grad is None for p in backbone.module.parameters())
    assert all(not module._forward_hooks for module in backbone.module.modules())


def test_real_flowers(shared_data, tmp_path):
    """A pretrained network looks at the flower, and one level of noise misleads it."""
    files = sorted((shared_data / "flowers" / "sunflowers").iterdir())[:8]
    others = sorted((shared_data / "flowers" / "tulips").iterdir())[:8]
    X, y = [*files, *others], ["sunflowers"] * 8 + ["tulips"] * 8
    features = CNNFeatures("efficientnet_lite0", store=tmp_path / "store.sqlite")
    model = make_pipeline(features, LogisticRegression(max_iter=1000)).fit(X, y)
    found = class_activation(model, X, target=y)
    sums = found.maps.mean(axis=(1, 2)) + found.intercepts
    decision = model.decision_function(X) * np.where(np.array(y) == "tulips", 1, -1)
    np.testing.assert_allclose(sums, decision, rtol=0.02, atol=0.02)
    table = adversarial_accuracy(model, X[::4], y[::4], epsilons=[0, 2])
    assert table["accuracy"].tolist()[1] < table["random_accuracy"][1] == 1
