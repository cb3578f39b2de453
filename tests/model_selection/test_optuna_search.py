"""OptunaSearch: the same scores as scikit-learn's own, pruning, resuming, workers, spaces."""

import functools
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import optuna
import pandas as pd
import pytest
import sklearn
import torch
from joblib.externals.loky import get_reusable_executor
from numpydoc.docscrape import ClassDoc
from scipy import stats
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.ensemble import StackingClassifier
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks
from skorch.callbacks import GradientNormClipping
from torch import nn

from sktl import CNNClassifier, CNNFeatures, FeatureStore, Phase, as_images, make_top_k_scorer
from sktl.backbones import Backbone, FeatureNetwork, Preprocessing
from sktl.exceptions import ParameterError
from sktl.linear_model import LogisticProbe
from sktl.model_selection import OptunaSearch, fine_tuning_space, frozen_space
from sktl.model_selection._epoch_pruning import EpochPruning
from sktl.model_selection._identity import identity, in_words
from sktl.model_selection._optuna_search import _warm
from sktl.model_selection._spaces import named_space
from sktl.model_selection._study import SeededByTrial, open_storage, repeat_interrupted

X, Y = load_digits(n_class=3, return_X_y=True)
X, Y = X[:150], Y[:150]
TIMES = ["mean_fit_time", "seconds"]
KNN = {"n_neighbors": (1, 40, "log"), "weights": ["uniform", "distance"]}


def search(estimator=None, space=None, **parameters):
    parameters = {"n_trials": 6, "cv": 3, "random_state": 0, **parameters}
    return OptunaSearch(
        estimator or KNeighborsClassifier(), KNN if space is None else space, **parameters
    )


CHECKED = search(LogisticRegression(), {"C": (0.1, 1.0)}, n_trials=1, cv=2, error_score="raise")


@parametrize_with_checks([CHECKED])
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::FutureWarning")
def test_scikit_learn_check(estimator, check):
    check(estimator)


def test_no_check_is_lost():
    assert len(list(estimator_checks_generator(CHECKED, mark=None))) >= 45


class Fails(ClassifierMixin, BaseEstimator):
    """Fails for large `a`; else scores `a`."""

    def __init__(self, a=0.0):
        self.a = a

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        if self.a > 5:
            raise ArithmeticError("too large")
        return self

    def predict(self, X):
        return np.zeros(len(X), int)

    def score(self, X, y):
        return self.a


# ---- scores -------------------------------------------------------------------------------------


def test_scores_are_those_of_cross_val_score():
    folds = StratifiedKFold(3, shuffle=True, random_state=1)
    found = search(cv=folds, scoring="balanced_accuracy", prune_by=None).fit(X, Y)
    assert found.trials_["state"].eq("COMPLETE").all()
    for row in found.trials_.itertuples():
        model = KNeighborsClassifier(n_neighbors=row.param_n_neighbors, weights=row.param_weights)
        scores = cross_val_score(model, X, Y, cv=folds, scoring="balanced_accuracy")
        got = [row.split0_test_score, row.split1_test_score, row.split2_test_score]
        np.testing.assert_array_equal(got, scores)
        assert row.mean_test_score == scores.mean()
        assert row.std_test_score == pytest.approx(scores.std())
    best = found.trials_.iloc[found.best_index_]
    assert best["rank_test_score"] == 1
    assert found.best_score_ == best["mean_test_score"] == found.trials_["mean_test_score"].max()
    assert found.best_params_ == {
        "n_neighbors": best["param_n_neighbors"],
        "weights": best["param_weights"],
    }
    again = clone(found.estimator).set_params(**found.best_params_).fit(X, Y)
    np.testing.assert_array_equal(found.predict_proba(X), again.predict_proba(X))
    assert found.score(X, Y) == balanced_accuracy_score(Y, again.predict(X)) != again.score(X, Y)


def test_the_estimator_is_not_changed_and_methods_are_those_of_the_best():
    model = KNeighborsClassifier(n_neighbors=7)
    found = search(model).fit(X, Y)
    assert model.n_neighbors == 7
    assert not hasattr(model, "classes_")
    assert not hasattr(found, "decision_function")
    assert not hasattr(search(refit=False).fit(X, Y), "predict")
    np.testing.assert_array_equal(found.classes_, [0, 1, 2])
    assert found.n_features_in_ == 64


def test_fitted_attributes_are_documented():
    found = search().fit(pd.DataFrame(X).add_prefix("pixel"), Y)
    fitted = {name for name in [*vars(found), *dir(OptunaSearch)] if name.endswith("_")}
    documented = {entry.name for entry in ClassDoc(OptunaSearch)["Attributes"]}
    assert documented == {name for name in fitted if not name.startswith("_")}
    assert found.feature_names_in_[0] == "pixel0"


def test_top_k_scorer_and_groups():
    groups = np.arange(150) % 7
    parameters = {"cv": GroupKFold(3), "scoring": make_top_k_scorer(2), "prune_by": None}
    found = search(GaussianNB(), {"var_smoothing": (1e-9, 1e-2, "log")}, **parameters)
    found.fit(X, Y, groups=groups)
    model = GaussianNB(var_smoothing=found.best_params_["var_smoothing"])
    scores = cross_val_score(
        model, X, Y, groups=groups, cv=GroupKFold(3), scoring=make_top_k_scorer(2)
    )
    assert found.best_score_ == scores.mean()


def test_weights_of_samples_are_split():
    weights = np.where(Y == 2, 0.0, 1.0)  # a tree that has never seen a 2
    space = {"max_depth": (3, 5)}
    found = search(DecisionTreeClassifier(random_state=0), space, n_trials=1)
    # scikit-learn warns where a scorer does not take weights; accuracy does.
    found.set_params(scoring="accuracy").fit(X, Y, sample_weight=weights)
    assert not (found.predict(X) == 2).any()


