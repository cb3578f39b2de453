"""rank_models: paired tests against a computation by hand, and ensembles out of fold."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_digits, load_sample_images
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import (
    GroupKFold,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from sktl import CNNFeatures, ImageNetClassifier, make_top_k_scorer
from sktl.exceptions import ParameterError
from sktl.model_selection import rank_models

X, Y = load_digits(n_class=4, return_X_y=True)
X, Y = X[:240] / 16, np.array(["a", "b", "c", "d"])[Y[:240]]
FOLDS = StratifiedKFold(4, shuffle=True, random_state=0)
MODELS = {
    "tree": DecisionTreeClassifier(max_depth=3, random_state=0),
    "knn": KNeighborsClassifier(20),
    "bayes": GaussianNB(var_smoothing=0.01),
}


@pytest.fixture(scope="module")
def ranking():
    return rank_models(MODELS, X, Y, FOLDS)


def test_scores_and_predictions_are_those_of_scikit_learn(ranking):
    assert list(ranking.folds) == list(MODELS)
    for name, model in MODELS.items():
        scores = cross_val_score(model, X, Y, cv=FOLDS)
        np.testing.assert_array_equal(ranking.folds[name], scores)
        said = cross_val_predict(model, X, Y, cv=FOLDS, method="predict_proba")
        np.testing.assert_allclose(ranking.out_of_fold[name], said)
        assert ranking.out_of_fold[name].columns.tolist() == ["a", "b", "c", "d"]
    means = ranking.folds.mean()
    assert ranking.best(3) == means.sort_values(ascending=False).index.tolist()
    assert ranking.table.index.tolist() == ranking.best(3)
    assert not hasattr(MODELS["knn"], "classes_")


def test_the_corrected_test_by_hand(ranking):
    """Equation 5 of Nadeau and Bengio, as written in scikit-learn's example."""
    first, second = ranking.folds["knn"].to_numpy(), ranking.folds["tree"].to_numpy()
    differences = first - second
    n, n_train, n_test = 4, 180, 60
    variance = sum((d - differences.mean()) ** 2 for d in differences) / (n - 1)
    corrected = math.sqrt(variance * (1 / n + n_test / n_train))
    t = differences.mean() / corrected
    found = ranking.compare("knn", "tree")
    p = 2 * (1 - stats.t.cdf(abs(t), n - 1))
    np.testing.assert_allclose(
        found, [differences.mean(), math.sqrt(variance / n), corrected, t, p]
    )
    # Without the correction it would be the paired t-test.
    assert stats.ttest_rel(first, second).pvalue < found.p_value
    other = ranking.compare("tree", "knn")
    assert (other.difference, other.t) == (-found.difference, -found.t)
    best = ranking.best()[0]
    row = ranking.table.loc["tree"]
    assert row["difference"] == ranking.compare("tree", best).difference < 0
    assert row["p_value"] == ranking.compare("tree", best).p_value
    assert row["se"] == pytest.approx(stats.sem(second))
    assert np.isnan(ranking.table.loc[best, "p_value"])


def test_p_values_are_corrected_for_the_number_of_candidates(ranking):
    """Holm: the smallest times 2, the other as it is, never falling."""
    p = ranking.table["p_value"].dropna().sort_values()
    holm = ranking.table["p_holm"].reindex(p.index)
    assert holm.iloc[0] == pytest.approx(min(1, 2 * p.iloc[0]))
    assert holm.iloc[1] == pytest.approx(max(holm.iloc[0], p.iloc[1]))


def test_candidates_that_do_the_same():
    same = rank_models({"one": MODELS["tree"], "other": MODELS["tree"]}, X, Y, FOLDS)
    assert same.compare("one", "other") == (0, 0, 0, 0, 1)
    always = rank_models(
        {"all": KNeighborsClassifier(1), "none": KNeighborsClassifier(1)},
        np.eye(2)[np.arange(40) % 2],
        np.arange(40) % 2,
        4,
    )
    always.folds["none"] = 0.0
    assert always.compare("none", "all").p_value == 0
    assert always.compare("none", "all").t == -math.inf


def test_the_stack_is_scored_on_folds_that_its_learner_has_not_seen(ranking):
    k = 2
    names = ranking.best(k)
    Z = np.hstack([ranking.out_of_fold[name] for name in names])
    scores = []
    for train, test in FOLDS.split(X, Y):
        final = LogisticRegression().fit(Z[train], Y[train])
        scores.append(accuracy_score(Y[test], final.predict(Z[test])))
    stacked = ranking.with_stack(k)
    np.testing.assert_allclose(stacked.folds["stack of 2"], scores)
    assert "stack of 2" not in ranking.folds, "a ranking does not change"
    expected = np.mean(scores) - ranking.folds[names[0]].mean()
    assert stacked.compare("stack of 2", names[0]).difference == pytest.approx(expected)
    assert "stack of 2" in stacked.table.index
    # Ensembles are no members of others.
    members = [name for name, _ in stacked.with_vote(3).stack(3).estimators]
    assert sorted(members) == sorted(MODELS)


