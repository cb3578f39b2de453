"""Top-k accuracy against a slow plain loop and against scikit-learn."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, top_k_accuracy_score

from sktl.exceptions import ParameterError
from sktl.metrics import make_out_of_subset_scorer, out_of_subset_rate, top_k_accuracy

NAMES = np.array(["ant", "bee", "cat", "dog", "emu", "fox", "gnu"])


def slow_top_k(y_true, y_score, k, classes, weights=None):
    """Ranks each sample by hand: the highest score first, of equal ones the earlier class."""
    total = hits = 0.0
    for i, label in enumerate(y_true):
        columns = sorted(range(len(classes)), key=lambda c: (-y_score[i][c], c))
        weight = 1.0 if weights is None else weights[i]
        hits += weight * (label in [classes[c] for c in columns[:k]])
        total += weight
    return hits / total


@pytest.mark.parametrize("k", [1, 2, 3, 7])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    "classes",
    [NAMES, np.array([3, 7, 40, -1, 5, 100, 2]), np.arange(7) / 2],
    ids=["str", "int", "float"],
)
def test_equals_a_plain_loop(k, ties, classes):
    rng = np.random.default_rng(k)
    y_score = rng.integers(0, 4, (60, 7)) if ties else rng.normal(size=(60, 7))
    y_true = rng.choice(classes, 60)
    weights = rng.uniform(size=60)
    for sample_weight in (None, weights):
        score = top_k_accuracy(y_true, y_score, k=k, classes=classes, sample_weight=sample_weight)
        assert score == pytest.approx(slow_top_k(y_true, y_score, k, classes, sample_weight))
        assert type(score) is float


@pytest.mark.parametrize("k", [1, 2, 5])
def test_equals_scikit_learn_where_that_works(k):
    rng = np.random.default_rng(0)
    y_score, y_true, weights = rng.normal(size=(80, 7)), rng.choice(NAMES, 80), rng.uniform(size=80)
    for sample_weight in (None, weights):
        expected = top_k_accuracy_score(
            y_true, y_score, k=k, labels=NAMES, sample_weight=sample_weight
        )
        score = top_k_accuracy(y_true, y_score, k=k, classes=NAMES, sample_weight=sample_weight)
        assert score == pytest.approx(expected, abs=1e-15)


def test_one_guess_is_accuracy_also_of_ties():
    rng = np.random.default_rng(0)
    y_score, y_true = rng.integers(0, 3, (200, 7)), rng.choice(NAMES, 200)
    predicted = NAMES[y_score.argmax(axis=1)]
    assert top_k_accuracy(y_true, y_score, k=1, classes=NAMES) == accuracy_score(y_true, predicted)


def test_of_equal_scores_the_earlier_class_comes_first():
    y_score = [[1, 1, 1, 0]]
    hits = [top_k_accuracy([c], y_score, k=2, classes=list("abcd")) for c in "abcd"]
    assert hits == [1, 1, 0, 0]


def test_bools():
    y_score = [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.5, 0.5]]
    y_true = [False, True, False, False]
    assert top_k_accuracy(y_true, y_score, k=1, classes=[False, True]) == 0.75
    assert top_k_accuracy(y_true, y_score, k=2, classes=[False, True]) == 1


def test_a_class_that_has_no_column_is_missed():
    y_score = np.eye(3)
    assert top_k_accuracy(["a", "x", "c"], y_score, k=1, classes=["a", "b", "c"]) == 2 / 3
    assert top_k_accuracy(["a", "x", "c"], y_score, k=3, classes=["a", "b", "c"]) == 2 / 3
    assert top_k_accuracy([5, 6, 9], y_score, k=3, classes=[5, 6, 7]) == 2 / 3


def test_a_longer_unknown_label_is_not_cut_to_a_known_one():
    assert top_k_accuracy(["ant hill"], [[1.0, 0.0]], k=2, classes=["ant", "bee"]) == 0


def test_more_guesses_than_classes_find_every_known_one():
    assert top_k_accuracy(["a", "b"], [[1, 0], [1, 0]], k=50, classes=["a", "b"]) == 1


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64", "float16", "float32", "bool"])
def test_scores_of_any_number_type(dtype):
    y_score = np.array([[0, 1, 0], [1, 0, 0]]).astype(dtype)
    assert top_k_accuracy(["b", "a"], y_score, k=1, classes=["a", "b", "c"]) == 1
    assert top_k_accuracy(["c", "c"], y_score, k=2, classes=["a", "b", "c"]) == 0


def test_infinite_scores_are_ranked():
    y_score = [[-np.inf, 0, np.inf]]
    hits = [top_k_accuracy([c], y_score, k=2, classes=list("abc")) for c in "abc"]
    assert hits == [0, 1, 1]


@pytest.mark.parametrize(
    "container", [list, np.array, lambda y: np.array(y, dtype=object), pd.Series, pd.Categorical]
)
def test_containers_of_labels(container):
    y_true = container(["b", "a", "b"])
    y_score = pd.DataFrame([[0.1, 0.9], [0.8, 0.2], [0.7, 0.3]])
    assert top_k_accuracy(y_true, y_score, k=1, classes=["a", "b"]) == 2 / 3
    tensor = torch.tensor(y_score.to_numpy())
    assert top_k_accuracy(y_true, tensor, k=1, classes=container(["a", "b"])) == 2 / 3


def test_inputs_are_not_changed():
    y_score = np.random.default_rng(0).normal(size=(5, 3))
    before = y_score.copy()
    top_k_accuracy([0, 1, 2, 0, 1], y_score, k=2, classes=[0, 1, 2])
    np.testing.assert_array_equal(y_score, before)


@pytest.mark.parametrize("k", [0, -1, 1.0, 2.5, "5", None, True, np.float64(3)])
def test_wrong_k(k):
    with pytest.raises(ParameterError, match="k must be an integer of at least 1; got"):
        top_k_accuracy(["a"], [[1.0]], k=k, classes=["a"])


@pytest.mark.parametrize(
    "shape", [(3,), (3, 2), (3, 4), (2, 3), (3, 3, 1)], ids=lambda shape: "x".join(map(str, shape))
)
def test_scores_of_the_wrong_shape(shape):
    with pytest.raises(ParameterError, match=r"y_score must have .* \(3, 3\); got \("):
        top_k_accuracy([0, 1, 2], np.zeros(shape), k=1, classes=[0, 1, 2])


@pytest.mark.parametrize(
    "y_true", [[[0], [1]], np.zeros((2, 2)), []], ids=["column", "2-D", "empty"]
)
def test_labels_of_the_wrong_shape(y_true):
    with pytest.raises(ParameterError, match="y_true must have one label a sample; got shape"):
        top_k_accuracy(y_true, np.zeros((len(y_true), 2)), k=1, classes=[0, 1])


def test_classes_that_are_named_twice():
    with pytest.raises(ParameterError, match=r"classes must differ; got \['a', 'b', 'a'\]"):
        top_k_accuracy(["a"], [[0.2, 0.5, 0.3]], k=1, classes=["a", "b", "a"])


def test_nan_scores():
    with pytest.raises(ParameterError, match="y_score has NaN"):
        top_k_accuracy([0, 1], [[0.5, 0.5], [np.nan, 0.5]], k=1, classes=[0, 1])


def test_weights_of_the_wrong_length():
    with pytest.raises((ValueError, TypeError), match=r"[Ll]ength|[Ss]hape"):
        top_k_accuracy([0, 1], np.eye(2), k=1, classes=[0, 1], sample_weight=[1.0])


@pytest.mark.parametrize("weights", [[1.0], [1.0, np.nan], [0.0, 0.0], [1.0, -1.0], [[1.0, 1.0]]])
def test_weights_that_cannot_be_are_named(weights):
    with pytest.raises(ParameterError, match="sample_weight must"):
        top_k_accuracy([0, 1], np.eye(2), k=1, classes=[0, 1], sample_weight=weights)


def test_labels_of_several_types_are_not_mixed_up():
    assert out_of_subset_rate(np.array([1, 2]), [1, 2, "x"]) == 0.0
    assert out_of_subset_rate(np.array(["1", "2"]), [1, "x"]) == 1.0
    assert out_of_subset_rate(np.array([1, 2]), np.array([2])) == 0.5
    assert out_of_subset_rate(["a", 1], ["a", 1]) == 0.0
    assert out_of_subset_rate(torch.tensor([1, 2]), torch.tensor([1, 2])) == 0.0
    assert out_of_subset_rate(list(torch.tensor([1, 2])), [1]) == 0.5
    dates = np.array(["2020-01-01", "2021-01-01"], "M8[D]")
    assert out_of_subset_rate(list(dates), dates[:1]) == 0.5


@pytest.mark.parametrize("missing", [None, np.nan])
def test_a_missing_label_is_no_miss_and_no_class(missing):
    with pytest.raises(ParameterError, match="y_true must give each sample a label; 1 of 2"):
        top_k_accuracy(["a", missing], np.eye(2), k=2, classes=["a", "nan"])


@pytest.mark.parametrize("classes", [{"a", "b"}, "a", None])
def test_classes_that_are_no_list(classes):
    with pytest.raises(ParameterError, match="classes must be a list of labels"):
        top_k_accuracy(["a", "b"], np.eye(2), k=1, classes=classes)


def test_strings_and_numbers_are_never_the_same_labels():
    with pytest.raises(ParameterError, match=r"y_pred and subset must be of one kind.* got 1 in"):
        out_of_subset_rate(np.array([1, 2]), ["1", "2"])
    with pytest.raises(
        ParameterError, match=r"y_true and classes must be of one kind.*0 in y_true and '0'"
    ):
        top_k_accuracy([0, 1], np.eye(2), k=1, classes=["0", "1"])
    with pytest.raises(ParameterError, match="of one kind"):
        top_k_accuracy(["0", "1"], np.eye(2), k=1, classes=[0, 1])
    assert top_k_accuracy([0, 1], np.eye(2), k=1, classes=[False, True]) == 1


@pytest.mark.parametrize("subset", [5, None, "pug", [[1, 2]], np.eye(2)])
def test_a_subset_that_is_no_list_of_labels(subset):
    with pytest.raises(ParameterError, match="subset must be a list of labels"):
        out_of_subset_rate([1], subset)
    if subset is not None:
        with pytest.raises(ParameterError, match="subset must be a list of labels"):
            make_out_of_subset_scorer(subset)


def test_predictions_in_several_columns():
    with pytest.raises(ParameterError, match=r"y_pred must have one label.* got shape \(2, 2\)"):
        out_of_subset_rate(np.eye(2), [0, 1])
