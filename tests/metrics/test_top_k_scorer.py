"""The top-k scorer wherever scikit-learn takes `scoring=`."""

import pickle

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, make_classification
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import RFE
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.metrics import make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    cross_val_score,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from sktl import make_top_k_scorer
from sktl.exceptions import ParameterError

LABELS = {
    "str": (["ant", "bee"], ["ant", "bee", "cat", "dog"]),
    "int": ([7, 3], [5, 100, -2, 7]),
    "bool": ([True, False], None),
}


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:500], y[:500]


def toy(labels, seed=0):
    """Samples of as many classes as there are labels, hard to tell apart."""
    X, y = make_classification(
        150, n_features=6, n_informative=4, n_classes=len(labels), class_sep=0.6, random_state=seed
    )
    return X, np.array(labels)[y]


def ranked(estimator, X, k):
    """The k likeliest classes of each sample, from the estimator itself, by a plain loop."""
    if hasattr(estimator, "predict_proba"):
        scores = estimator.predict_proba(X)
    else:
        scores = estimator.decision_function(X)
        if scores.ndim == 1:
            scores = np.stack([-scores, scores], axis=1)
    classes = list(estimator.classes_)
    return [[classes[c] for c in np.argsort(-row, kind="stable")[:k]] for row in scores]


def share_of_hits(estimator, X, y, k):
    return np.mean([label in best for label, best in zip(y, ranked(estimator, X, k), strict=True)])


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        GaussianNB(),
        KNeighborsClassifier(4),
        LinearSVC(),
        RidgeClassifier(),
        SVC(),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_of_two_classes_one_guess_is_accuracy_and_two_are_enough(estimator, labels):
    X, y = toy(LABELS[labels][0])
    fitted = clone(estimator).fit(X[:100], y[:100])
    accuracy = fitted.score(X[100:], y[100:])
    assert 0.5 < accuracy < 1
    assert make_top_k_scorer(1)(fitted, X[100:], y[100:]) == pytest.approx(accuracy)
    assert make_top_k_scorer(2)(fitted, X[100:], y[100:]) == 1


@pytest.mark.parametrize("labels", ["str", "int"])
@pytest.mark.parametrize(
    "estimator",
    [LogisticRegression(), KNeighborsClassifier(4), LinearSVC(), RidgeClassifier(), SVC()],
    ids=lambda estimator: type(estimator).__name__,
)
def test_of_many_classes(estimator, labels):
    X, y = toy(LABELS[labels][1])
    fitted = clone(estimator).fit(X[:100], y[:100])
    scores = [make_top_k_scorer(k)(fitted, X[100:], y[100:]) for k in (1, 2, 3, 4, 9)]
    assert scores == [share_of_hits(fitted, X[100:], y[100:], k) for k in (1, 2, 3, 4, 9)]
    assert scores[0] == pytest.approx(fitted.score(X[100:], y[100:]))
    assert scores == sorted(scores)
    assert scores[0] < scores[2] < scores[3] == scores[4] == 1


def test_default_is_five(digits):
    X, y = digits
    fitted = GaussianNB().fit(X[:50], y[:50])
    assert make_top_k_scorer()(fitted, X, y) == make_top_k_scorer(5)(fitted, X, y)
    assert make_top_k_scorer()(fitted, X, y) > make_top_k_scorer(4)(fitted, X, y)


@pytest.mark.parametrize("estimator", [GaussianNB(), LinearSVC()])
def test_class_that_training_lacked_is_missed(estimator):
    X, y = toy(LABELS["str"][1])
    fitted = estimator.fit(X[y != "dog"], y[y != "dog"])
    assert make_top_k_scorer(3)(fitted, X, y) == pytest.approx(np.mean(y != "dog"))
    assert make_top_k_scorer(1)(fitted, X, y) == pytest.approx(np.mean(fitted.predict(X) == y))


