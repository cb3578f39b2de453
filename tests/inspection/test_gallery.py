"""Displays of pictures and curves: what they show, in which order, and where."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.naive_bayes import GaussianNB

from sktl import CNNClassifier, Phase, as_images, load_backbone
from sktl.exceptions import MissingDependencyError, ParameterError
from sktl.inspection import (
    AugmentationDisplay,
    ConfusedPairsDisplay,
    ErrorGalleryDisplay,
    FeatureMapDisplay,
    ImageGridDisplay,
    ImageSetDisplay,
    TopKCurveDisplay,
    TrainingCurvesDisplay,
)
from sktl.inspection._networks import squares
from sktl.metrics import top_k_accuracy
from sktl.training import Augmentation

Y = ["cat", "cat", "dog", "dog", "dog"]
PROBA = [[0.9, 0.1], [0.3, 0.7], [0.95, 0.05], [0.2, 0.8], [0.6, 0.4]]


def titles(display):
    return [ax.get_title() for ax in display.axes_.flat if ax.images]


def drawn(ax):
    return np.asarray(ax.images[0].get_array())


@pytest.fixture
def shades():
    """Five pictures that can be told by their gray, of different shapes."""
    return [np.full((10 + i, 20 - i, 3), 20 * i, dtype=np.uint8) for i in range(5)]


def test_gallery_has_the_largest_loss_first(shades, closed_figures):
    gallery = ErrorGalleryDisplay.from_predictions(shades, Y, PROBA)
    assert gallery.errors.index.tolist() == [2, 1, 4]
    assert titles(gallery) == [
        "dog (5 %)\n→ cat (95 %)",
        "cat (30 %)\n→ dog (70 %)",
        "dog (40 %)\n→ cat (60 %)",
    ]
    assert [drawn(ax)[0, 0, 0] for ax in gallery.axes_.flat[:3]] == [40, 20, 80]
    assert "3 of 5" in gallery.figure_.get_suptitle()
    assert len(titles(gallery.plot(n_images=2))) == 2


def test_gallery_without_errors(shades):
    gallery = ErrorGalleryDisplay.from_predictions(shades[:2], ["a", "b"], np.eye(2))
    assert titles(gallery) == []
    assert "0 of 2" in gallery.figure_.get_suptitle()


def test_gallery_in_the_place_of_an_axes(shades, closed_figures):
    figure, (left, right) = closed_figures.subplots(1, 2)
    gallery = ErrorGalleryDisplay.from_predictions(shades, Y, PROBA, ax=right)
    figure.canvas.draw()
    assert gallery.figure_ is figure
    assert not right.axison
    assert min(ax.get_position().x0 for ax in gallery.axes_.flat) > left.get_position().x1
    loose = figure.add_axes((0, 0, 1, 1))
    with pytest.raises(ParameterError, match="divided"):
        gallery.plot(loose)


def overlaps(texts):
    """Pairs of texts that are drawn over each other."""
    texts = list(texts)
    texts[0].figure.canvas.draw()
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    return [(a[0], b[0]) for a, b in itertools.combinations(boxes, 2) if a[1].overlaps(b[1])]


@pytest.mark.parametrize("divided", [False, True])
def test_long_names_keep_off_their_neighbours(shades, closed_figures, divided):
    ax = closed_figures.subplots(1, 2, figsize=(9, 4))[1][0] if divided else None
    classes = ["American_Staffordshire_terrier", "Greater_Swiss_Mountain_dog"]
    proba = np.tile([[0.78, 0.22], [0.44, 0.56]], (3, 1))[:5]
    y = [*classes[::-1], *classes[::-1], classes[1]]
    gallery = ErrorGalleryDisplay.from_predictions(shades, y, proba, classes=classes, ax=ax)
    cells = [ax.title for ax in gallery.axes_.flat if ax.images]
    assert len(cells) == 5
    assert overlaps(cells) == []
    shortened = r"([AG].*…\w* \(..? %\)(\n→ )?){2}"
    assert all(re.fullmatch(shortened, title.get_text()) for title in cells)


def test_gallery_of_an_estimator_of_flattened_rows(pictures):
    X, y = pictures
    rows = X.reshape(len(X), -1)
    phases = [("train", Phase(epochs=1, lr=1e-6))]
    model = CNNClassifier("lenet", weights=None, image_shape=(40, 40, 3), phases=phases)
    model.set_params(image_size=32, random_state=0, validation=None).fit(rows, y)
    gallery = ErrorGalleryDisplay.from_estimator(model, rows, y)
    first = gallery.errors.index[0]
    np.testing.assert_array_equal(drawn(gallery.axes_[0, 0]), X[first])
    assert len(gallery.errors) == (model.predict(rows) != y).sum()


def test_confused_pairs_show_errors_and_an_example(shades):
    display = ConfusedPairsDisplay.from_predictions(shades, Y, PROBA, n_pairs=2)
    assert display.pairs["count"].tolist() == [2, 1]
    assert titles(display) == ["p = 95 %", "p = 60 %", "cat, right", "p = 70 %", "dog, right"]
    assert display.axes_[0, 0].get_ylabel() == "dog\n→ cat\n2 (67 %)"
    assert drawn(display.axes_[1, -1])[0, 0, 0] == 60  # the dog of which the model is most sure
    of_estimator = GaussianNB().fit(np.array([[0], [1], [2], [3], [4.0]]), Y)
    with pytest.raises(ValueError, match="picture"):
        ConfusedPairsDisplay.from_estimator(of_estimator, np.zeros((5, 1)), Y)


def test_image_grid(shades):
    grid = ImageGridDisplay.from_images(shades, Y, n_images=3)
    assert titles(grid) == Y[:3]
    by_class = ImageGridDisplay.from_images(shades, Y, n_per_class=2)
    assert [ax.get_ylabel() for ax in by_class.axes_[:, 0]] == ["cat", "dog"]
    assert [drawn(ax)[0, 0, 0] for ax in by_class.axes_.flat] == [0, 20, 40, 60]
    shuffled = ImageGridDisplay.from_images(shades, n_images=4, random_state=1)
    again = ImageGridDisplay.from_images(shades, n_images=4, random_state=1)
    grays = [[drawn(ax)[0, 0, 0] for ax in g.axes_.flat[:4]] for g in (shuffled, again)]
    assert grays[0] == grays[1] != [0, 20, 40, 60]
    with pytest.raises(ParameterError, match="needs y"):
        ImageGridDisplay.from_images(shades, n_per_class=2)
    with pytest.raises(ParameterError, match="n_images"):
        ImageGridDisplay.from_images(shades, n_images=0)
    with pytest.raises(ParameterError, match="n_columns"):
        grid.plot(n_columns=0)


def test_image_grid_needs_a_title_for_each_picture(shades):
    with pytest.raises(ParameterError, match="one for each of the 5 pictures; got 1"):
        ImageGridDisplay(as_images(shades), ["a"]).plot()


def test_pictures_keep_their_aspect_in_square_cells(shades):
    ax = ImageGridDisplay.from_images(shades, n_images=1).axes_[0, 0]
    assert abs(np.diff(ax.get_xlim())[0]) == abs(np.diff(ax.get_ylim())[0]) == 20
    assert ax.get_aspect() == 1


def test_training_curves(pictures):
    X, y = pictures
    phases = [("warm_up", Phase("head", epochs=2)), ("all", Phase("all", epochs=3))]
    model = CNNClassifier("lenet", weights=None, phases=phases, validation=0.25, random_state=0)
    curves = TrainingCurvesDisplay.from_estimator(model.fit(X, y))
    loss, accuracy = curves.axes_
    lines = {line.get_label(): line.get_ydata() for line in loss.lines}
    np.testing.assert_array_equal(lines["training"], model.history_["train_loss"])
    np.testing.assert_array_equal(lines["validation"], model.history_["valid_loss"])
    lines = {line.get_label(): line.get_ydata() for line in accuracy.lines}
    np.testing.assert_array_equal(lines["validation"], model.history_["valid_top1"])
    assert [text.get_text() for text in loss.texts] == ["warm_up", "all"]
    assert [text.get_position()[0] for text in loss.texts] == [1.5, 4]
    assert loss.lines[-1].get_xdata()[0] == model.best_epoch_
    with pytest.raises(ParameterError, match="fitted CNNClassifier"):
        TrainingCurvesDisplay.from_estimator(GaussianNB())


def test_training_curves_without_validation():
    history = pd.DataFrame(
        {"epoch": [1, 2], "phase": ["a", "a"], "train_loss": [2, 1], "train_top1": [0.1, 0.2]}
    )
    curves = TrainingCurvesDisplay(history).plot()
    assert [line.get_label() for line in curves.axes_[0].lines] == ["training"]


def test_top_k_curve(closed_figures):
    rng = np.random.default_rng(0)
    proba, y = rng.dirichlet(np.ones(6), 50), rng.integers(0, 6, 50)
    curve = TopKCurveDisplay.from_predictions(y, proba, name="one", max_k=4, classes=range(6))
    assert curve.k.tolist() == [1, 2, 3, 4]
    expected = [top_k_accuracy(y, proba, k=k, classes=range(6)) for k in curve.k]
    np.testing.assert_allclose(curve.accuracy, expected)
    other = TopKCurveDisplay.from_predictions(
        y, proba[::-1], name="two", classes=range(6), ax=curve.ax_
    )
    assert [text.get_text() for text in other.ax_.get_legend().get_texts()] == ["one", "two"]
    with pytest.raises(ParameterError, match="max_k"):
        TopKCurveDisplay.from_predictions(y, proba, classes=range(6), max_k=0)


def test_sizes_are_those_of_upright_pictures(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg")
    Image.new("RGB", (30, 20)).save(tmp_path / "b.jpg", exif=exif)
    display = ImageSetDisplay.from_images([tmp_path / "a.jpg", tmp_path / "b.jpg"], ["x", "y"])
    assert display.frame["width"].tolist() == [30, 20]
    assert display.frame["height"].tolist() == [20, 30]
    decoded = as_images([tmp_path / "b.jpg"]).decode(0)
    assert decoded.shape == (30, 20, 3)
    assert [bar.get_width() for bar in display.axes_[0].patches] == [1, 1]
    assert len(ImageSetDisplay.from_images([tmp_path / "a.jpg"]).axes_) == 1
    with pytest.raises(ValueError, match=r"nope\.jpg"):
        ImageSetDisplay.from_images([tmp_path / "nope.jpg"])


def test_many_classes_are_counted_without_names():
    frame = pd.DataFrame({"width": 8, "height": 8, "label": np.repeat(range(60), 2)})
    axes = ImageSetDisplay(frame).plot().axes_
    assert "60 classes" in axes[0].get_title()
    assert "smallest: 0 2" in axes[0].get_title()


def test_augmentation_is_that_of_training(pictures):
    X, _ = pictures
    flips = Augmentation(horizontal_flip=True)
    display = AugmentationDisplay.from_images(X, flips, image_size=32, n_copies=6)
    assert display.axes_.shape == (4, 7)
    mirrored = display.originals[:, :, ::-1]
    for i in range(4):
        same = [np.array_equal(copy, display.originals[i]) for copy in display.copies[i]]
        flipped = [np.array_equal(copy, mirrored[i]) for copy in display.copies[i]]
        assert np.logical_xor(same, flipped).all()
    assert len(np.unique(display.copies.reshape(24, -1), axis=0)) == 8
    cropped = AugmentationDisplay.from_images(X, Augmentation(random_crop=True), image_size=32)
    assert cropped.copies.shape == (4, 5, 32, 32, 3)
    assert len(np.unique(cropped.copies[0].reshape(5, -1), axis=0)) > 1
    model = CNNClassifier("lenet", weights=None, augment=flips)
    of_model = AugmentationDisplay.from_estimator(model, X, n_copies=6)
    preprocessing = load_backbone("lenet", weights=None).preprocessing
    np.testing.assert_array_equal(of_model.originals, squares(as_images(X[:4]), preprocessing))
    with pytest.raises(ParameterError, match="augment"):
        AugmentationDisplay.from_estimator(CNNClassifier("lenet"), X)
    with pytest.raises(ParameterError, match="rotation"):
        AugmentationDisplay.from_images(X, Augmentation(rotation=999))
    with pytest.raises(ParameterError, match="augment must be"):
        AugmentationDisplay.from_images(X, "heavy")


def test_feature_map(pipeline, pictures, closed_figures):
    X, y = pictures
    display = FeatureMapDisplay.from_estimator(pipeline, X, y)
    expected = PCA(2, svd_solver="full").fit_transform(pipeline[:-1].transform(X))
    np.testing.assert_allclose(np.abs(display.points), np.abs(expected), atol=1e-5)
    legend = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert legend == ["dark", "red", "white"]
    thumbnails = FeatureMapDisplay(display.points, y, images=as_images(X)).plot(thumbnails=True)
    assert len(thumbnails.ax_.artists) >= 3
    with pytest.raises(ParameterError, match="from_estimator"):
        FeatureMapDisplay.from_features(display.points).plot(thumbnails=True)
    with pytest.raises(ParameterError, match="method"):
        FeatureMapDisplay.from_features(display.points, method="isomap")
    with pytest.raises(ParameterError, match="2 columns"):
        FeatureMapDisplay.from_features(np.zeros((5, 1)))


def test_feature_map_of_a_classifier_is_of_the_input_of_its_head(pictures):
    X, y = pictures
    phases = [("train", Phase(epochs=1))]
    model = CNNClassifier("lenet", weights=None, phases=phases, random_state=0, validation=None)
    model.fit(X, y)
    points = FeatureMapDisplay.from_estimator(model, X, y, method="tsne").points
    assert points.shape == (12, 2)
    assert np.isfinite(points).all()


def test_many_classes_are_named_in_their_midst():
    rng = np.random.default_rng(0)
    y = np.repeat([f"class {i}" for i in range(12)], 3)
    display = FeatureMapDisplay.from_features(rng.normal(size=(36, 5)), y)
    assert sorted(text.get_text() for text in display.ax_.texts) == sorted(set(y))


def test_names_of_classes_in_one_place_are_drawn_apart():
    steps = np.linspace(-1, 1, 5)[:, None]
    ways = np.array([[np.cos(a), np.sin(a)] for a in np.linspace(0, np.pi, 12, endpoint=False)])
    points = np.concatenate([steps * way for way in ways])
    display = FeatureMapDisplay(points, np.repeat(np.arange(12), 5)).plot()
    assert len(display.ax_.texts) == 12
    assert overlaps(display.ax_.texts) == []


def test_umap_is_optional(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingDependencyError, match="umap"):
        FeatureMapDisplay.from_features(np.eye(5), method="umap")
