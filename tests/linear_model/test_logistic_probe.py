"""Against scikit-learn's LogisticRegression, whose objective is the same."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from scipy.stats import ortho_group
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from sktl.exceptions import ParameterError
from sktl.linear_model import LogisticProbe


def objective(model, X, y, C, sample_weight=1.0):
    """Computed from coef_ and intercept_ alone, with other functions than those of the package."""
    Z = X.astype(float) @ model.coef_.astype(float).T + model.intercept_.astype(float)
    if Z.shape[1] == 1:
        Z = np.hstack([np.zeros_like(Z), Z])
    own = Z[np.arange(len(Z)), np.searchsorted(model.classes_, y)]
    log_loss = logsumexp(Z, axis=1) - own
    return 0.5 * (model.coef_.astype(float) ** 2).sum() + C * (sample_weight * log_loss).sum()


def features(n_classes, n_samples=200, n_features=30, seed=0, **options):
    """Not negative and of uneven scale, like pooled activations, and y of overlapping classes."""
    X, y = make_classification(
        n_samples=n_samples,
        n_features=n_features,
        n_informative=min(10, n_features),
        n_redundant=0,
        n_classes=n_classes,
        n_clusters_per_class=1,
        class_sep=0.6,
        flip_y=0.1,
        random_state=seed,
        **options,
    )
    scale = np.random.default_rng(seed).lognormal(0, 0.7, n_features)
    return np.clip(X + 1, 0, 6) * scale, y


def reference(X, y, C=1.0, sample_weight=None, **options):
    """Newton's method to the last digits."""
    model = LogisticRegression(C=C, tol=1e-12, max_iter=500, solver="newton-cholesky", **options)
    return model.fit(X, y, sample_weight)


def assert_same_minimum(probe, exact, rtol=1e-5):
    np.testing.assert_array_equal(probe.classes_, exact.classes_)
    assert probe.coef_.shape == exact.coef_.shape
    assert probe.intercept_.shape == exact.intercept_.shape
    scale = np.abs(exact.coef_).max()
    np.testing.assert_allclose(probe.coef_, exact.coef_, atol=rtol * scale, rtol=0)
    # Of more than two classes intercepts are known up to a number added to all of them.
    ours, theirs = probe.intercept_, exact.intercept_
    if len(ours) > 1:
        ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    np.testing.assert_allclose(ours, theirs, atol=10 * rtol * max(1, np.abs(theirs).max()), rtol=0)


@parametrize_with_checks([LogisticProbe()])
def test_scikit_learn_check(estimator, check):
    check(estimator)


def test_no_check_is_lost():
    results = check_estimator(LogisticProbe(), on_skip=None, on_fail=None)
    statuses = {result["check_name"]: result["status"] for result in results}
    assert len(results) >= 60
    # Runs with SCIPY_ARRAY_API=1 in the environment only.
    statuses.pop("check_array_api_input", None)
    assert set(statuses.values()) == {"passed"}


@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("C", [1e-5, 1e-2, 1.0, 100.0])
def test_same_minimum(n_classes, C):
    X, y = features(n_classes)
    probe = LogisticProbe(C=C, tol=1e-9).fit(X, y)
    exact = reference(X, y, C)
    assert_same_minimum(probe, exact)
    assert objective(probe, X, y, C) <= objective(exact, X, y, C) * (1 + 1e-9)
    np.testing.assert_allclose(probe.predict_proba(X), exact.predict_proba(X), atol=1e-5)
    np.testing.assert_allclose(probe.predict_log_proba(X), exact.predict_log_proba(X), atol=1e-3)
    np.testing.assert_array_equal(probe.predict(X), exact.predict(X))