@pytest.mark.parametrize("scoring", [None, "accuracy", "neg_log_loss", make_top_k_scorer(2)])
@pytest.mark.parametrize("model", [LogisticRegression(max_iter=500, tol=0.01), LogisticProbe()])
def test_weights_reach_the_scorer_as_in_grid_search(model, scoring):
    weights = np.random.default_rng(0).uniform(0, 1, len(Y)) ** 4
    noisy = X + np.random.default_rng(1).normal(0, 12, X.shape)
    parameters = {"cv": 3, "scoring": scoring}
    grid = GridSearchCV(model, {"C": [0.1]}, **parameters).fit(noisy, Y, sample_weight=weights)
    found = search(model, {"C": [0.1]}, n_trials=1, **parameters)
    assert found.fit(noisy, Y, sample_weight=weights).best_score_ == grid.best_score_
    plain = clone(found).fit(noisy, Y)
    assert plain.best_score_ != found.best_score_


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_weights_reach_whoever_requests_them(n_jobs):
    weights = np.random.default_rng(0).uniform(0, 1, len(Y)) ** 4
    noisy = X + np.random.default_rng(1).normal(0, 12, X.shape)
    with sklearn.config_context(enable_metadata_routing=True):
        model = GaussianNB().set_fit_request(sample_weight=False)
        scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
        parameters = {"cv": 3, "scoring": scorer}
        space = {"var_smoothing": [0.1]}
        grid = GridSearchCV(model, space, **parameters).fit(noisy, Y, sample_weight=weights)
        found = search(model, space, n_trials=1, n_jobs=n_jobs, **parameters)
        with joblib.parallel_config("threading"):
            found.fit(noisy, Y, sample_weight=weights)
    assert found.best_score_ == grid.best_score_


def test_pickle_and_clone():
    found = search().fit(X, Y)
    loaded = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(loaded.predict(X), found.predict(X))
    assert loaded.study_.best_value == found.best_score_
    assert clone(found).get_params()["n_trials"] == 6


# ---- repeating, resuming, working together --------------------------------------------------


def same(one, other):
    pd.testing.assert_frame_equal(
        one.trials_.drop(columns=TIMES), other.trials_.drop(columns=TIMES)
    )


@pytest.mark.parametrize("sampler", [None, optuna.samplers.RandomSampler])
def test_the_same_seed_gives_the_same_trials(sampler):
    first = search(sampler=sampler, n_trials=12).fit(X, Y)
    same(first, search(sampler=sampler, n_trials=12).fit(X, Y))
    other = search(sampler=sampler, n_trials=12, random_state=1).fit(X, Y)
    assert not first.trials_["param_n_neighbors"].equals(other.trials_["param_n_neighbors"])


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("journal.log", None),
        ("trials.db", optuna.samplers.RandomSampler),
    ],
)
def test_a_search_that_goes_on_makes_the_trials_it_would_have_made(tmp_path, name, sampler):
    n = 12 if sampler is None else 5  # TPE begins with ten random ones
    whole = search(sampler=sampler, n_trials=n).fit(X, Y)
    search(sampler=sampler, n_trials=3, storage=tmp_path / name).fit(X, Y)
    rest = search(sampler=sampler, n_trials=n, storage=str(tmp_path / name)).fit(X, Y)
    same(whole, rest)
    before = rest.study_.trials[-1].datetime_complete
    done = search(sampler=sampler, n_trials=n, storage=tmp_path / name).fit(X, Y)
    assert done.study_.trials[-1].datetime_complete == before, "a trial was run again"
    assert done.best_params_ == whole.best_params_


KILLED = """
import os, sys
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sktl.model_selection import OptunaSearch

class Dies(ClassifierMixin, BaseEstimator):
    n = 0
    def __init__(self, a=0.0):
        self.a = a
    def fit(self, X, y):
        Dies.n += 1
        if Dies.n == 6:
            os._exit(9)
        self.classes_ = np.unique(y)
        return self
    def predict(self, X):
        return np.zeros(len(X), int)
    def score(self, X, y):
        return self.a

X, y = np.zeros((30, 1)), np.arange(30) % 2
OptunaSearch(Dies(), {"a": (0.0, 1.0)}, n_trials=5, cv=2, storage=sys.argv[1]).fit(X, y)
"""


def test_a_killed_trial_does_not_count(tmp_path):
    storage = str(tmp_path / "journal.log")
    run = subprocess.run([sys.executable, "-c", KILLED, storage], check=False)
    assert run.returncode == 9

    class Dies(Fails):
        """By the same name, as it would be in the next run of the same script."""

    X, y = np.zeros((30, 1)), np.arange(30) % 2
    found = search(Dies(), {"a": (0.0, 1.0)}, n_trials=5, cv=2, storage=storage).fit(X, y)
    assert found.trials_["state"].tolist().count("RUNNING") == 1
    assert found.trials_["state"].isin(["COMPLETE", "PRUNED"]).sum() == 5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"y": 1 - np.minimum(Y, 1)}, "  y: "),
        ({"X": X + 1}, "  X: 150 samples"),
        ({"cv": 4}, "folds"),
        ({"scoring": "balanced_accuracy"}, "scoring"),
        ({"estimator": KNeighborsClassifier(p=1)}, "estimator's p: 2 then, 1 now"),
        ({"estimator": GaussianNB(), "space": {"var_smoothing": (0.1, 1.0)}}, "estimator: KNeigh"),
    ],
)
def test_a_study_of_something_else_is_refused(tmp_path, change, named):
    storage = tmp_path / "journal.log"
    search(storage=storage, n_trials=1).fit(X, Y)
    change = dict(change)
    data = change.pop("X", X), change.pop("y", Y)
    with pytest.raises(ParameterError, match=named):
        search(**{"storage": storage, **change}).fit(*data)
    search(**{"storage": storage, "study_name": "other", "n_trials": 1, **change}).fit(*data)


def test_what_one_search_lacks_is_told_so(tmp_path):
    parameters = {"storage": tmp_path / "journal.log", "n_trials": 1, "scoring": "accuracy"}
    trees = DecisionTreeClassifier(random_state=0)
    search(trees, {"max_depth": (3, 5)}, **parameters).fit(X, Y)
    wider = search(trees, {"max_depth": (3, 5), "criterion": ["gini", "entropy"]}, **parameters)
    with pytest.raises(ParameterError, match="criterion: 'gini' then, searched or absent now"):
        wider.fit(X, Y)
    weighted = search(trees, {"max_depth": (3, 5)}, **parameters)
    with pytest.raises(ParameterError, match="sample_weight: not given then, array of shape"):
        weighted.fit(X, Y, sample_weight=np.ones(150))


