"""Parameters checked together, and names suggested."""

import numpy as np
import pytest

from sktl.exceptions import ParameterError
from sktl.utils._parameters import ParameterChecks, suggest


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("agv", ["avg", "max"], " Did you mean 'avg'?"),
        ("VGG19", ["resnet18", "vgg19"], " Did you mean 'vgg19'?"),
        ("background_google", ["BACKGROUND_Google"], " Did you mean 'BACKGROUND_Google'?"),
        ("resnet", ["resnet18", "resnet50", "vgg19"], " Did you mean 'resnet50' or 'resnet18'?"),
        ("zebra", ["avg", "max"], ""),
        ("avg", [], ""),
        (7, ["7", "x"], " Did you mean '7'?"),
    ],
)
def test_suggest(name, known, expected):
    assert suggest(name, known) == expected
    assert suggest(name, (k for k in known)) == expected


def test_no_more_suggestions_than_asked_for():
    known = [f"resnet{i}" for i in range(10)]
    assert suggest("resnet", known).count("resnet") == 3
    assert suggest("resnet", known, n=1).count("resnet") == 1


def message(fill):
    checks = ParameterChecks("Owner")
    fill(checks)
    with pytest.raises(ParameterError) as caught:
        checks.done()
    return str(caught.value)


def test_nothing_wrong_raises_nothing():
    checks = ParameterChecks("Owner")
    checks.choice("pooling", "avg", ("avg", "max"))
    checks.integer("batch_size", 1, minimum=1)
    checks.integer("size", None, minimum=1, optional=True)
    checks.that("layer", "a", True, "a name")
    checks.attempt(lambda: None)
    checks.done()
    assert checks.wrong == []


def test_one_culprit_is_one_line():
    line = message(lambda checks: checks.choice("pooling", "agv", ("avg", "max")))
    assert line == "Owner: pooling must be one of 'avg', 'max'; got 'agv'. Did you mean 'avg'?"


def test_all_culprits_are_listed_in_order():
    def fill(checks):
        checks.integer("size", 0, minimum=1, optional=True)
        checks.that("layer", [], False, "a name")
        checks.integer("fine", 3, minimum=1)
        checks.choice("pooling", 3, ("avg", "max"))

    assert message(fill).splitlines() == [
        "Owner has 3 wrong parameters:",
        "  size must be an integer of at least 1 or None; got 0.",
        "  layer must be a name; got [].",
        "  pooling must be one of 'avg', 'max'; got 3.",
    ]


@pytest.mark.parametrize("value", [1, 64, np.int64(1), np.uint8(1)])
def test_integers(value):
    checks = ParameterChecks("Owner")
    checks.integer("n", value, minimum=1)
    assert checks.wrong == []


@pytest.mark.parametrize(
    "value", [0, -1, np.int64(0), 1.0, "1", None, True, np.True_, [1], float("nan")]
)
def test_no_integers(value):
    checks = ParameterChecks("Owner")
    checks.integer("n", value, minimum=1)
    assert checks.wrong == [f"n must be an integer of at least 1; got {value!r}."]


@pytest.mark.parametrize("value", ["AVG", "", None, 1, ["avg"], np.array(["avg", "max"])])
def test_no_choice(value):
    checks = ParameterChecks("Owner")
    checks.choice("pooling", value, ("avg", "max"))
    assert len(checks.wrong) == 1
    assert f"got {value!r}." in checks.wrong[0]


def test_errors_of_other_checks_are_gathered_but_bugs_are_not():
    def refuse(value):
        raise ParameterError(f"device must exist; got {value!r}")

    def stumble():
        raise ValueError("a bug")

    line = message(lambda checks: checks.attempt(refuse, "gpu"))
    assert line == "Owner: device must exist; got 'gpu'"
    with pytest.raises(ValueError, match="a bug"):
        ParameterChecks("Owner").attempt(stumble)