@pytest.mark.parametrize("labels", [Y, (Y == "a").astype(int)])
def test_the_stack_of_scikit_learn_learns_from_the_same_predictions(labels):
    models = {**MODELS, "svm": LinearSVC()}
    found = rank_models(models, X, labels, FOLDS)
    stack = found.stack(3).fit(X, labels)
    names = found.best(3)
    assert [name for name, _ in stack.estimators] == names
    columns = [found.out_of_fold[name].to_numpy() for name in names]
    if len(np.unique(labels)) == 2:
        columns = [c[:, 1:] for c in columns]
    alone = LogisticRegression().fit(np.hstack(columns), labels)
    np.testing.assert_allclose(stack.final_estimator_.coef_, alone.coef_, rtol=1e-4, atol=1e-6)
    assert found.with_stack(3, GaussianNB()).folds["stack of 3"].between(0.5, 1).all()


def test_the_vote_averages_probabilities(ranking):
    names = ranking.best(2)
    mean = sum(ranking.out_of_fold[name].to_numpy() for name in names) / 2
    guesses = np.array(["a", "b", "c", "d"])[mean.argmax(axis=1)]
    voted = ranking.with_vote(2)
    for score, (_, test) in zip(voted.folds["vote of 2"], ranking.splits, strict=True):
        assert score == accuracy_score(Y[test], guesses[test])
    np.testing.assert_allclose(voted.out_of_fold["vote of 2"], mean)
    vote = ranking.vote(2).fit(X, Y)
    single = [MODELS[name].fit(X, Y).predict_proba(X) for name in names]
    np.testing.assert_allclose(vote.predict_proba(X), sum(single) / 2)


def test_scorers(ranking):
    losses = rank_models(MODELS, X, Y, FOLDS, scoring="neg_log_loss").with_vote(2)
    train, test = ranking.splits[0]
    model = GaussianNB(var_smoothing=0.01).fit(X[train], Y[train])
    expected = -log_loss(Y[test], model.predict_proba(X[test]))
    assert losses.folds["bayes"][0] == pytest.approx(expected)
    assert losses.folds["vote of 2"].lt(0).all()
    top = rank_models(MODELS, X, Y, FOLDS, scoring=make_top_k_scorer(2)).with_vote(2).with_stack(2)
    assert (top.folds[list(MODELS)] >= ranking.folds).all().all()
    assert (top.folds["vote of 2"] >= ranking.with_vote(2).folds["vote of 2"]).all()


def test_a_class_that_a_fold_lacks_and_decision_values():
    y = Y.astype("<U4")
    y[y == "d"] = "c"
    y[:3] = "rare"
    folds = [(np.arange(120, 240), np.arange(120)), (np.arange(120), np.arange(120, 240))]
    found = rank_models([SVC(), LinearDiscriminantAnalysis(), GaussianNB()], X, y, folds)
    values = found.out_of_fold["SVC"]
    assert found.kinds["SVC"] == "decision_function"
    assert (values["rare"][:120] <= values.drop(columns="rare").min(axis=1)[:120]).all()
    assert (found.out_of_fold["GaussianNB"]["rare"][:120] == 0).all()
    with pytest.raises(ParameterError, match="SVC does not give"):
        found.vote(3)
    for stack in (found.stack, found.with_stack):
        with pytest.raises(
            ParameterError, match=r"parts without some classes \(\['rare'\]\), .* SVC"
        ):
            stack(3)
    sure = rank_models([LinearDiscriminantAnalysis(), GaussianNB()], X, y, folds).with_stack(2)
    with pytest.warns(RuntimeWarning, match="Number of classes in training fold"):
        fitted = sure.stack(2).fit(X, y)
    assert fitted.score(X, y) > sure.folds["stack of 2"].mean() - 0.05
    with pytest.raises(ParameterError, match="decision_function_shape must be 'ovr'"):
        rank_models([SVC(decision_function_shape="ovo")], X, Y, 3)


def test_ensembles_need_names_of_their_own(ranking):
    two = ranking.with_stack(2).with_stack(2, GaussianNB(), name="other").with_vote(2, name="mean")
    assert two.ensembles == ("stack of 2", "other", "mean")
    assert list(two.folds) == [*MODELS, "stack of 2", "other", "mean"]
    for again in (lambda: two.with_stack(2), lambda: two.with_vote(2, name="tree")):
        with pytest.raises(ParameterError, match=r"a candidate '.*' already: pass another"):
            again()


