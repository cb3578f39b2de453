"""diagnose: errors, steps and the advice for each of the four causes."""

import matplotlib as mpl
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from sktl import make_top_k_scorer
from sktl.exceptions import ParameterError
from sktl.model_selection import DiagnosisDisplay, diagnose

mpl.use("Agg")
X, Y = load_digits(return_X_y=True)
TRAIN, TRAIN_VALID, VALID, TEST = (
    (X[start::4], Y[start::4]) for start in range(4)
)  # fmt: skip
NAMES = ["training", "training-validation", "validation", "test"]


def display(*errors, n=1000, **parameters):
    return DiagnosisDisplay(
        dict(zip(NAMES, errors, strict=True)), dict.fromkeys(NAMES, n), **parameters
    )


def test_errors_and_steps():
    model = KNeighborsClassifier(30).fit(*TRAIN)
    found = diagnose(model, TRAIN, TRAIN_VALID, VALID, TEST, reachable=np.float32(0.01))
    frame = found.frame
    assert frame.index.tolist() == NAMES
    errors = [1 - model.score(*part) for part in (TRAIN, TRAIN_VALID, VALID, TEST)]
    np.testing.assert_allclose(frame["error"], errors)
    np.testing.assert_allclose(frame["step"].cumsum(), np.array(errors) - 0.01)
    assert frame["n_samples"].tolist() == [len(part[1]) for part in
                                           (TRAIN, TRAIN_VALID, VALID, TEST)]  # fmt: skip
    n = len(TRAIN_VALID[1])
    e = (errors[1] * n + 1) / (n + 2)  # with one error and one success more
    assert frame["se"].iloc[1] == pytest.approx((e * (1 - e) / (n + 2)) ** 0.5)
    expected = (frame["se"].iloc[1] ** 2 + frame["se"].iloc[2] ** 2) ** 0.5
    assert frame["step_se"].iloc[2] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("errors", "cause", "remedy"),
    [
        ((0.20, 0.21, 0.22, 0.22), "bias", "a bigger model"),
        ((0.01, 0.15, 0.16, 0.16), "variance", "more data, augmentation"),
        ((0.01, 0.02, 0.15, 0.16), "data mismatch", "more like the validation data"),
        ((0.01, 0.02, 0.03, 0.20), "overfitting of the validation data", "more validation data"),
    ],
)
def test_the_largest_step_comes_first(errors, cause, remedy):
    first = display(*errors).advice.splitlines()[0]
    assert first.startswith("The largest step, ")
    assert cause in first
    assert remedy in first


def test_all_clear_steps_are_named_in_order():
    lines = display(0.1, 0.4, 0.6, 0.6).advice.splitlines()
    assert [line.split(" points")[0] for line in lines] == [
        "The largest step, 30.0", "The next, 20.0", "The next, 10.0",
    ]  # fmt: skip
    assert "from what is reachable to training:" in lines[2]


def test_steps_within_chance_are_not_named():
    assert display(0.01, 0.05, 0.05, 0.08, n=30).advice.startswith("No step is larger than twice")
    assert "from training to training-validation" in display(0.01, 0.05, 0.05, 0.08, n=3000).advice
    assert display(0.05, 0.05, 0.05, 0.05, reachable=0.05).advice.startswith("No step")


def test_a_larger_step_that_may_be_chance_is_not_passed_over():
    n_samples = dict(zip(NAMES, (10_000, 10_000, 10_000, 50), strict=True))
    errors = dict(zip(NAMES, (0.0, 0.0, 0.04, 0.11), strict=True))
    lines = DiagnosisDisplay(errors, n_samples).advice.splitlines()
    assert lines[0].startswith("The largest step that is more than chance, 4.0 points, is from")
    assert lines[1:] == [
        "The step of 7.0 points from validation to test is larger, but may be chance."
    ]


def test_without_training_validation_data_it_may_be_either():
    advice = diagnose(DecisionTreeClassifier(random_state=0), TRAIN, valid=VALID).advice
    assert "(variance), or the validation data are of another kind (data mismatch)" in advice
    assert "pass them as train_valid" in advice
    whole = diagnose(DecisionTreeClassifier(random_state=0), TRAIN, TRAIN_VALID, VALID)
    assert "train_valid" not in whole.advice


