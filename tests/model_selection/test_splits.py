"""Splits by a number of pictures a class, and by list files."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy.sparse import coo_matrix
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate

from sktl import load_image_folder
from sktl.exceptions import ParameterError
from sktl.images import as_images
from sktl.model_selection import PerClassSplit, per_class_split, split_from_list

# Of 40, 55 and 100 pictures, in no order.
Y = np.random.default_rng(0).permutation(np.repeat(["ant", "bee", "cat"], [40, 55, 100]))


def parts_of(splitter, y=Y, groups=None):
    return list(splitter.split_parts(y, y, groups))


def numbers(part, y=Y):
    return dict(sorted(Counter(np.asarray(y)[part].tolist()).items()))


def test_every_part_has_its_number_of_each_class():
    ((train, valid, test),) = parts_of(PerClassSplit(n_valid=20, n_test=15))
    assert numbers(valid) == {"ant": 20, "bee": 20, "cat": 20}
    assert numbers(test) == {"ant": 15, "bee": 15, "cat": 15}
    assert numbers(train) == {"ant": 5, "bee": 20, "cat": 65}
    together = np.concatenate([train, valid, test])
    assert sorted(together) == list(range(len(Y)))
    assert all((np.diff(part) > 0).all() for part in (train, valid, test))


def test_a_number_for_training_leaves_the_rest_out():
    ((train, valid, test),) = parts_of(PerClassSplit(10, 8, n_train=15))
    assert numbers(train) == {"ant": 15, "bee": 15, "cat": 15}
    assert len(set(train) | set(valid) | set(test)) == 3 * 33


def test_defaults_are_those_of_the_studies():
    y = np.repeat([0, 1], 60)
    ((train, valid, test),) = parts_of(PerClassSplit(), y)
    assert (len(train), len(valid), len(test)) == (20, 60, 40)


def test_fractions_are_of_each_class():
    ((train, valid, test),) = parts_of(PerClassSplit(n_valid=0, n_test=0.3))
    assert numbers(test) == {"ant": 12, "bee": 17, "cat": 30}  # 16.5 is rounded up
    assert numbers(train) == {"ant": 28, "bee": 38, "cat": 70}
    assert len(valid) == 0


def test_fractions_that_make_one_take_all_whatever_the_rounding():
    for n in range(2, 30):
        y = np.zeros(n)
        ((train, _, test),) = parts_of(PerClassSplit(0, 0.3, n_train=0.7), y)
        assert len(test) == max(1, int(0.3 * n + 0.5))
        assert len(train) == min(int(0.7 * n + 0.5), n - len(test))


def test_split_yields_what_evaluate_says():
    options = {"n_valid": 12, "n_test": 9, "random_state": 0}
    ((train, valid, test),) = parts_of(PerClassSplit(**options))
    for evaluate, expected in (("valid", valid), ("test", test)):
        ((a, b),) = PerClassSplit(**options, evaluate=evaluate).split(Y, Y)
        np.testing.assert_array_equal(a, train)
        np.testing.assert_array_equal(b, expected)


def test_splits_are_drawn_anew_and_repeat_with_an_int():
    splitter = PerClassSplit(5, 5, n_splits=4, random_state=3)
    first, second = parts_of(splitter), parts_of(splitter)
    assert len({tuple(test) for _, _, test in first}) == 4
    for a, b in zip(first, second, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    other = parts_of(PerClassSplit(5, 5, n_splits=4, random_state=4))
    assert not np.array_equal(first[0][2], other[0][2])


def test_every_picture_is_as_likely_as_the_others():
    rng = np.random.RandomState(0)
    y = np.repeat([0, 1], [10, 30])
    seen = np.zeros(40)
    for _, _, test in parts_of(PerClassSplit(2, 3, n_splits=800, random_state=rng), y):
        seen[test] += 1
    np.testing.assert_allclose(seen / 800, np.repeat([0.3, 0.1], [10, 30]), atol=0.06)


@pytest.mark.parametrize("labels", [[3, -1, 7], [True, False], ["b", "a"], [0.5, 1.5]])
def test_labels_of_any_kind_in_any_container(labels):
    y = np.tile(labels, 10)
    expected = parts_of(PerClassSplit(2, 3, random_state=0), y)[0][0]
    for held in (y.tolist(), pd.Series(y, index=range(100, 100 + len(y)))):
        train = parts_of(PerClassSplit(2, 3, random_state=0), held)[0][0]
        np.testing.assert_array_equal(train, expected)


# Groups


def test_groups_are_kept_whole_and_numbers_exact():
    rng = np.random.default_rng(1)
    groups = np.arange(len(Y))
    for name in np.unique(Y):  # pairs and triples within the class
        own = rng.permutation(np.flatnonzero(name == Y))[:15]
        groups[own[:3]] = groups[own[0]]
        for k in range(3, 15, 2):
            groups[own[k + 1]] = groups[own[k]]
    for train, valid, test in parts_of(PerClassSplit(10, 11, n_splits=50), groups=groups):
        assert numbers(test) == {"ant": 11, "bee": 11, "cat": 11}
        assert numbers(valid) == {"ant": 10, "bee": 10, "cat": 10}
        sets = [set(groups[part]) for part in (train, valid, test)]
        assert sum(map(len, sets)) == len(set.union(*sets))
    for train, valid, test in parts_of(PerClassSplit(5, 6, n_train=7, n_splits=20), groups=groups):
        used = np.concatenate([train, valid, test])
        left = np.setdiff1d(np.arange(len(Y)), used)
        assert not set(groups[used]) & set(groups[left])


def test_groups_across_classes_are_kept_whole():
    y = np.repeat(["a", "b", "c"], 30)
    groups = np.concatenate([np.arange(30), np.arange(30), 100 + np.arange(30)])  # a and b in pairs
    for train, valid, test in parts_of(PerClassSplit(4, 6, n_splits=20), y, groups):
        assert numbers(test, y) == {"a": 6, "b": 6, "c": 6}
        assert set(test[:6] + 30) == set(test[6:12])
        assert not set(groups[train]) & set(groups[test])
        assert not set(groups[train]) & set(groups[valid])


def test_a_split_that_a_first_try_would_miss_is_found():
    """Pairs and a triple: 3 pictures can only be the triple."""
    groups = ["p", "p", "q", "q", "t", "t", "t"]
    for seed in range(10):
        splitter = PerClassSplit(0, 3, random_state=seed)
        ((_, _, test),) = parts_of(splitter, np.zeros(7), groups)
        assert test.tolist() == [4, 5, 6]


def test_groups_that_leave_no_way_are_an_error_that_names_the_class():
    y = np.array(["odd"] * 10 + ["even"] * 10)
    groups = [*np.repeat(np.arange(5), 2), *range(10, 20)]
    with pytest.raises(ParameterError, match=r"pictures of 'odd' with groups kept whole.* 2 pic"):
        parts_of(PerClassSplit(0, 3), y, groups)


def test_no_groups_and_groups_of_one_are_the_same():
    a = parts_of(PerClassSplit(5, 5, random_state=0))
    b = parts_of(PerClassSplit(5, 5, random_state=0), groups=np.arange(len(Y)))
    np.testing.assert_array_equal(a[0][2], b[0][2])


# Errors


def test_classes_with_too_few_pictures_are_named():
    match = r"2 of 3 classes .* 'ant' has 40 of 61, 'bee' has 55 of 61\."
    with pytest.raises(ParameterError, match=match):
        parts_of(PerClassSplit(n_valid=30, n_test=30))
    with pytest.raises(ParameterError, match=r"1 of 3 classes .* 'ant' has 40 of 41\."):
        parts_of(PerClassSplit(10, 1, n_train=30))
    with pytest.raises(ParameterError, match=r"'lonely' has 1 of 2"):
        parts_of(PerClassSplit(0, 0.3), [*Y, "lonely"])


def test_wrong_parameters_are_named_together():
    wrong = {"n_valid": -1, "n_test": 1.5, "n_train": 0, "n_splits": 0, "evaluate": "tset"}
    with pytest.raises(ParameterError, match="5 wrong parameters") as caught:
        next(PerClassSplit(**wrong).split(Y, Y))
    assert all(f"{name} must be" in str(caught.value) for name in wrong)
    assert "Did you mean 'test'" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_valid": 0.5, "n_test": 0.6}, "0.5, 0.6 .* make more than 1"),
        ({"n_valid": np.float32(0.5), "n_test": 0.6}, "0.5, 0.6 .* make more than 1"),
        ({"n_test": 0}, 'n_test=0 leaves no pictures for it; pass evaluate="valid"'),
        ({"n_valid": 0, "evaluate": "valid"}, 'pass evaluate="test"'),
        ({"n_test": True}, "n_test must be"),
        ({"n_test": "20"}, "n_test must be"),
    ],
)
def test_parameters_that_cannot_be_right(options, match):
    with pytest.raises(ParameterError, match=match):
        next(PerClassSplit(**options).split(Y, Y))


def test_labels_are_needed_and_complete():
    with pytest.raises(ParameterError, match="needs y"):
        next(PerClassSplit().split(Y))
    with pytest.raises(ParameterError, match=r"y must have a value for every picture; 1 of 3"):
        next(PerClassSplit(1, 1).split(np.zeros(3), [1.0, np.nan, 1.0]))
    with pytest.raises(ParameterError, match="groups must have a value"):
        next(PerClassSplit(1, 1).split(Y, Y, [None] * len(Y)))
    with pytest.raises(ParameterError, match="one-dimensional"):
        next(PerClassSplit(1, 1).split(np.zeros((3, 2)), np.zeros((3, 2))))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        next(PerClassSplit().split(Y, Y[:-1]))


# Inside scikit-learn


def test_in_searches_and_cross_validation():
    X, y = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=15, tol=1)
    cv = PerClassSplit(20, 25, n_train=30, n_splits=3, random_state=0)
    assert cv.get_n_splits() == cv.get_n_splits(X, y) == 3
    scores = cross_val_score(model, X, y, cv=cv)
    expected = [
        clone(model).fit(X[train], y[train]).score(X[test], y[test])
        for train, test in cv.split(X, y)
    ]
    np.testing.assert_allclose(scores, expected)
    search = GridSearchCV(model, {"C": [0.01, 1]}, cv=cv).fit(X, y)
    assert search.n_splits_ == 3
    assert "split2_test_score" in search.cv_results_


def test_groups_reach_it_also_by_metadata_routing():
    X, y = load_digits(return_X_y=True)
    groups = np.repeat(np.arange(len(y)), 2)[: len(y)]
    cv = PerClassSplit(10, 10, random_state=0)
    model = LogisticRegression(max_iter=5, tol=1)
    options = {"cv": cv, "return_indices": True}
    plain = cross_validate(model, X, y, groups=groups, **options)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = cross_validate(model, X, y, params={"groups": groups}, **options)
    for result in (plain, routed):
        train, test = result["indices"]["train"][0], result["indices"]["test"][0]
        assert not set(groups[train]) & set(groups[test])


def test_it_is_printed_and_pickled():
    splitter = PerClassSplit(5, 6, random_state=0)
    assert "n_test=6" in repr(splitter)
    again = pickle.loads(pickle.dumps(splitter))
    np.testing.assert_array_equal(parts_of(again)[0][2], parts_of(splitter)[0][2])


# The function


def test_function_returns_parts_in_the_order_of_train_test_split():
    X = np.arange(len(Y))
    weight = pd.Series(X * 2.0, index=X + 7)
    parts = per_class_split(X, Y, X.tolist(), weight, n_valid=4, n_test=3, random_state=1)
    ((train, valid, test),) = parts_of(PerClassSplit(4, 3, random_state=1))
    assert len(parts) == 12
    for k, part in enumerate((train, valid, test)):
        np.testing.assert_array_equal(parts[k], part)
        np.testing.assert_array_equal(parts[3 + k], Y[part])
        assert parts[6 + k] == part.tolist()
        pd.testing.assert_series_equal(parts[9 + k], weight.iloc[part])


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"n_valid": 0, "n_test": 0.3}, [136, 59]),
        ({"n_valid": 10, "n_test": 0}, [165, 30]),
        ({"n_valid": 0, "n_test": 0}, [195]),
    ],
)
def test_function_leaves_out_parts_of_none(options, sizes):
    parts = per_class_split(Y, Y, **options)
    assert [len(part) for part in parts] == sizes * 2


def test_function_splits_collections_and_keeps_groups():
    images = as_images(np.zeros((40, 8, 8), dtype=np.uint8))
    y, groups = np.tile([0, 1], 20), np.repeat(np.arange(10), 4)
    X_train, X_test, *_, g_train, g_test = per_class_split(
        images, y, groups, n_valid=0, n_test=4, groups=groups
    )
    assert (repr(X_train), repr(X_test)) == (
        "ImageCollection(32 arrays)", "ImageCollection(8 arrays)",
    )  # fmt: skip
    assert not set(g_train) & set(g_test)


def test_function_splits_sparse_matrices_of_any_format():
    X = coo_matrix(np.arange(len(Y))[:, None])
    parts = per_class_split(X, Y, n_valid=5, random_state=0)
    by_rows = per_class_split(X.tocsr(), Y, n_valid=5, random_state=0)
    for part, same in zip(parts[:3], by_rows[:3], strict=True):
        np.testing.assert_array_equal(part.toarray(), same.toarray())


def test_function_checks_lengths():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        per_class_split(Y, Y, Y[:5])


# List files

PATHS = ["data/a/1.jpg", "data/a/2.jpg", "data/b/1.jpg", "data/b/2.jpg"]


@pytest.mark.parametrize(
    "text", ["b/1.jpg\na/2.jpg\n", "\ufeffb/1.jpg\r\n\r\na/2.jpg", "./b/1.jpg\n data/a/2.jpg \n",
             "b\\1.jpg\na\\2.jpg\nb/1.jpg"]
)  # fmt: skip
def test_listed_in_the_order_of_the_list(tmp_path, text):
    (tmp_path / "list.txt").write_text(text, encoding="utf-8")
    held = [
        PATHS,
        np.array(PATHS, dtype=object),
        [Path(p) for p in PATHS],
        pd.DataFrame({"p": PATHS}),
    ]
    for X in held:
        listed, others = split_from_list(X, tmp_path / "list.txt")
        assert (listed.tolist(), others.tolist()) == ([2, 1], [0, 3])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("b/1.jpg\nc/1.jpg\nb/3.jpg", r"2 of 3 lines .* fit none of the 4 pictures: c/1.jpg, b/3"),
        ("1.jpg\na/2.jpg", r"1 of 2 lines .* fit several of the 4 pictures: 1.jpg"),
        ("b/11.jpg", "fit none"),
        ("/1.jpg", "fit none"),
        ("\n \n", "lists no pictures"),
    ],
)
def test_lines_that_do_not_fit_one_picture(tmp_path, text, match):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ParameterError, match=match):
        split_from_list(PATHS, tmp_path / "list.txt")


def test_lines_of_pictures_that_were_left_out_can_be_passed_over(tmp_path):
    (tmp_path / "list.txt").write_text("a/2.jpg\nleft_out/1.jpg\n")
    listed, others = split_from_list(PATHS, tmp_path / "list.txt", on_missing="ignore")
    assert (listed.tolist(), others.tolist()) == ([1], [0, 2, 3])
    with pytest.raises(ParameterError, match="fit none"):
        split_from_list(["x/y.jpg"], tmp_path / "list.txt", on_missing="ignore")
    with pytest.raises(ParameterError, match="on_missing must be one of"):
        split_from_list(PATHS, tmp_path / "list.txt", on_missing="skip")


def test_lists_need_paths_and_a_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        split_from_list(PATHS, tmp_path / "none.txt")
    (tmp_path / "list.txt").write_text("a/2.jpg")
    with pytest.raises(ParameterError, match="X must hold paths"):
        split_from_list(np.zeros((2, 8, 8)), tmp_path / "list.txt")


def test_lists_that_are_not_in_utf8_are_named(tmp_path):
    (tmp_path / "list.txt").write_text("a/café.jpg", encoding="latin-1")
    with pytest.raises(ParameterError, match=r"list\.txt is no text in UTF-8 \(.*; save it"):
        split_from_list(PATHS, tmp_path / "list.txt")


def test_caltech101(shared_data):
    """The list of the study, and the protocol of its tables."""
    root = shared_data / "caltech101" / "101_ObjectCategories"
    X, y = load_image_folder(root, exclude="BACKGROUND_Google", return_X_y=True)
    lines = (shared_data / "caltech101" / "train.txt").read_text().split()
    listed, others = split_from_list(
        X, shared_data / "caltech101" / "train.txt", on_missing="ignore"
    )
    assert len(listed) == sum(not line.startswith("BACKGROUND") for line in lines) == len(X)
    assert len(others) == 0
    X_train, X_test, _, y_test = per_class_split(X, y, n_train=10, n_valid=0, n_test=10)
    assert len(X_train) == len(X_test) == 1010
    assert set(Counter(y_test.tolist()).values()) == {10}


def test_no_pictures_at_all():
    with pytest.raises(ParameterError, match="needs pictures to split; got none, y is empty"):
        per_class_split([], [])