def test_class_that_training_lacked_of_three_leaves_two():
    X, y = toy(["a", "b", "c"])
    fitted = GaussianNB().fit(X[y != "b"], y[y != "b"])
    assert make_top_k_scorer(1)(fitted, X, y) == pytest.approx(np.mean(fitted.predict(X) == y))
    assert make_top_k_scorer(2)(fitted, X, y) == pytest.approx(np.mean(y != "b"))


def test_class_that_the_test_fold_lacks_can_still_be_guessed():
    X, y = toy(LABELS["str"][1])
    fitted = GaussianNB().fit(X, y)
    some = y != "cat"
    assert make_top_k_scorer(2)(fitted, X[some], y[some]) == share_of_hits(
        fitted, X[some], y[some], 2
    )
    one = y == "cat"
    assert make_top_k_scorer(2)(fitted, X[one], y[one]) == share_of_hits(fitted, X[one], y[one], 2)


@pytest.mark.parametrize(
    "estimator",
    [GaussianNB(), KNeighborsClassifier(), RandomForestClassifier(3), DummyClassifier()],
    ids=lambda estimator: type(estimator).__name__,
)
@pytest.mark.parametrize("k", [1, 5])
def test_single_class_in_training(estimator, k):
    X, y = toy(["a", "b"])
    fitted = clone(estimator).fit(X[y == "a"], y[y == "a"])
    assert make_top_k_scorer(k)(fitted, X, y) == pytest.approx(np.mean(y == "a"))


def test_every_fold_of_sorted_data_lacks_classes():
    X, y = toy(LABELS["str"][1])
    order = np.argsort(y, kind="stable")
    scores = cross_val_score(
        GaussianNB(), X[order], y[order], cv=KFold(4), scoring=make_top_k_scorer(2),
        error_score="raise",
    )  # fmt: skip
    assert np.isfinite(scores).all()
    assert scores.max() < 0.5


def test_ties_go_to_the_earlier_class():
    X, y = np.zeros((4, 1)), np.array(["a", "b", "c", "d"])
    fitted = DummyClassifier(strategy="uniform").fit(X, y)
    assert [make_top_k_scorer(2)(fitted, X[:1], [label]) for label in y] == [1, 1, 0, 0]
    halves = DummyClassifier(strategy="prior").fit(X[:2], y[:2])  # probabilities 0.5 and 0.5
    assert [make_top_k_scorer(1)(halves, X[:1], [label]) for label in y[:2]] == [1, 0]
    assert halves.predict(X[:1]) == ["a"]


def test_zero_decision_is_the_first_class():
    X, y = np.array([[-1.0], [1.0]]), np.array(["a", "b"])
    fitted = RidgeClassifier().fit(X, y)
    assert fitted.decision_function([[0.0]]) == 0
    assert fitted.predict([[0.0]]) == ["a"]
    assert make_top_k_scorer(1)(fitted, [[0.0]], ["a"]) == 1


def test_sample_weight_passed_directly(digits):
    X, y = digits
    fitted = GaussianNB().fit(X[:60], y[:60])
    hits = np.array([label in best for label, best in zip(y, ranked(fitted, X, 2), strict=True)])
    weights = np.random.default_rng(0).uniform(size=len(y))
    expected = (hits * weights).sum() / weights.sum()
    assert expected != pytest.approx(hits.mean(), abs=1e-6)
    assert make_top_k_scorer(2)(fitted, X, y, sample_weight=weights) == pytest.approx(expected)


def test_sample_weight_through_metadata_routing(digits):
    X, y = digits
    weights = np.random.default_rng(0).uniform(size=len(y))
    folds = KFold(3)
    with sklearn.config_context(enable_metadata_routing=True):
        scorers = {
            "weighted": make_top_k_scorer(2).set_score_request(sample_weight=True),
            "plain": make_top_k_scorer(2).set_score_request(sample_weight=False),
            "renamed": make_top_k_scorer(2).set_score_request(sample_weight="other"),
        }
        scores = cross_validate(
            GaussianNB().set_fit_request(sample_weight=False), X, y, cv=folds, scoring=scorers,
            params={"sample_weight": weights, "other": np.ones(len(y))}, error_score="raise",
        )  # fmt: skip
    for i, (train, test) in enumerate(folds.split(X)):
        fitted = GaussianNB().fit(X[train], y[train])
        scorer = make_top_k_scorer(2)
        weighted = scorer(fitted, X[test], y[test], sample_weight=weights[test])
        assert scores["test_weighted"][i] == pytest.approx(weighted)
        assert scores["test_plain"][i] == pytest.approx(scorer(fitted, X[test], y[test]))
        assert scores["test_renamed"][i] == scores["test_plain"][i]
        assert scores["test_weighted"][i] != scores["test_plain"][i]