def test_repeated_folds_rank_but_do_not_stack():
    folds = RepeatedStratifiedKFold(n_splits=3, n_repeats=2, random_state=0)
    found = rank_models(MODELS, X, Y, folds)
    assert found.folds.shape == (6, 3)
    splits = list(folds.split(X, Y))
    said = [MODELS["bayes"].fit(X[a], Y[a]).predict_proba(X[b]) for a, b in splits]
    mean = np.zeros((240, 4))
    for response, (_, test) in zip(said, splits, strict=True):
        mean[test] += response / 2
    np.testing.assert_allclose(found.out_of_fold["bayes"], mean)
    with pytest.raises(ParameterError, match="folds that test every sample once"):
        found.stack(2)
    once = rank_models(MODELS, X, Y, ShuffleSplit(2, test_size=0.2, random_state=0))
    assert once.out_of_fold["knn"].isna().any(axis=1).sum() >= 240 - 2 * 48


def test_groups_names_and_workers():
    groups = np.arange(240) % 8
    models = [GaussianNB(), DecisionTreeClassifier()]
    found = rank_models(models, X, Y, GroupKFold(4), groups=groups, n_jobs=2)
    for train, test in found.splits:
        assert not set(groups[train]) & set(groups[test])
    assert list(found.folds) == ["GaussianNB", "DecisionTreeClassifier"]
    expected = cross_val_score(GaussianNB(), X, Y, groups=groups, cv=GroupKFold(4))
    np.testing.assert_array_equal(found.folds["GaussianNB"], expected)
    pairs = rank_models([("a", GaussianNB()), ("b", GaussianNB(var_smoothing=0.1))], X, Y, 2)
    assert list(pairs.folds) == ["a", "b"]
    series = rank_models({"a": GaussianNB()}, X, pd.Series(Y, index=range(5, 245)), 2)
    assert series.folds["a"].equals(pairs.folds["a"])


def test_wrong_arguments(ranking):
    with pytest.raises(ParameterError, match="at least one classifier"):
        rank_models([], X, Y)
    with pytest.raises(ParameterError, match="one scorer, or the name of one"):
        rank_models(MODELS, X, Y, FOLDS, scoring=["accuracy", "f1"])
    with pytest.raises(ParameterError, match=r"scoring must give one number.*several, by name"):
        rank_models(MODELS, X, Y, FOLDS, scoring=lambda *_: {"one": 1.0, "other": 0.0})
    with pytest.raises(ValueError, match="1d array"):
        rank_models(MODELS, X, None, FOLDS)
    for missing in (None, np.nan):
        with pytest.raises(ParameterError, match=r"y must give .* label; 1 of 240.*position 239"):
            rank_models(MODELS, X, [*Y[:239], missing], FOLDS)
    with pytest.raises(ParameterError, match=r"a stack or vote cannot have; got \['cv', 'a__b'\]"):
        rank_models({"cv": GaussianNB(), "a__b": KNeighborsClassifier()}, X, Y)
    with pytest.raises(ParameterError, match="names must differ"):
        rank_models([GaussianNB(), GaussianNB()], X, Y)
    with pytest.raises(ParameterError, match=r"names must be str; got \[1\]"):
        rank_models({1: GaussianNB(), "b": KNeighborsClassifier()}, X, Y)
    with pytest.raises(ParameterError, match=r"names must be str; got \[\(0, 1\)\]"):
        rank_models([((0, 1), GaussianNB())], X, Y)
    with pytest.raises(ParameterError, match=r"classifiers, which .*'Ridge'.* are not"):
        rank_models([GaussianNB(), Ridge()], X, Y)
    with pytest.raises(ParameterError, match=r"classifiers, which \['a', 'b'\] are not"):
        rank_models({"a": 3, "b": GaussianNB, "c": GaussianNB()}, X, Y)
    for ask in (ranking.best, ranking.stack, ranking.vote, ranking.with_vote):
        with pytest.raises(ParameterError, match=r"k must be from 1 to 3, .*got \['knn', 'zz'\]"):
            ask(["knn", "zz"])
    with pytest.raises(ParameterError, match="k must be from 1 to 3"):
        ranking.best(4)
    with pytest.raises(ParameterError, match="k must be from 1 to 3"):
        ranking.stack(0)
    with pytest.raises(ParameterError, match="Did you mean 'bayes'"):
        ranking.compare("knn", "baye")


def test_a_score_that_is_nan_is_an_error_and_wins_nothing(ranking):
    def score(model, X, y):
        return math.nan if isinstance(model, GaussianNB) and y[0] == "b" else model.score(X, y)

    folds = [(np.flatnonzero(label != Y), np.flatnonzero(label == Y)) for label in "abcd"]
    with pytest.raises(ParameterError, match=r"candidate 'bayes', fold 1.*NaN.*classes \['b'\]"):
        rank_models(MODELS, X, Y, folds, scoring=score)
    never = dataclasses.replace(ranking, scoring=lambda *_: math.nan)
    with pytest.raises(ParameterError, match=r"stack of 2, fold 0.*NaN"):
        never.with_stack(2)
    with pytest.raises(ParameterError, match=r"vote of 2, fold 0.*NaN"):
        never.with_vote(2)