def test_a_fitted_model_is_used_as_it_is_and_another_is_cloned():
    model = DummyClassifier(strategy="constant", constant=3).fit(*TRAIN)
    assert diagnose(model, TRAIN, VALID).frame["error"].iloc[0] == np.mean(TRAIN[1] != 3)
    fresh = DecisionTreeClassifier()
    assert diagnose(fresh, TRAIN, VALID).frame["error"].iloc[0] == 0
    assert not hasattr(fresh, "classes_")


def test_scoring():
    model = DecisionTreeClassifier(max_depth=4, random_state=0).fit(*TRAIN)
    scorer = make_top_k_scorer(3)
    found = diagnose(model, TRAIN, valid=VALID, scoring=scorer)
    assert found.frame["error"].loc["validation"] == pytest.approx(1 - scorer(model, *VALID))
    with pytest.raises(ParameterError, match="a share between 0 and 1"):
        diagnose(model, TRAIN, valid=VALID, scoring="neg_log_loss")
    with pytest.raises(ParameterError, match="a share between 0 and 1"):
        diagnose(LinearRegression(), TRAIN, valid=(X[1::4], -1000 * Y[1::4]))


def test_wrong_arguments():
    model = DecisionTreeClassifier()
    with pytest.raises(ParameterError, match="something to be compared with"):
        diagnose(model, TRAIN)
    with pytest.raises(ParameterError, match=r"train must be a pair \(X, y\)"):
        diagnose(model, X, valid=VALID)
    with pytest.raises(ParameterError, match=r"scoring must be one scorer.*\['accuracy'\]"):
        diagnose(model, TRAIN, valid=VALID, scoring=["accuracy"])
    with pytest.raises(ParameterError, match=r"test must be a pair.*\n.*reachable"):
        diagnose(model, TRAIN, valid=VALID, test=X, reachable=1.5)
    with pytest.raises(ParameterError, match="in this order"):
        DiagnosisDisplay({"validation": 0.1, "training": 0.2}, {"validation": 1, "training": 1})
    with pytest.raises(ParameterError, match="shares from 0 to 1, of at least one sample"):
        DiagnosisDisplay({"training": 0.1, "validation": 1.2}, {"validation": 1, "training": 1})
    with pytest.raises(ParameterError, match="shares from 0 to 1, of at least one sample"):
        DiagnosisDisplay({"training": 0.1, "validation": 0.2}, {"validation": 0, "training": 1})


def test_very_few_pictures_tell_nothing_apart():
    errors = {"training": 0.0, "validation": 1.0}
    one = DiagnosisDisplay(errors, {"training": 1, "validation": 1})
    assert one.advice.startswith("No step is larger")
    assert DiagnosisDisplay(errors, {"training": 9, "validation": 9}).advice.startswith("The large")


def test_plot():
    found = display(0.05, 0.1, 0.08, 0.3, reachable=0.02)
    assert found.plot() is found
    heights = [patch.get_height() for patch in found.ax_.patches]
    np.testing.assert_allclose(heights[:4], [5, 10, 8, 30])
    np.testing.assert_allclose(heights[4:], [3, 5, 22])  # only rises
    assert found.ax_.get_ylabel() == "Error (%)"
    mpl.pyplot.close(found.figure_)
    _, ax = mpl.pyplot.subplots()
    assert found.plot(ax=ax).ax_ is ax
    mpl.pyplot.close(ax.figure)


def test_without_validation_data_they_are_not_to_blame():
    parts = {"training": 0.01, "test": 0.3}
    advice = DiagnosisDisplay(parts, dict.fromkeys(parts, 1000)).advice
    assert "by heart (variance), or the test data are of another kind" in advice
    parts = {"training": 0.01, "training-validation": 0.02, "test": 0.3}
    advice = DiagnosisDisplay(parts, dict.fromkeys(parts, 1000)).advice
    assert "the test data are of another kind" in advice
    assert "validation data" not in advice