def test_sample_weight_that_is_not_asked_for_is_an_error_under_routing(digits):
    X, y = digits
    with (
        sklearn.config_context(enable_metadata_routing=True),
        pytest.raises(ValueError, match="sample_weight"),
    ):
        cross_val_score(
            GaussianNB().set_fit_request(sample_weight=False), X, y,
            scoring=make_top_k_scorer(2), params={"sample_weight": np.ones(len(y))},
        )  # fmt: skip


def test_pickle_and_joblib(tmp_path, digits):
    X, y = digits
    fitted = GaussianNB().fit(X[:60], y[:60])
    scorer = make_top_k_scorer(3)
    joblib.dump(scorer, tmp_path / "scorer.joblib")
    for copy in (pickle.loads(pickle.dumps(scorer)), joblib.load(tmp_path / "scorer.joblib")):
        assert copy(fitted, X, y) == scorer(fitted, X, y) != make_top_k_scorer(1)(fitted, X, y)


def test_search_that_holds_it_can_be_cloned_and_pickled(digits):
    X, y = digits
    search = GridSearchCV(
        GaussianNB(), {"var_smoothing": [1e-9, 0.1]}, scoring=make_top_k_scorer(3), cv=3
    )
    first = clone(search).fit(X, y)
    second = pickle.loads(pickle.dumps(clone(clone(search)))).fit(X, y)
    np.testing.assert_array_equal(
        first.cv_results_["mean_test_score"], second.cv_results_["mean_test_score"]
    )
    assert first.score(X, y) == make_top_k_scorer(3)(first, X, y)
    again = pickle.loads(pickle.dumps(first))
    assert again.score(X, y) == first.score(X, y)


def test_repr_says_k():
    assert "k=3" in repr(make_top_k_scorer(3))


def test_two_processes_give_what_one_gives(digits):
    X, y = digits
    scoring = {"one": make_top_k_scorer(1), "three": make_top_k_scorer(3)}
    alone, parallel = (
        cross_validate(GaussianNB(), X, y, cv=3, scoring=scoring, n_jobs=n_jobs)
        for n_jobs in (1, 2)
    )
    for name in ("test_one", "test_three"):
        np.testing.assert_array_equal(alone[name], parallel[name])


class Counting(ClassifierMixin, BaseEstimator):
    """Nearest class mean; counts how often it is asked for probabilities."""

    calls = 0

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X[y == c].mean(axis=0) for c in self.classes_])
        return self

    def predict_proba(self, X):
        type(self).calls += 1
        distances = ((X[:, None] - self.means_) ** 2).sum(axis=2)  # (n_samples, n_classes)
        shares = np.exp(distances.min(axis=1, keepdims=True) - distances)
        return shares / shares.sum(axis=1, keepdims=True)

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


@pytest.mark.parametrize("n_classes", [2, 4])
def test_several_in_one_search_ask_for_probabilities_once_a_fold(monkeypatch, n_classes):
    X, y = toy(list("abcd")[:n_classes])
    monkeypatch.setattr(Counting, "calls", 0)
    scoring = {f"top-{k}": make_top_k_scorer(k) for k in (1, 2, 3)}
    cross_validate(Counting(), X, y, cv=5, scoring=scoring, error_score="raise")
    assert Counting.calls == 5


def test_of_many_classes_the_call_is_shared_with_scikit_learns_scorers(monkeypatch):
    X, y = toy(list("abcd"))
    monkeypatch.setattr(Counting, "calls", 0)
    scoring = {"top-2": make_top_k_scorer(2), "loss": "neg_log_loss", "auc": "roc_auc_ovr"}
    cross_validate(Counting(), X, y, cv=5, scoring=scoring, error_score="raise")
    assert Counting.calls == 5