def test_what_does_not_matter_may_change(tmp_path):
    parameters = {"storage": tmp_path / "journal.log", "scoring": plain_scorer}
    search(n_trials=1, **parameters).fit(X, Y)
    model = KNeighborsClassifier(n_jobs=1)
    found = search(model, n_trials=2, **parameters).fit(np.asfortranarray(X), Y.copy())
    assert len(found.trials_) == 2


def test_callbacks_matter(tmp_path):
    """They may change the weights, or the data."""
    space, parameters = {"dropout": (0.0, 0.5)}, {"n_trials": 1, "storage": tmp_path / "j.log"}
    short = network(phases=[("train", Phase("all", 1))], callbacks=[GradientNormClipping(1.0)])
    search(short, space, **parameters).fit(PIXELS, Y)
    search(clone(short), space, **parameters).fit(PIXELS, Y)
    other = clone(short).set_params(callbacks=[GradientNormClipping(0.1)])
    with pytest.raises(ParameterError, match="estimator's callbacks: "):
        search(other, space, **parameters).fit(PIXELS, Y)


def plain_scorer(estimator, X, y):
    return estimator.score(X, y)


# ---- what a study is of -------------------------------------------------------------------------


class Weighs:
    """A callable whose repr is its address."""

    def __init__(self, weight):
        self.weight, self.itself = weight, self

    def __call__(self, estimator, X, y):
        return self.weight * estimator.score(X, y)


def network_of(weight):
    net = nn.Sequential(nn.Conv2d(3, 2, 3))
    nn.init.constant_(net[0].weight, weight)
    nn.init.zeros_(net[0].bias)
    return net


def backbone_of(weight):
    return Backbone(network_of(weight), preprocessing=Preprocessing(size=8, resize=8))


def hooked(factor):
    net = network_of(1)
    net.register_forward_hook(lambda module, inputs, output: output * factor)
    return net


LONG = np.arange(5000.0)


@pytest.mark.parametrize(
    ("make", "value", "other"),
    [
        (lambda v: {0: 1, 1: v}, 1, 100),
        (lambda v: {"a": [np.array([v])]}, 1, 2),
        (lambda v: np.where(LONG == 2500, v, LONG), 0, 1),
        (lambda v: np.array(["a", v], dtype=object), "b", "c"),
        (lambda v: pd.Series([1, v]), 2, 3),
        (lambda v: {v, 1, 2}, 3, 4),
        (lambda v: v, 1, "1"),
        (lambda v: functools.partial(plain_scorer, X=v), 1, 2),
        (Weighs, 1, 2),
        (lambda v: Weighs(v).__call__, 1, 2),
        (lambda v: v, plain_scorer, balanced_accuracy_score),
        (lambda v: make_scorer(Weighs(v)), 1, 2),
        (lambda v: make_scorer(balanced_accuracy_score, adjusted=v), False, True),
        (lambda v: [KNeighborsClassifier(v)], 3, 5),
        (make_top_k_scorer, 2, 3),
        (lambda v: torch.tensor([v]), 1, 2),
        (network_of, 1, 2),
        (backbone_of, 1, 2),
        (hooked, 1, 2),
        (lambda v: stats.uniform(0, v), 1, 2),
    ],
)
def test_values_are_told_apart_by_content(make, value, other):
    text = in_words(make(value))
    assert text == in_words(make(value)), "made anew, it is the same"
    assert text != in_words(make(other))
    assert " at 0x" not in text


def test_dicts_in_any_order_and_states_of_generators():
    assert in_words({1: "a", 2: "b"}) == in_words({2: "b", 1: "a"})
    rng = np.random.RandomState(0)
    before = in_words(rng)
    rng.random()
    assert in_words(rng) == before
    assert in_words("x at 0x7f") == "'x at 0x7f'"
    used = backbone_of(1)
    used.shapes(["bottleneck"])
    assert in_words(used) == in_words(backbone_of(1)), "what is cached is no part of it"


def told(X, estimator=None, searched=(), score_params=None, **fit_params):
    y, folds = np.arange(len(X)) % 2, [([0], [1])]
    passed = fit_params, score_params or {}
    return identity(estimator or SVC(), searched, X, y, folds, plain_scorer, *passed, {})


def test_pictures_are_told_apart_by_what_is_cheap():
    paths = ["a.png", "b.png"]
    same = told(paths)["X"]
    for alike in (np.array(paths), pd.Series(paths), np.array(["a.png", "b.png"], "<U9")):
        assert told(alike)["X"] == same
    assert told([Path("a.png"), Path("b.png")])["X"] == same
    assert told(["a.png", "c.png"])["X"] != same
    lists = [np.zeros((2, 2)), np.zeros((2, 3))]
    assert told(lists)["X"] == told([array.copy() for array in lists])["X"]
    assert told(lists)["X"] != told([lists[0], lists[1] + 1])["X"]
    assert told(np.zeros((2, 3)))["X"] == told(np.zeros((2, 3), order="F"))["X"]
    assert told(pd.DataFrame({"a": [1, 2]}))["X"] != told(pd.DataFrame({"a": [1, 3]}))["X"]
    assert told(as_images(paths))["X"] == "2 samples in ImageCollection"


def test_parameters_that_are_searched_or_do_not_matter_are_left_out():
    model = Pipeline([("scale", StandardScaler()), ("clf", SVC(class_weight={0: 1}))])
    parts = told(X, model, {"clf__C"}, sample_weight=np.ones(3))
    assert parts["estimator's clf__class_weight"] == "{0: 1}"
    assert parts["estimator's steps"] == "[['scale', StandardScaler], ['clf', SVC]]"
    assert parts["fit's sample_weight"].startswith("array of shape (3,)")
    assert parts["scoring"].endswith("plain_scorer")
    assert not {"estimator's clf__C", "estimator's memory"} & set(parts)
    model.set_params(clf__C=7, memory="cache")
    assert told(X, model, {"clf__C"}, sample_weight=np.ones(3)) == parts
    model.set_params(clf__class_weight={0: 100})
    assert told(X, model, {"clf__C"})["estimator's clf__class_weight"] == "{0: 100}"
    before = told(X, CNNClassifier(phases=[("a", Phase())]), {"phases__a__lr"})
    after = told(X, CNNClassifier(phases=[("a", Phase(lr=0.9))]), {"phases__a__lr"})
    assert before == after
    weighted = told(X, score_params={"sample_weight": np.ones(3)})
    assert weighted["scorer's sample_weight"].startswith("array of shape (3,)")
    many = told(X, SVC(class_weight={i: i for i in range(200)}))["estimator's class_weight"]
    assert len(many) < 150


