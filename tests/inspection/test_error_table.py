"""The tables: against scikit-learn's numbers, and plain loops."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, load_sample_images
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, log_loss
from sklearn.model_selection import ShuffleSplit, StratifiedKFold, cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import LinearSVC

from sktl import ImageNetClassifier, as_images
from sktl.exceptions import ParameterError
from sktl.inspection import (
    ErrorGalleryDisplay,
    TopKCurveDisplay,
    cleanlab_inputs,
    confused_pairs,
    error_table,
    error_table_from_predictions,
)
from sktl.metrics import top_k_accuracy


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    names = np.array([f"d{label}" for label in y])
    model = GaussianNB(var_smoothing=0.01)
    return X, names, cross_val_predict(model, X, names, cv=3, method="predict_proba")


def test_loss_and_rank_are_those_of_scikit_learn(digits):
    X, y, proba = digits
    table = error_table_from_predictions(X, y, proba)
    assert table["loss"].mean() == pytest.approx(log_loss(y, proba), rel=1e-9)
    classes = np.unique(y)
    for k in (1, 2, 5):
        assert (table["rank"] <= k).mean() == top_k_accuracy(y, proba, k=k, classes=classes)
    assert (table["prediction"] == classes[proba.argmax(axis=1)]).all()
    assert (table["prediction_probability"] == proba.max(axis=1)).all()
    assert (table["p_d3"] == proba[:, 3]).all()
    assert ((table["rank"] == 1) == (table["truth"] == table["prediction"])).all()


def test_of_an_estimator_out_of_folds_and_fitted(digits):
    X, y, proba = digits
    model = GaussianNB(var_smoothing=0.01)
    expected = error_table_from_predictions(X, y, proba)
    pd.testing.assert_frame_equal(error_table(model, X, y, cv=3), expected)
    assert not hasattr(model, "classes_")
    fitted = error_table(model.fit(X, y), X, y)
    assert (fitted["rank"] == 1).mean() == model.score(X, y)


def test_ranks_by_hand_with_ties_and_unknown_truth():
    proba = [[0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [0.1, 0.2, 0.7], [0.1, 0.2, 0.7]]
    table = error_table_from_predictions(
        ["1.png"] * 4, ["a", "b", "a", "z"], proba, classes=["a", "b", "c"]
    )
    assert table["rank"].tolist() == [1, 2, 3, 4]
    assert table["prediction"].tolist() == ["a", "a", "c", "c"]
    assert table["truth_probability"].tolist() == [0.4, 0.4, 0.1, 0.0]
    assert table["loss"][3] == pytest.approx(-np.log(np.finfo(float).eps))


@pytest.mark.parametrize("labels", [[3, 7, 3], [False, True, False], ["x", "y", "x"]])
def test_labels_of_any_type(labels):
    proba = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    table = error_table_from_predictions(["1", "2", "3"], labels, proba)
    assert table["rank"].tolist() == [1, 1, 2]
    assert table["prediction"].tolist() == [labels[0], labels[1], labels[1]]
    found, pred_probs, names = cleanlab_inputs(table)
    assert found.tolist() == [0, 1, 0]
    assert names.tolist() == sorted(set(labels))
    np.testing.assert_array_equal(pred_probs, proba)


def test_paths(tmp_path):
    y, proba = ["a", "b"], [[1.0, 0.0], [0.0, 1.0]]
    paths = [tmp_path / "1.png", tmp_path / "2.png"]
    expected = [str(path) for path in paths]
    for X in (paths, np.array(expected), pd.DataFrame({"file": expected}), as_images(paths)):
        assert error_table_from_predictions(X, y, proba)["path"].tolist() == expected
    for X in (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 7)), as_images(np.zeros((2, 8, 8)))):
        assert error_table_from_predictions(X, y, proba)["path"].isna().all()


@pytest.mark.parametrize(
    ("y", "proba", "message"),
    [
        (["a"], [[0.5, 0.5], [0.5, 0.5]], "one label a picture"),
        (["a", "b"], [[0.5, 0.2, 0.3], [0.5, 0.2, 0.3]], "a column a class"),
        (["a", "b"], [[0.5, np.nan], [0.5, 0.5]], "without NaN"),
        (["a", "b"], [[-3.0, 3.0], [0.5, 0.5]], "between 0 and 1"),
        (["a", "b", "b"], [[0.5, 0.5]] * 3, "one picture a label"),
    ],
)
def test_bad_input(y, proba, message):
    with pytest.raises(ParameterError, match=message):
        error_table_from_predictions(["1.png", "2.png"], y, proba)


class Unasked(GaussianNB):
    """A classifier that must be asked for nothing."""

    def fit(self, X, y):
        raise AssertionError

    predict_proba = fit


@pytest.mark.parametrize("cv", [None, 2])
def test_labels_are_checked_before_work(cv):
    X, model = np.zeros((4, 3)), Unasked()
    model.classes_ = np.array(["a", "b"])
    for show in (error_table, ErrorGalleryDisplay.from_estimator, TopKCurveDisplay.from_estimator):
        pictures = X if show is error_table else np.zeros((4, 8, 8))
        with pytest.raises(ParameterError, match="one label a picture, 4"):
            show(model, pictures, ["a", "b", "a"], cv=cv)
        with pytest.raises(ParameterError, match=r"y .*1 of 4 are missing.*position 2"):
            show(model, pictures, ["a", "b", None, "a"], cv=cv)
    with pytest.raises(ParameterError, match="test every picture once"):
        error_table(model, X, list("abab"), cv=ShuffleSplit(7, random_state=0))
    with pytest.raises(ParameterError, match=r"one kind.* 0 in y and 'a' in classes"):
        error_table(model, X, [0, 1, 0, 1])


def test_an_estimator_that_predicts_but_is_not_fitted_is_refused():
    model, pictures = ImageNetClassifier("resnet18", weights=None), load_sample_images().images
    for show in (error_table, ErrorGalleryDisplay.from_estimator, TopKCurveDisplay.from_estimator):
        with pytest.raises(NotFittedError, match=r"ImageNetClassifier has no classes_: call fit"):
            show(model, pictures, ["palace", "daisy"])


@pytest.mark.parametrize("missing", [None, np.nan])
def test_missing_labels_are_refused(missing):
    with pytest.raises(ParameterError, match=r"y .*1 of 2 are missing, the first at position 0"):
        error_table_from_predictions(["1", "2"], [missing, "a"], [[1.0], [1.0]], classes=["a"])
    for name, labels in (("y_true", ([1, missing], [1, 2])), ("y_pred", ([1, 2], [1, missing]))):
        with pytest.raises(ParameterError, match=f"{name} .*missing, the first at position 1"):
            confused_pairs(*labels)


def test_classes_that_do_not_go_with_the_labels():
    proba = [[0.5, 0.5], [0.5, 0.5]]
    with pytest.raises(ParameterError, match=r"classes must differ; got \[0, 0\]"):
        error_table_from_predictions(["1.png", "2.png"], [0, 1], proba, classes=[0, 0])
    with pytest.raises(ParameterError, match=r"one kind.* 0 in y and 'a' in classes"):
        error_table_from_predictions(["1.png", "2.png"], [0, 1], proba, classes=["a", "b"])


def test_folds_of_a_classifier_that_knows_more_classes():
    pictures, labels = list(load_sample_images().images) * 2, ["palace", "daisy"] * 2
    head = ImageNetClassifier("resnet18", weights=None, image_size=32, store="memory")
    table, whole = error_table(head, pictures, labels, cv=2), head.fit(pictures, labels)
    assert table.attrs["classes"] == whole.classes_.tolist()
    assert table["prediction"].tolist() == whole.predict(pictures).tolist()


def test_no_probabilities(digits):
    X, y, _ = digits
    with pytest.raises(ParameterError, match=r"LinearSVC has not.*CalibratedClassifierCV"):
        error_table(LinearSVC(), X, y)


def test_cleanlab_finds_flipped_labels_first(digits):
    X, y, _ = digits
    flipped = np.arange(0, 1700, 100)
    noisy = y.copy()
    noisy[flipped] = np.where(y[flipped] == "d0", "d1", "d0")
    model = LogisticRegression(max_iter=1000)
    labels, pred_probs, names = cleanlab_inputs(error_table(model, X / 16, noisy, cv=3))
    assert (names[labels] == noisy).all()
    np.testing.assert_allclose(pred_probs.sum(axis=1), 1)
    own = pred_probs[np.arange(len(labels)), labels]
    worst = np.argsort(own)[:20]
    assert len(set(worst) & set(flipped)) >= 12  # by chance it were 0.2


def test_cleanlab_adds_classes_that_the_model_did_not_know():
    table = error_table_from_predictions(
        ["1", "2"], ["b", "a"], [[0.7, 0.3], [0.1, 0.9]], classes=["b", "c"]
    )
    labels, pred_probs, names = cleanlab_inputs(table[::-1])
    assert names.tolist() == ["a", "b", "c"]
    assert labels.tolist() == [0, 1]
    np.testing.assert_array_equal(pred_probs, [[0, 0.1, 0.9], [0, 0.7, 0.3]])
    with pytest.raises(ParameterError, match="attrs"):
        cleanlab_inputs(table.drop(columns="p_c"))
    with pytest.raises(ParameterError, match="attrs"):
        cleanlab_inputs(pd.DataFrame({"truth": ["a"]}))


def test_confused_pairs_are_those_of_the_confusion_matrix(digits):
    _, y, proba = digits
    predicted = np.unique(y)[proba.argmax(axis=1)]
    matrix = confusion_matrix(y, predicted)
    pairs = confused_pairs(y, predicted)
    assert pairs["count"].is_monotonic_decreasing
    np.fill_diagonal(counts := matrix.copy(), 0)
    assert len(pairs) == (counts > 0).sum()
    for row in pairs.itertuples():
        i, j = int(row.truth[1]), int(row.prediction[1])
        assert row.count == counts[i, j]
        assert row.share == counts[i, j] / matrix[i].sum()


def test_confused_pairs_of_nothing_and_bad_input():
    assert len(confused_pairs(["a", "b"], ["a", "b"])) == 0
    with pytest.raises(ParameterError, match="one label a picture"):
        confused_pairs(["a", "b"], ["a"])


def test_confused_pairs_of_labels_of_several_types():
    truth, prediction = (np.array(labels, object) for labels in (["a", "b", 1], ["b", "b", "a"]))
    pairs = confused_pairs(truth, prediction)
    assert pairs.to_numpy().tolist() == [[1, "a", 1, 1.0], ["a", "b", 1, 1.0]]


def test_confused_pairs_of_labels_of_two_types_are_refused():
    with pytest.raises(ParameterError, match=r"one kind.* 1 in y_true and '1' in y_pred"):
        confused_pairs([1, 2, 3], ["1", "2", "3"])


def test_tables_load_neither_torch_nor_matplotlib():
    code = (
        "import sys, sktl.inspection as i\n"
        "i.error_table_from_predictions(['1'], ['a'], [[1.0]])\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_folds_learn_from_the_labels_themselves(digits):
    X, names, _ = digits
    model = LogisticRegression(C=1e-4, max_iter=1000, class_weight={names[0]: 50.0})
    table = error_table(model, X, names, cv=3)
    expected = np.zeros(len(X))
    for train, test in StratifiedKFold(3).split(X, names):
        fitted = clone(model).fit(X[train], names[train])
        expected[test] = fitted.predict_proba(X[test]).max(axis=1)
    columns = [column for column in table.columns if column.startswith("p_")]
    np.testing.assert_allclose(table[columns].to_numpy().max(axis=1), expected, atol=1e-12)
    with pytest.raises(ParameterError, match="test every picture once"):
        error_table(model, X, names, cv=ShuffleSplit(2, random_state=0))