@pytest.mark.parametrize("estimator", [GaussianNB(), LinearSVC()])
@pytest.mark.parametrize("first", ["other", "ours"])
def test_the_positive_class_of_another_scorer_does_not_matter(estimator, first):
    X, y = toy([1, 2])  # scikit-learn's average precision calls 1 positive: the first class here
    other = {"precision": "average_precision"}
    ours = {"top-1": make_top_k_scorer(1), "top-2": make_top_k_scorer(2)}
    scoring = {**other, **ours} if first == "other" else {**ours, **other}
    scores = cross_validate(estimator, X, y, scoring=scoring, error_score="raise")
    accuracy = cross_val_score(estimator, X, y)
    np.testing.assert_allclose(scores["test_top-1"], accuracy)
    alone = cross_val_score(estimator, X, y, scoring="average_precision")
    np.testing.assert_allclose(scores["test_precision"], alone)


def test_own_scorer_with_a_positive_class_beside_it():
    X, y = toy(["ant", "bee"])

    def mean_share(y_true, y_score, pos_label):
        return y_score.mean()

    share = make_scorer(mean_share, response_method="predict_proba", pos_label="ant")
    scoring = {"share": share, "top-1": make_top_k_scorer(1)}
    scores = cross_validate(GaussianNB(), X, y, scoring=scoring, error_score="raise")
    np.testing.assert_allclose(scores["test_top-1"], cross_val_score(GaussianNB(), X, y))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: make_pipeline(StandardScaler(), model),
        lambda model: GridSearchCV(model, {}, cv=2),
        lambda model: GridSearchCV(make_pipeline(StandardScaler(), model), {}, cv=2),
        lambda model: make_pipeline(StandardScaler(), GridSearchCV(model, {}, cv=2)),
    ],
    ids=["pipeline", "search", "pipeline in search", "search in pipeline"],
)
@pytest.mark.parametrize("model", [GaussianNB(), LinearSVC()])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_pipelines_and_searches_are_scored_like_their_last_step(wrap, model, n_classes):
    X, y = toy(list("abcd")[:n_classes])
    fitted = wrap(model).fit(X, y)
    for k in (1, 2):
        assert make_top_k_scorer(k)(fitted, X, y) == share_of_hits(fitted, X, y, k)
    assert make_top_k_scorer(1)(fitted, X, y) == pytest.approx(fitted.score(X, y))


def test_estimator_that_ranks_nothing():
    X, y = toy([0, 1, 2])
    for estimator in (LinearRegression(), make_pipeline(StandardScaler(), LinearRegression())):
        fitted = estimator.fit(X, y)
        with pytest.raises(AttributeError, match="has neither predict_proba nor decision_function"):
            make_top_k_scorer(2)(fitted, X, y)


class Wrapped(BaseEstimator):
    """Has the methods of a classifier, but is not tagged as one."""

    def __init__(self, model):
        self.model = model

    @property
    def classes_(self):
        return self.model.classes_

    def predict_proba(self, X):
        return self.model.predict_proba(X)


def test_classifier_without_the_tag_of_one(digits):
    X, y = digits
    for labels in (y, y % 2):
        fitted = GaussianNB().fit(X[:60], labels[:60])
        expected = make_top_k_scorer(1)(fitted, X, labels)
        assert make_top_k_scorer(1)(Wrapped(fitted), X, labels) == expected < 1


@pytest.mark.parametrize("k", [0, -3, 1.0, "5", None, False])
def test_wrong_k_is_found_when_the_scorer_is_made(k):
    with pytest.raises(ParameterError, match=f"k must be an integer of at least 1; got {k!r}"):
        make_top_k_scorer(k)


def test_numpy_integer_k(digits):
    X, y = digits
    fitted = GaussianNB().fit(X[:60], y[:60])
    assert make_top_k_scorer(np.int64(2))(fitted, X, y) == make_top_k_scorer(2)(fitted, X, y)