def test_studies_that_are_there_already(tmp_path):
    url = f"sqlite:///{tmp_path}/trials.db"
    search(storage=url, n_trials=1).fit(X, Y)
    with pytest.raises(ParameterError, match="a study 'search' with 1 trials: pass resume=True"):
        search(storage=url, resume=False).fit(X, Y)
    optuna.create_study(study_name="down", storage=url, direction="minimize")
    with pytest.raises(ParameterError, match="'down' minimises"):
        search(storage=url, study_name="down").fit(X, Y)
    theirs = optuna.create_study(study_name="theirs", storage=url, direction="maximize")
    theirs.enqueue_trial({"n_neighbors": 3, "weights": "uniform"})
    found = search(storage=url, study_name="theirs", n_trials=2).fit(X, Y)
    assert found.trials_["param_n_neighbors"][0] == 3, "what was enqueued comes first"
    foreign = optuna.create_study(study_name="foreign", storage=url, direction="maximize")
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(ParameterError, match="not made by OptunaSearch"):
        search(storage=url, study_name="foreign").fit(X, Y)


def test_a_study_goes_on_only_within_its_space(tmp_path):
    storage = tmp_path / "journal.log"

    def found(**space):
        return search(space=space, storage=storage, n_trials=3).fit(X, Y)

    found(n_neighbors=(10, 20), weights=["uniform", "distance"])
    wider = found(n_neighbors=(1, 40), weights=["uniform", "distance"])
    assert len(wider.trials_) == 3
    with pytest.raises(ParameterError, match=r"n_neighbors was 1.*outside of .*high=5.*widened"):
        found(n_neighbors=(1, 5), weights=["uniform", "distance"])
    with pytest.raises(ParameterError, match=r"weights was drawn from .*pass another study_name"):
        found(n_neighbors=(1, 40), weights=["uniform"])
    with pytest.raises(ParameterError, match=r"n_neighbors was drawn from Int.*from Float"):
        found(n_neighbors=(1.0, 40.0), weights=["uniform", "distance"])


def test_quantiles_of_another_distribution_are_another_search(tmp_path):
    storage = tmp_path / "journal.log"

    def found(scale):
        space = {"var_smoothing": stats.expon(scale=scale)}
        return search(GaussianNB(), space, n_trials=1, storage=storage).fit(X, Y)

    found(0.1)
    with pytest.raises(
        ParameterError, match=r"var_smoothing was [\d.]+ in trial 0, and would now be"
    ):
        found(0.2)


def odd_neighbors(trial):
    return {"n_neighbors": 2 * trial.suggest_int("k", 0, 10) + 1}


def many_neighbors(trial):
    return {"n_neighbors": trial.suggest_int("k", 0, 10) + 100}


def other_neighbors(trial):
    return {"n_neighbors": trial.suggest_int("n", 1, 10)}


def test_draws_that_stand_for_something_else_are_another_space(tmp_path):
    def found(space, n_trials, **parameters):
        parameters = {"n_trials": n_trials, "storage": tmp_path / "journal.log", **parameters}
        return search(KNeighborsClassifier(), space, **parameters).fit(X, Y)

    found(odd_neighbors, 2)
    again = found(odd_neighbors, 3)
    assert len(again.trials_) == 3
    with pytest.raises(ParameterError, match=r"n_neighbors was \d+ in trial 0, .* now be 1\d\d"):
        found(many_neighbors, 4)
    with pytest.raises(ParameterError, match="of which it makes nothing now"):
        found(other_neighbors, 4)
    metrics = [lambda a, b: abs(a - b).sum(), lambda a, b: abs(a - b).max()]
    by_choice = {"space": {"metric": metrics}, "storage": tmp_path / "choices.log"}
    found(n_trials=2, **by_choice)
    found(n_trials=2, **by_choice)
    with pytest.raises(ParameterError, match=r"metric was .*<lambda>.* in trial 0, and would now"):
        found({"metric": metrics[::-1]}, 3, storage=tmp_path / "choices.log")


def test_lambdas_are_told_apart_by_what_they_do():
    def shift(by):
        return lambda x, scale=1: [x * scale + by for _ in range(2)]

    def recursive():
        factorial = lambda n: 1 if n < 2 else n * factorial(n - 1)  # noqa: E731
        return factorial

    assert in_words(recursive()) == in_words(recursive())
    told = [in_words(f) for f in (shift(1), shift(1), shift(2), lambda x: x, lambda x: -x)]
    assert told[0] == told[1]
    assert len(set(told)) == 4


@pytest.mark.parametrize("now", [{"prune_by": "epoch"}, {"error_score": 0}])
def test_scores_that_mean_something_else_are_another_search(tmp_path, now):
    model = CNNClassifier("lenet", weights=None, image_size=28, store=None, random_state=0)
    model.set_params(phases=[("train", Phase("all", 1))], validation=0.3)
    images = np.repeat((X[:20] * 15).astype(np.uint8).reshape(-1, 8, 8), 4, axis=1)

    def found(**parameters):
        parameters = {"storage": tmp_path / "journal.log", "n_trials": 1, "cv": 2, **parameters}
        space = {"phases__train__lr": (0.001, 0.01)}
        return OptunaSearch(model, space, **parameters).fit(images, Y[:20] % 2)

    found(prune_by="fold")
    found(prune_by=None)
    with pytest.raises(ParameterError, match=rf"{next(iter(now))}: .* then, .* now"):
        found(**now)


class Interrupted(KNeighborsClassifier):
    """Stops the work once, in the midst of a trial."""

    fits = 0

    def fit(self, X, y):
        type(self).fits += 1
        if type(self).fits == 8:
            raise KeyboardInterrupt
        return super().fit(X, y)


def in_grid(seed):
    grid = {"n_neighbors": list(range(1, 7)), "weights": ["uniform"]}
    return optuna.samplers.GridSampler(grid, seed=seed)