@pytest.mark.parametrize("C", [1e-3, 1e-1, 10.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_default_tol_is_no_worse_than_scikit_learn(C, dtype):
    X, y = load_digits(return_X_y=True)
    X = X.astype(dtype)
    plain = LogisticRegression(C=C, max_iter=5000).fit(X, y)
    probe = LogisticProbe(C=C).fit(X, y)
    assert objective(probe, X, y, C) <= objective(plain, X, y, C) * (1 + 1e-4)


def test_default_tol_takes_fewer_iterations_where_the_penalty_matters():
    X, y = features(5, n_samples=600, n_features=200)
    plain = LogisticRegression(C=1e-3, max_iter=5000).fit(X, y)
    probe = LogisticProbe(C=1e-3).fit(X, y)
    assert probe.n_iter_[0] < plain.n_iter_[0] / 2
    assert objective(probe, X, y, 1e-3) <= objective(plain, X, y, 1e-3) * (1 + 1e-6)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_fewer_samples_than_features(n_classes):
    X, y = features(n_classes, n_samples=40, n_features=120)
    probe = LogisticProbe(C=0.5, tol=1e-9).fit(X, y)
    assert_same_minimum(probe, reference(X, y, 0.5))
    # The weights are a combination of the centred rows.
    centred = X - X.mean(axis=0)
    outside = probe.coef_ - probe.coef_ @ np.linalg.pinv(centred) @ centred
    assert np.abs(outside).max() < 1e-8 * np.abs(probe.coef_).max()


def test_rotation_and_shift_of_the_features_change_nothing():
    X, y = features(3)
    rotation = ortho_group.rvs(X.shape[1], random_state=0)
    probe = LogisticProbe(tol=1e-10).fit(X, y)
    turned = LogisticProbe(tol=1e-10).fit(X @ rotation + 100, y)
    np.testing.assert_allclose(turned.coef_ @ rotation.T, probe.coef_, atol=1e-6)
    np.testing.assert_allclose(
        turned.predict_proba(X @ rotation + 100), probe.predict_proba(X), atol=1e-6
    )


@pytest.mark.parametrize("n_classes", [2, 3])
def test_separable_classes(n_classes):
    centres = 20 * np.eye(n_classes, 5)
    y = np.arange(60) % n_classes
    X = centres[y] + np.random.default_rng(0).normal(size=(60, 5))
    probe = LogisticProbe(tol=1e-9).fit(X, y)
    assert_same_minimum(probe, reference(X, y))
    assert probe.score(X, y) == 1


@pytest.mark.parametrize("class_weight", ["balanced", {0: 5.0, 1: 0.2}])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_class_weight(class_weight, n_classes):
    X, y = features(n_classes, weights=[0.7, 0.2][: n_classes - 1])
    probe = LogisticProbe(tol=1e-9, class_weight=class_weight).fit(X, y)
    assert_same_minimum(probe, reference(X, y, class_weight=class_weight))


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_sample_weight(class_weight, n_classes):
    X, y = features(n_classes)
    weight = np.random.default_rng(0).integers(0, 4, len(y))
    probe = LogisticProbe(tol=1e-9, class_weight=class_weight).fit(X, y, weight)
    repeated = np.repeat(np.arange(len(y)), weight)
    exact = reference(X[repeated], y[repeated], class_weight=class_weight)
    assert_same_minimum(probe, exact)
    doubled = LogisticProbe(C=0.5, tol=1e-9, class_weight=class_weight).fit(X, y, 2 * weight)
    assert_same_minimum(doubled, exact)


def test_wrong_sample_weight():
    X, y = features(2)
    with pytest.raises(ValueError, match="must not be negative"):
        LogisticProbe().fit(X, y, -np.ones(len(y)))
    with pytest.raises(ValueError, match="must not be zero for every sample"):
        LogisticProbe().fit(X, y, np.zeros(len(y)))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        LogisticProbe().fit(X, y, np.ones(3))


def test_float32_stays_and_is_close_to_float64():
    X, y = features(4, n_samples=500)
    X32 = X.astype(np.float32)
    probe = LogisticProbe(C=0.1).fit(X32, y)
    assert {a.dtype for a in (probe.coef_, probe.intercept_, probe.predict_proba(X32))} == {
        X32.dtype
    }
    exact = reference(X, y, 0.1)
    assert objective(probe, X, y, 0.1) <= objective(exact, X, y, 0.1) * (1 + 1e-5)
    assert LogisticProbe().fit(X.round().astype(int), y).coef_.dtype == np.float64


def test_more_than_float32_can_give_is_said():
    X, y = features(4)
    with pytest.warns(ConvergenceWarning, match="give them as float64"):
        LogisticProbe(tol=1e-12).fit(X.astype(np.float32), y)


def of_one_length(n_classes, n_samples, n_features):
    """Features of noisy classes, each sample of length 1."""
    random = np.random.default_rng(0)
    y = np.repeat(np.arange(n_classes), n_samples)
    centres = random.normal(size=(n_classes, n_features))
    X = np.maximum(0, centres[y] + 1.5 * random.normal(size=(len(y), n_features)))
    return X / np.linalg.norm(X, axis=1, keepdims=True), y


@pytest.mark.parametrize("C", [50.0, 1000.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_far_too_large_are_no_minimum(C, dtype):
    # With 100 classes their penalty is a gradient below tol.
    X, y = of_one_length(100, 20, 128)
    probe = LogisticProbe(C=C).fit(X.astype(dtype), y)
    exact = LogisticProbe(C=C, tol=1e-6).fit(X, y)
    assert objective(probe, X, y, C) <= 1.01 * objective(exact, X, y, C)


@pytest.mark.parametrize(("scale", "C"), [(10.0, 1e3), (10.0, 1e4), (1.0, 1e4)])
def test_separable_float32_features_are_no_endless_work(scale, C):
    random = np.random.default_rng(1)
    y = np.arange(300) % 10
    X = random.normal(size=(10, 512))[y] + random.normal(size=(300, 512))
    X = (np.maximum(X, 0) * scale).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert LogisticProbe(C=C).fit(X, y).n_iter_[0] < 100


def test_many_classes_are_learnt_though_the_first_gradient_is_small():
    X, y = of_one_length(600, 2, 256)
    probe = LogisticProbe(C=100).fit(X, y)
    exact = LogisticProbe(C=100, tol=1e-6).fit(X, y)
    assert objective(probe, X, y, 100) <= 1.01 * objective(exact, X, y, 100)


@pytest.mark.parametrize("weight", [np.nan, np.inf, 1e308])
def test_weights_that_are_not_finite_are_said_to_be_so(weight):
    X, y = features(2)
    with pytest.raises(ValueError, match="sample_weight must be finite"):
        LogisticProbe().fit(X, y, weight)


def test_class_weights_that_leave_nothing_are_named():
    X, y = features(2)
    with pytest.raises(ValueError, match="class_weight must not be zero for every class"):
        LogisticProbe(class_weight={0: 0, 1: 0}).fit(X, y)


@pytest.mark.parametrize(("dtype", "scale"), [(np.float32, 1e20), (np.float64, 1e160)])
def test_features_too_large_for_their_squares(dtype, scale):
    X, y = features(3)
    with pytest.raises(ValueError, match=f"are too large for {np.dtype(dtype)}; scale them"):
        LogisticProbe().fit((X * scale).astype(dtype), y)


def test_missing_labels_are_named():
    X, y = features(2)
    y = np.array(["a", "b"], dtype=object)[y]
    y[3] = None
    with pytest.raises(ParameterError, match="1 of 200 are missing, the first at position 3"):
        LogisticProbe().fit(X, y)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_constant_columns_get_no_weight(n_classes):
    X, y = features(n_classes)
    X[:, 3], X[:, 5] = 0, 1e4
    probe = LogisticProbe(tol=1e-9).fit(X, y)
    assert np.abs(probe.coef_[:, [3, 5]]).max() < 1e-12
    rest = np.delete(np.arange(X.shape[1]), [3, 5])
    exact = reference(X[:, rest], y)
    np.testing.assert_allclose(probe.coef_[:, rest], exact.coef_, atol=1e-5)


def test_nothing_but_constant_columns():
    y = np.array(["a"] * 3 + ["b"] + ["c"] * 2)
    probe = LogisticProbe().fit(np.ones((6, 4)), y)
    np.testing.assert_array_equal(probe.coef_, 0)
    np.testing.assert_allclose(probe.predict_proba(np.ones((1, 4))), [[3 / 6, 1 / 6, 2 / 6]])


@pytest.mark.parametrize("n_classes", [2, 3])
def test_wildly_scaled_columns(n_classes):
    X, y = features(n_classes, n_features=12)
    X *= np.logspace(-3, 3, 12)
    probe = LogisticProbe(tol=1e-10, max_iter=20_000).fit(X, y)
    exact = reference(X, y)
    assert objective(probe, X, y, 1.0) <= objective(exact, X, y, 1.0) * (1 + 1e-7)
    np.testing.assert_allclose(probe.predict_proba(X), exact.predict_proba(X), atol=1e-3)


def test_tiny_C_leaves_the_frequencies():
    X, y = features(3, weights=[0.6, 0.3])
    probe = LogisticProbe(C=1e-12).fit(X, y)
    assert np.abs(probe.coef_).max() < 1e-6
    np.testing.assert_allclose(probe.predict_proba(X[:1])[0], np.bincount(y) / len(y), rtol=1e-5)


def test_huge_C_is_no_penalty():
    X, y = load_iris(return_X_y=True)
    overlapping, y = X[y > 0][:, :2], y[y > 0]
    probe = LogisticProbe(C=1e10, tol=1e-10).fit(overlapping, y)
    assert_same_minimum(probe, reference(overlapping, y, C=np.inf), rtol=1e-4)


@pytest.mark.parametrize(
    "labels", [["cat", "dog", "eel"], [7, -2, 30], [False, True], [0.0, 2.0, 1.0]]
)
def test_labels_of_any_kind(labels):
    X, y = features(len(labels))
    y = np.array(labels)[y]
    probe = LogisticProbe().fit(X, y)
    assert probe.predict(X).dtype == y.dtype
    np.testing.assert_array_equal(probe.classes_, np.unique(y))
    assert probe.score(X, y) > 0.6
    shape = (len(X),) if len(labels) == 2 else (len(X), len(labels))
    assert probe.decision_function(X).shape == shape
    np.testing.assert_allclose(probe.predict_proba(X).sum(axis=1), 1)
    assert probe.n_iter_.shape == (1,)


def test_logarithms_of_probabilities_too_small_for_a_number():
    X, y = np.array([[0.0], [1.0]]), [0, 1]
    probe = LogisticProbe(C=100).fit(X, y)
    assert probe.predict_proba([[1e4]])[0, 0] == 0
    assert -np.inf < probe.predict_log_proba([[1e4]])[0, 0] < -1000


def test_one_class():
    with pytest.raises(ValueError, match=r"at least 2 classes.*one class: 'a'"):
        LogisticProbe().fit(np.eye(3), ["a", "a", "a"])


def test_wrong_parameters_are_named_together_before_any_work():
    wrong = LogisticProbe(C=-1, tol="small", max_iter=0, class_weight="balancd")
    with pytest.raises(ParameterError, match="4 wrong parameters") as error:
        wrong.fit(None, None)
    for name in ("C", "tol", "max_iter", "class_weight"):
        assert f"  {name} must be " in str(error.value)
    assert "Did you mean 'balanced'" in str(error.value)
    for value in (np.inf, np.nan, True, 0):
        with pytest.raises(ParameterError, match="C must be a finite number above 0"):
            LogisticProbe(C=value).fit(np.eye(2), [0, 1])


def test_too_few_iterations_are_said():
    X, y = features(3)
    with pytest.warns(ConvergenceWarning, match="after 2 iterations"):
        probe = LogisticProbe(max_iter=2).fit(X, y)
    assert probe.n_iter_[0] == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LogisticProbe().fit(X, y)


def test_fits_alike_and_leaves_its_input_and_the_global_generator_alone():
    X, y = features(3)
    before, state = X.copy(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = LogisticProbe().fit(X, y)
    second = clone(first).fit(np.asfortranarray(X), y)
    np.testing.assert_array_equal(first.coef_, second.coef_)
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_in_a_search_over_a_data_frame():
    X, y = features(3)
    frame = pd.DataFrame(X).rename(columns="feature{}".format)
    search = GridSearchCV(LogisticProbe(), {"C": [1e-4, 1e-1]}, cv=3).fit(frame, y)
    plain = GridSearchCV(LogisticRegression(max_iter=5000), {"C": [1e-4, 1e-1]}, cv=3).fit(frame, y)
    assert search.best_params_ == plain.best_params_
    assert abs(search.best_score_ - plain.best_score_) < 0.02
    assert list(search.best_estimator_.feature_names_in_[:2]) == ["feature0", "feature1"]


@pytest.mark.parametrize("weight", [-0.5, np.nan, np.inf])
def test_class_weights_that_cannot_be_are_named(weight):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="class_weight must give finite numbers"):
        LogisticProbe(class_weight={0: 1, 1: weight, 2: 1}).fit(X, y)