class Broken(GaussianNB):
    """Gives no probability of the first sample."""

    def predict_proba(self, X):
        probabilities = super().predict_proba(X)
        probabilities[0] = np.nan
        return probabilities


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 2]])
def test_nan_scores_are_an_error_not_a_miss(labels):
    X, y = toy(labels)
    with pytest.raises(ParameterError, match="y_score has NaN"):
        make_top_k_scorer(1)(Broken().fit(X, y), X, y)


@pytest.mark.parametrize("n_classes", [3, 4])
@pytest.mark.parametrize("where", ["alone", "pipeline", "search", "elimination"])
def test_votes_on_pairs_are_refused(n_classes, where):
    X, y = toy(list(range(n_classes)))
    model = SVC(kernel="linear", decision_function_shape="ovo")
    if where == "pipeline":
        model = make_pipeline(StandardScaler(), model)
    if where == "elimination":
        model = RFE(model, n_features_to_select=1)
    if where == "search":
        model = GridSearchCV(SVC(), {"decision_function_shape": ["ovo"]}, cv=2)
    with pytest.raises(ParameterError, match='use "ovr"'):
        make_top_k_scorer(2)(model.fit(X, y), X, y)


def test_pairs_of_two_classes_and_calibrated_ones_are_fine():
    X, y = toy([0, 1])
    fitted = SVC(decision_function_shape="ovo").fit(X, y)
    assert make_top_k_scorer(1)(fitted, X, y) == pytest.approx(fitted.score(X, y))
    X, y = toy([0, 1, 2])
    fitted = CalibratedClassifierCV(SVC(decision_function_shape="ovo"), cv=2).fit(X, y)
    assert make_top_k_scorer(1)(fitted, X, y) == pytest.approx(fitted.score(X, y))


def test_several_targets_are_refused():
    X, y = toy([0, 1, 2])
    targets = np.column_stack([y, y[::-1]])
    fitted = RandomForestClassifier(2).fit(X, targets)
    with pytest.raises(ValueError):  # noqa: PT011 (scikit-learn's or ours, whichever comes first)
        make_top_k_scorer(2)(fitted, X, targets)


def test_grid_search_ranks_by_it(digits):
    X, y = digits
    grid = {"var_smoothing": [1e-9, 1e-2, 10.0]}
    search = GridSearchCV(GaussianNB(), grid, scoring=make_top_k_scorer(3), cv=3).fit(X, y)
    for i, candidate in enumerate(search.cv_results_["params"]):
        scores = cross_val_score(GaussianNB(**candidate), X, y, cv=3, scoring=make_top_k_scorer(3))
        assert search.cv_results_["mean_test_score"][i] == pytest.approx(scores.mean())
    assert search.best_score_ == max(search.cv_results_["mean_test_score"])
    several = {f"top-{k}": make_top_k_scorer(k) for k in (1, 3)}
    search = GridSearchCV(GaussianNB(), grid, scoring=several, refit="top-3", cv=3).fit(X, y)
    assert search.best_score_ == search.cv_results_["mean_test_top-3"].max()


def test_curves_and_importances(digits):
    X, y = digits
    scorer = make_top_k_scorer(2)
    _, training, test = learning_curve(
        GaussianNB(), X, y, train_sizes=[30, 200], cv=3, scoring=scorer, error_score="raise"
    )
    assert training.shape == test.shape == (2, 3)
    assert test[1].mean() > test[0].mean()
    _, test = validation_curve(
        GaussianNB(), X, y, param_name="var_smoothing", param_range=[1e-9, 10.0], cv=3,
        scoring=scorer,
    )  # fmt: skip
    assert test.shape == (2, 3)
    fitted = GaussianNB().fit(X, y)
    importances = permutation_importance(fitted, X, y, scoring=scorer, n_repeats=2, random_state=0)
    assert importances.importances.shape == (64, 2)
    assert importances.importances_mean[0] == 0  # a pixel that is always blank
    assert importances.importances_mean.max() > 0