@pytest.mark.parametrize("sampler", [None, optuna.samplers.RandomSampler, in_grid])
def test_the_candidate_of_an_interrupted_trial_is_drawn_again(tmp_path, sampler):
    def found(model, **parameters):
        parameters = {"cv": 3, "n_trials": 6, "prune_by": None, "sampler": sampler, **parameters}
        in_pairs = sampler is not in_grid
        space = {
            "n_neighbors": (1, 50) if in_pairs else list(range(1, 7)),
            "weights": ["uniform", "distance"] if in_pairs else ["uniform"],
        }
        return OptunaSearch(model, space, random_state=0, **parameters).fit(X, Y)

    Interrupted.fits = 0
    with pytest.raises(KeyboardInterrupt):
        found(Interrupted(), storage=tmp_path / "journal.log")
    resumed = found(Interrupted(), storage=tmp_path / "journal.log").trials_
    assert resumed["state"].tolist() == 2 * ["COMPLETE"] + ["FAIL"] + 4 * ["COMPLETE"]
    columns = ["mean_test_score", "param_n_neighbors", "param_weights"]
    whole = found(KNeighborsClassifier()).trials_[columns]
    complete = resumed.loc[resumed["state"] == "COMPLETE", columns].reset_index(drop=True)
    if sampler is in_grid:  # whose order is its own affair
        assert sorted(complete["param_n_neighbors"]) == list(range(1, 7))
    else:
        pd.testing.assert_frame_equal(complete, whole)


def test_seeds_are_never_used_twice():
    sampler = SeededByTrial(optuna.samplers.RandomSampler, 0)
    study = optuna.create_study(sampler=sampler)

    def drawn():
        trial = study.ask()
        return trial, trial.suggest_float("x", 0, 1)

    (first, one), (second, two) = drawn(), drawn()
    first.set_user_attr("params", {"x": one})
    study.tell(first, state=optuna.trial.TrialState.FAIL)
    study.tell(second, 1.0)
    repeat_interrupted(study)
    repeat_interrupted(study)
    again, others = drawn()[1], [drawn()[1] for _ in range(3)]
    assert again == one
    assert len({one, two, *others}) == 5
    plain = optuna.create_study(sampler=SeededByTrial(optuna.samplers.RandomSampler, 0))
    assert [one, two, *others] == [plain.ask().suggest_float("x", 0, 1) for _ in range(5)]


def test_what_raises_an_error_is_not_tried_for_ever(tmp_path):
    space = {"C": (-2.0, -1.0)}  # wrong below 0
    storage = tmp_path / "journal.log"
    for _ in range(4):
        with pytest.raises(ValueError, match="C"):
            search(
                LogisticRegression(), space, n_trials=1, storage=storage, error_score="raise"
            ).fit(X, Y)
    study = optuna.load_study(study_name="search", storage=open_storage(storage))
    values = [trial.params["C"] for trial in study.trials]
    assert len(set(values)) == len(values) == 4


def test_a_function_of_the_number_of_the_trial_goes_on(tmp_path):
    def by_number(trial):
        return {"n_neighbors": trial.number + 1, "p": trial.suggest_int("p", 1, 2)}

    for n_trials in (2, 4):
        found = search(
            KNeighborsClassifier(), by_number, n_trials=n_trials, storage=tmp_path / "t.log"
        ).fit(X, Y)
    assert found.trials_["param_n_neighbors"].tolist() == [1, 2, 3, 4]
    assert found.best_params_["n_neighbors"] == found.best_index_ + 1


@pytest.mark.filterwarnings("ignore:BruteForceSampler is experimental")
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_sampler_that_has_gone_through_all_ends_the_search(n_jobs):
    grid = {"n_neighbors": [1, 3], "weights": ["uniform", "distance"]}
    for sampler in (optuna.samplers.GridSampler(grid, seed=0), optuna.samplers.BruteForceSampler):
        parameters = {"n_trials": 20, "sampler": sampler, "prune_by": None, "n_jobs": n_jobs}
        found = search(KNeighborsClassifier(), grid, **parameters).fit(X, Y)
        assert 4 <= len(found.trials_) < (5 if n_jobs == 1 else 20)  # others may be under way
        assert len(found.trials_[["param_n_neighbors", "param_weights"]].drop_duplicates()) == 4


def test_pruned_trials_of_a_function_have_the_same_columns():
    found = search(KNeighborsClassifier(), odd_neighbors, n_trials=14, cv=5).fit(X, Y)
    assert "PRUNED" in set(found.trials_["state"])
    assert not any(name == "param_k" for name in found.trials_)
    assert (found.trials_["param_n_neighbors"] % 2 == 1).all()


def test_a_range_of_layers_is_warmed():
    images = np.random.default_rng(0).integers(0, 256, (12, 40, 40, 3), dtype=np.uint8)
    model = Pipeline([("feat", CNNFeatures(image_size=32)), ("clf", GaussianNB())])
    model.set_params(feat__store="memory")
    found = search(model, {"feat__layer": (-3, -1)}, n_trials=3, cv=2).fit(
        images, np.arange(12) % 2
    )
    assert set(found.trials_["param_feat__layer"]) <= {-3, -2, -1}


def test_workers_share_the_trials(tmp_path):
    # Processes that are left from tests that loaded less: loky takes growth for a leak.
    get_reusable_executor().shutdown(wait=True)
    parameters = {"sampler": optuna.samplers.RandomSampler, "prune_by": None, "n_trials": 4}
    alone = search(**parameters).fit(X, Y)
    together = search(**parameters, n_jobs=2).fit(X, Y)
    same(alone, together)  # random draws depend on the number of the trial alone
    assert together.study_.best_value == together.best_score_
    assert len(pickle.loads(pickle.dumps(together)).study_.trials) == 4
    in_file = search(**parameters, n_jobs=2, storage=tmp_path / "trials.db").fit(X, Y)
    same(alone, in_file)


def test_a_grid_is_visited_point_by_point(tmp_path):
    grid = {"n_neighbors": [1, 3, 5, 7], "weights": ["uniform", "distance"]}
    parameters = {"sampler": functools.partial(optuna.samplers.GridSampler, grid), "n_trials": 8}
    whole = search(**parameters).fit(X, Y)
    points = zip(whole.trials_["param_n_neighbors"], whole.trials_["param_weights"], strict=True)
    assert len(set(points)) == 8
    parameters["storage"] = tmp_path / "journal.log"
    search(**{**parameters, "n_trials": 3}).fit(X, Y)
    same(whole, search(**parameters).fit(X, Y))