class Fails(GaussianNB):
    def fit(self, X, y):
        raise RuntimeError("too warm")


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_a_candidate_that_fails_is_named(n_jobs):
    fold = (np.arange(120, 240), np.arange(120))
    with pytest.raises(RuntimeError, match="too warm") as caught:
        rank_models({"good": GaussianNB(), "bad": Fails()}, X, Y, [fold], n_jobs=n_jobs)
    assert caught.value.__notes__ == ["rank_models: candidate 'bad', fold 0"]


def test_folds_may_be_masks(ranking):
    masks = []
    for train, test in FOLDS.split(X, Y):
        parts = np.zeros((2, len(X)), dtype=bool)
        parts[0, train], parts[1, test] = True, True
        masks.append(tuple(parts))
    by_masks = rank_models(MODELS, X, Y, masks)
    pd.testing.assert_frame_equal(
        by_masks.table.drop(columns="fit_seconds"),
        ranking.table.drop(columns="fit_seconds"),
        check_exact=False,
    )
    assert by_masks.with_vote(2).table.shape[0] == len(MODELS) + 1


def test_members_of_an_ensemble_mean_the_classes_that_they_name():
    heavy = LogisticRegression(class_weight={"a": 1, "b": 1, "c": 1, "d": 100})
    found = rank_models({"heavy": heavy, "bayes": MODELS["bayes"]}, X, Y, FOLDS)
    vote = found.vote(2).fit(X, Y)
    alone = [clone(model).fit(X, Y).predict_proba(X) for model in (heavy, MODELS["bayes"])]
    np.testing.assert_allclose(vote.predict_proba(X), sum(alone) / 2, atol=1e-12)
    weighted = clone(vote).fit(X, Y, sample_weight=np.arange(1.0, len(X) + 1))
    assert np.abs(weighted.predict_proba(X) - vote.predict_proba(X)).max() > 0.01
    stack = found.stack(2).fit(X, Y)
    assert stack.score(X, Y) > 0.9
    assert stack.named_estimators_["heavy"].predict(X).max() == 3
    some = Y != "b"
    light = clone(heavy).set_params(class_weight={"a": 1, "c": 1, "d": 100})
    found = rank_models(
        {"heavy": light, "bayes": MODELS["bayes"]}, X, np.where(some, Y, "a"), FOLDS
    )
    few = found.vote(2).fit(X[some], Y[some])
    alone = [clone(m).fit(X[some], Y[some]).predict_proba(X) for m in (light, MODELS["bayes"])]
    np.testing.assert_allclose(few.predict_proba(X), sum(alone) / 2, atol=1e-12)
    assert stack.n_features_in_ == X.shape[1]
    assert len(stack.get_feature_names_out()) == 8


def test_the_final_estimator_means_the_classes_that_it_names(ranking):
    heavy = LogisticRegression(class_weight={"a": 1, "b": 1, "c": 1, "d": 100})
    stack = ranking.stack(2, heavy).fit(X, Y)
    Z = np.hstack([ranking.out_of_fold[name] for name in ranking.best(2)])
    alone = clone(heavy).fit(Z, Y)
    np.testing.assert_array_equal(stack.predict(X), alone.predict(stack.transform(X)))
    np.testing.assert_allclose(
        stack.predict_proba(X), alone.predict_proba(stack.transform(X)), atol=1e-3
    )


def test_the_original_head_beside_learners():
    pictures = list(load_sample_images().images) * 3
    labels = ["palace", "daisy"] * 3
    head = ImageNetClassifier("resnet18", weights=None, image_size=32, store="memory")
    frozen = make_pipeline(
        CNNFeatures("resnet18", weights=None, image_size=32, store="memory"), GaussianNB()
    )
    found = rank_models({"head": head, "frozen": frozen}, pictures, labels, cv=3)
    classes = sorted(set(labels))
    assert found.out_of_fold["head"].columns.tolist() == classes
    fitted = clone(head).fit(pictures, labels)
    said = fitted.predict_proba(pictures)[:, np.searchsorted(fitted.classes_, classes)]
    np.testing.assert_allclose(found.out_of_fold["head"], said, rtol=1e-4)
    vote = found.vote(2).fit(pictures, labels)
    mean = (said + clone(frozen).fit(pictures, labels).predict_proba(pictures)) / 2
    np.testing.assert_allclose(vote.predict_proba(pictures), mean, rtol=1e-4)