@pytest.mark.filterwarnings("ignore:QMCSampler is experimental")
def test_a_scrambled_sequence_stays_one(tmp_path):
    make = functools.partial(optuna.samplers.QMCSampler, scramble=True)
    parameters = {"sampler": make, "n_trials": 17, "cv": 2, "prune_by": None, "refit": False}
    whole = search(Fails(), {"a": (0.0, 1.0)}, **parameters).fit(X, Y)
    places = np.floor(16 * whole.trials_["param_a"][1:])  # the first is drawn on its own
    assert sorted(places) == list(range(16)), "one in each sixteenth"
    parameters["storage"] = tmp_path / "journal.log"
    search(Fails(), {"a": (0.0, 1.0)}, **{**parameters, "n_trials": 5}).fit(X, Y)
    same(whole, search(Fails(), {"a": (0.0, 1.0)}, **parameters).fit(X, Y))


def test_a_sampler_that_is_made_already():
    grid = optuna.samplers.GridSampler({"n_neighbors": [1, 5], "weights": ["uniform"]}, seed=0)
    found = search(sampler=grid, n_trials=2, prune_by=None).fit(X, Y)
    assert sorted(found.trials_["param_n_neighbors"]) == [1, 5]
    own = optuna.samplers.RandomSampler(seed=3)
    state = pickle.dumps(own)
    search(sampler=own, n_trials=2).fit(X, Y)
    assert pickle.dumps(own) == state, "a parameter was changed"


def test_timeout():
    found = search(n_trials=None, timeout=0.5).fit(X, Y)
    assert len(found.trials_) >= 1
    total = found.study_.trials[-1].datetime_complete - found.study_.trials[0].datetime_start
    assert total.total_seconds() < 3


# ---- pruning ------------------------------------------------------------------------------------


def test_pruning_by_fold():
    """The median of five good trials prunes a bad one after its first fold."""
    values = [3.0, 3.1, 3.2, 3.3, 3.4, 1.0, 4.0]

    def space(trial):
        index = trial.suggest_int("index", 0, 6)
        return {"a": values[index]}

    grid = Ordered({"index": list(range(7))})
    found = search(Fails(), space, sampler=grid, n_trials=7).fit(X, Y)
    assert found.trials_["state"].tolist() == 5 * ["COMPLETE"] + ["PRUNED", "COMPLETE"]
    pruned = found.trials_.iloc[5]
    assert pruned["split0_test_score"] == 1.0
    assert np.isnan(pruned["split1_test_score"])
    assert pd.isna(pruned["rank_test_score"])
    assert found.best_score_ == 4.0
    assert found.best_params_ == {"a": 4.0}
    assert found.study_.trials[0].intermediate_values == {0: 3.0, 1: 3.0, 2: 3.0}
    whole = search(Fails(), space, sampler=grid, n_trials=7, prune_by=None).fit(X, Y)
    assert whole.trials_["state"].eq("COMPLETE").all()
    never = search(
        Fails(), space, sampler=grid, n_trials=7, pruner=optuna.pruners.ThresholdPruner(lower=0.5)
    )
    assert never.fit(X, Y).trials_["state"].eq("COMPLETE").all()


class Ordered(optuna.samplers.RandomSampler):
    """Takes the values of each parameter in order."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def sample_independent(self, study, trial, param_name, param_distribution):
        return self.values[param_name][trial.number]


def network(**parameters):
    phases = [("train", Phase("all", 4, optimizer="adam"))]
    return CNNClassifier("lenet", weights=None, image_shape=(8, 8), image_size=28, random_state=0,
                         **{"phases": phases, "validation": 0.25, **parameters})  # fmt: skip


PIXELS = (X * 15.9).astype(np.uint8)


def test_pruning_by_epoch():
    pixels, labels = PIXELS[:90], Y[:90]
    space = {"phases__train__lr": [0.001, 0.003, 1e-7]}
    order = Ordered(space)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1)
    parameters = {"cv": 2, "n_trials": 3, "sampler": order, "pruner": pruner}
    found = search(network(), space, prune_by="epoch", **parameters).fit(pixels, labels)
    assert found.trials_["state"].tolist() == ["COMPLETE", "COMPLETE", "PRUNED"]
    first, _, last = found.study_.trials
    assert list(first.intermediate_values) == list(range(8)), "a step an epoch, over both folds"
    assert max(last.intermediate_values) == 1, "pruned where it may be first"
    # What is reported is what the network's own history says.
    fold = next(StratifiedKFold(2).split(pixels, labels))[0]
    model = network().set_params(phases__train__lr=0.001).fit(pixels[fold], labels[fold])
    best = model.history_["valid_top1"].cummax()
    np.testing.assert_allclose([first.intermediate_values[i] for i in range(4)], best)
    # After it, the mean over the folds so far.
    later = [first.intermediate_values[i] for i in range(4, 8)]
    assert later == sorted(later)
    assert later[0] >= best.iloc[-1] / 2
    plain = search(network(), space, prune_by=None, **parameters).fit(pixels, labels)
    np.testing.assert_array_equal(
        plain.trials_["mean_test_score"][:2], found.trials_["mean_test_score"][:2]
    )
    assert found.best_estimator_.callbacks is None


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (lambda model: model.set_params(refit=True), ""),
        (lambda model: CalibratedClassifierCV(model, cv=2), "estimator__"),
        (lambda model: StackingClassifier([("net", model)], cv=2), "net__"),
    ],
)
def test_pruning_by_epoch_reports_the_first_of_several_fits(wrap, name):
    model = wrap(network(phases=[("train", Phase("all", 2, optimizer="adam"))]))
    parameters = {"cv": 2, "n_trials": 1, "prune_by": "epoch", "refit": False}
    found = search(model, {f"{name}phases__train__lr": [0.003]}, **parameters)
    found.fit(PIXELS[:60], Y[:60])
    assert list(found.study_.trials[0].intermediate_values) == list(range(4))


def test_a_second_fit_with_more_epochs_is_not_reported():
    trial = optuna.create_study().ask()
    callback = EpochPruning(trial, 0, [])
    for scores in ([0.5], [0.9, 0.9]):
        net = SimpleNamespace(history=[])
        for score in scores:
            callback.on_epoch_begin(net)
            net.history.append({"valid_top1": score})
        callback.on_train_end(net)
    assert trial.study.trials[0].intermediate_values == {0: 0.5}
    assert trial.user_attrs["best_epochs"] == [0.5]


def test_pruning_by_epoch_needs_epochs():
    with pytest.raises(ParameterError, match="KNeighborsClassifier has 0"):
        search(prune_by="epoch").fit(X, Y)
    with pytest.raises(ParameterError, match="validation=None: give it a share"):
        search(network(validation=None), {"dropout": (0.0, 0.5)}, prune_by="epoch").fit(PIXELS, Y)


# ---- failures -----------------------------------------------------------------------------------


def test_failures():
    space = {"a": [1.0, 9.0, 2.0]}
    order = Ordered(space)
    parameters = {"sampler": order, "n_trials": 3, "prune_by": None}
    with pytest.warns(FitFailedWarning, match="1 of 3 trials failed.*ArithmeticError: too large"):
        found = search(Fails(), space, **parameters).fit(X, Y)
    assert found.trials_["state"].tolist() == ["COMPLETE", "FAIL", "COMPLETE"]
    assert found.trials_["error"][1] == "ArithmeticError: too large"
    assert found.best_params_ == {"a": 2.0}
    with pytest.warns(FitFailedWarning):
        found = search(Fails(), space, **parameters, error_score=-1.0).fit(X, Y)
    assert found.trials_["mean_test_score"].tolist() == [1.0, -1.0, 2.0]
    with pytest.raises(ArithmeticError):
        search(Fails(), space, **parameters, error_score="raise").fit(X, Y)
    with pytest.raises(ValueError, match=r"none of the 2 trials was completed.*too large"):
        search(Fails(), {"a": (6.0, 9.0)}, n_trials=2).fit(X, Y)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_trials": 0}, "n_trials must be an integer of at least 1"),
        ({"n_trials": None}, "n_trials must be a number where there is no timeout"),
        ({"timeout": -1}, "timeout must be seconds above 0"),
        ({"prune_by": "folds"}, "Did you mean 'fold'"),
        ({"scoring": ["accuracy"]}, "scoring must be one scorer"),
        ({"error_score": "nan"}, "error_score must be one of 'raise'"),
        ({"space": {}}, "space must be a dict"),
        ({"space": {"n_neighbours": (1, 5)}}, "Did you mean 'n_neighbors'"),
        ({"space": {"n_neighbors": (5, 1)}}, "low below high"),
        ({"space": {"n_neighbors": (0, 5, "log")}}, "low above 0 and below high"),
        ({"space": {"n_neighbors": (1, 3, 5)}}, "choices are a list"),
        ({"space": {"n_neighbors": 5}}, "must be a list of choices"),
        ({"space": {"n_neighbors": []}}, "must be a list of choices"),
        ({"storage": "/no/such/folder/j.log"}, "there is no folder '/no/such/folder'"),
        ({"storage": optuna.storages.InMemoryStorage(), "n_jobs": 2}, "cannot share a storage"),
        ({"storage": 5}, "storage must be a path"),
        (
            {"storage": "foo://me:secret@host"},
            r"storage 'foo://...' cannot be opened \((?!.*secret)",
        ),
        ({"pruner": "median"}, "pruner must be a pruner of Optuna"),
        ({"pruner": optuna.pruners.MedianPruner}, "made already"),
        ({"sampler": "tpe"}, "sampler must be a sampler of Optuna"),
        ({"sampler": optuna.samplers.GridSampler}, "makes one from a seed"),
        ({"sampler": lambda seed: seed}, "sampler must make a sampler of Optuna; it made"),
        ({"space": {"n_neighbors": (1.0, np.inf)}}, "must have finite ends"),
        ({"space": {"n_neighbors": (-np.inf, 1.0)}}, "must have finite ends"),
        ({"n_jobs": "2"}, "n_jobs must be"),
        ({"refit": lambda results: 0}, "refit must be True or False"),
        ({"refit": "C"}, "refit must be True or False"),
        ({"resume": "n"}, "resume must be True or False"),
        ({"resume": None}, "resume must be True or False"),
        ({"error_score": []}, "error_score must be 'raise', a number or None"),
        ({"study_name": None}, "study_name must be a name"),
        ({"scoring": lambda estimator, X, y: {"a": 1.0}}, "scoring must give one number"),
    ],
)
def test_wrong_parameters(parameters, message):
    with pytest.raises(ParameterError, match=message):
        search(**parameters).fit(X, Y)


def test_files_that_are_no_storage(tmp_path):
    for name in ("notes.txt", "trials.db"):
        (tmp_path / name).write_text("no trials\n" * 20)
        with pytest.raises(ParameterError, match=rf"{name}' cannot be opened \(.*; pass another"):
            search(storage=tmp_path / name).fit(X, Y)
    with pytest.raises(ParameterError, match="is a folder; pass a file in it"):
        search(storage=tmp_path).fit(X, Y)


def test_a_storage_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    search(storage="~/trials.log", n_trials=1).fit(X, Y)
    assert (tmp_path / "trials.log").exists()


def test_importing_loads_neither_optuna_nor_torch():
    heavy = {"optuna", "torch", "matplotlib"}
    code = f"import sys, sktl.model_selection; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_optuna_logs_as_loudly_as_before(capsys):
    before = optuna.logging.get_verbosity()
    search(n_trials=2).fit(X, Y)
    assert optuna.logging.get_verbosity() == before
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""


# ---- spaces -------------------------------------------------------------------------------------


def drawn(dimension, n=60):
    found = search(Fails(), {"a": dimension}, n_trials=n, cv=[(range(75), range(75, 150))],
                   sampler=optuna.samplers.RandomSampler, refit=False, prune_by=None)  # fmt: skip
    return found.fit(X, Y).trials_["param_a"].to_numpy()


@pytest.mark.parametrize(
    ("dimension", "kind", "low", "high", "median"),
    [
        ((-2.0, 4.0), "f", -2, 4, 1),
        ((1, 3), "i", 1, 3, 2),
        ((1e-6, 1.0, "log"), "f", 1e-6, 1, 1e-3),
        (stats.uniform(-2, 4), "f", -2, 2, 0),
        (stats.randint(1, 4), "i", 1, 3, 2),
        (stats.loguniform(1e-6, 1.0), "f", 1e-6, 1, 1e-3),
        (stats.norm(-3, 0.5), "f", -6, 0, -3),
        (stats.loguniform(1e-6, 1.0, loc=1), "f", 1, 2, 1.001),
        (stats.binom(4, 0.5), "i", 0, 4, 2),
        (optuna.distributions.FloatDistribution(0, 1, step=0.25), "f", 0, 1, 0.5),
        (optuna.distributions.IntDistribution(2, 4, step=2), "i", 2, 4, None),
        (np.array([0.5, 1.5]), "f", 0.5, 1.5, None),
    ],
)
def test_dimensions(dimension, kind, low, high, median):
    values = drawn(dimension)
    assert values.dtype.kind == kind
    assert low <= values.min() < values.max() <= high
    centre = np.median(values)
    if median is None:
        assert set(values) == {low, high}
    elif median == 1e-3:
        assert 1e-5 < centre < 1e-1
    else:
        assert abs(centre - median) <= 0.3 * (high - low)


def test_choices_of_any_kind(tmp_path):
    model = Pipeline([("scale", StandardScaler()), ("clf", KNeighborsClassifier())])
    scalers = [StandardScaler(), MinMaxScaler(), MinMaxScaler(), None, "passthrough"]
    classifiers = [KNeighborsClassifier(), GaussianNB()]
    space = {"scale": scalers, "clf": classifiers}
    parameters = {"n_trials": 8, "storage": tmp_path / "j.log", "prune_by": None}
    found = search(model, space, **parameters).fit(X, Y)
    kinds = {type(value) for value in found.trials_["param_clf"]}
    assert kinds == {KNeighborsClassifier, GaussianNB}
    assert all(not hasattr(c, "classes_") for c in classifiers), "a choice was fitted"
    assert isinstance(found.best_estimator_["clf"], type(found.best_params_["clf"]))
    again = search(model, space, **parameters).fit(X, Y)
    assert repr(again.best_params_) == repr(found.best_params_)


def test_a_space_in_which_one_choice_depends_on_another():
    model = Pipeline([("clf", KNeighborsClassifier())])

    def space(trial):
        if trial.suggest_categorical("kind", ["bayes", "knn"]) == "bayes":
            return {"clf": GaussianNB()}
        return {"clf": KNeighborsClassifier(), "clf__n_neighbors": trial.suggest_int("k", 1, 9)}

    found = search(model, space, n_trials=8, prune_by=None).fit(X, Y)
    assert {"param_clf", "param_clf__n_neighbors"} <= set(found.trials_)
    of_bayes = [isinstance(value, GaussianNB) for value in found.trials_["param_clf"]]
    assert found.trials_["param_clf__n_neighbors"].isna().tolist() == of_bayes
    assert any(of_bayes)
    assert not all(of_bayes)


def test_spaces_that_are_ready_made():
    model = Pipeline([("feat", CNNFeatures()), ("clf", LogisticRegression())])
    assert set(frozen_space()) <= set(model.get_params())
    assert set(fine_tuning_space()) <= set(CNNClassifier().get_params())
    scratch = fine_tuning_space(from_scratch=True)
    assert set(scratch) <= set(CNNClassifier(weights=None).get_params())
    assert "phases__mine__lr" in fine_tuning_space(phase="mine", from_scratch=True)
    inside = Pipeline([("net", CNNClassifier())])
    assert set(fine_tuning_space(prefix="net__")) <= set(inside.get_params())
    renamed = frozen_space(features="f", classifier="svm", layers=[["a", "b"]])
    assert renamed["f__layer"] == [["a", "b"]]
    assert "svm__C" in renamed


# ---- features -----------------------------------------------------------------------------------


@pytest.fixture
def forwarded(monkeypatch):
    """Sizes of the batches that went through feature networks; those of 1 are probes."""
    batches = []
    forward = FeatureNetwork.forward

    def count(self, x, *args, **kwargs):
        batches.append(len(x))
        return forward(self, x, *args, **kwargs)

    monkeypatch.setattr(FeatureNetwork, "forward", count)
    return batches


@pytest.fixture
def of_features(tmp_path):
    """A search over layers and C, its data, and the store."""
    net = nn.Sequential(nn.Conv2d(3, 4, 5, 2), nn.ReLU(), nn.Conv2d(4, 6, 3, 2), nn.ReLU())
    tiny = Backbone(net, preprocessing=Preprocessing(size=32, resize=32), name="tiny")
    store = FeatureStore(tmp_path / "features.sqlite")
    classifier = LogisticRegression(max_iter=500, tol=0.1)
    model = Pipeline([("feat", CNNFeatures(tiny, store=store)), ("clf", classifier)])
    pictures = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(40) % 2
    pictures[labels == 1] //= 2
    space = {"feat__layer": ["1", "3", ["1", "3"]], "clf__C": (1e-3, 1.0, "log")}
    random = optuna.samplers.RandomSampler
    model = search(model, space, n_trials=5, cv=2, prune_by=None, sampler=random)
    return model, (pictures, labels), store


def test_no_picture_is_forwarded_twice(of_features, forwarded):
    model, data, store = of_features
    found = model.fit(*data)
    # One or two at once are for shapes.
    assert sum(n for n in forwarded if n > 2) == 40, "one pass for both layers"
    assert store.info()["rows"].tolist() == [40, 40]
    assert len(found.trials_["param_feat__layer"].map(str).unique()) > 1


def test_layers_are_put_into_the_store_before_several_workers_begin(of_features, forwarded):
    model, (pictures, _), store = of_features
    pipeline = clone(model.estimator).set_params(feat__layer="1")
    space = named_space({"clf__C": (1e-3, 1.0)}, pipeline)
    _warm(pipeline, space, pictures, n_workers=1)
    assert sum(forwarded) == 0
    _warm(pipeline, space, pictures, n_workers=2)
    assert store.info()["rows"].tolist() == [40]


def test_real_pictures(shared_data):
    folder = shared_data / "flowers"
    names = ["daisy", "roses", "tulips"]
    files = [sorted((folder / name).glob("*.jpg"))[:10] for name in names]
    paths = np.array([os.fspath(path) for of_class in files for path in of_class])
    labels = np.repeat(names, 10)
    model = Pipeline(
        [("feat", CNNFeatures()), ("clf", LogisticRegression(max_iter=2000, tol=0.01))]
    )
    space = {"clf__C": (1e-4, 1.0, "log")}
    found = search(model, space, n_trials=4, cv=KFold(3, shuffle=True, random_state=0))
    assert found.fit(paths, labels).best_score_ > 0.7
    assert set(found.predict(paths)) == set(names)
