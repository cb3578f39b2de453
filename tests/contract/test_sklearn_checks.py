"""scikit-learn's own suite, with the number of its checks, which shrinks silently for pictures."""

import pytest
from sklearn.exceptions import SkipTestWarning
from sklearn.utils.estimator_checks import (
    check_estimator,
    estimator_checks_generator,
    parametrize_with_checks,
)
from torch import nn

from sktl import CNNFeatures
from sktl.backbones import Backbone, Preprocessing

TINY = Backbone(
    nn.Sequential(nn.Conv2d(3, 6, 5, 2), nn.ReLU(), nn.Conv2d(6, 12, 3)),
    preprocessing=Preprocessing(size=32, resize=36),
    name="tiny",
)
# Rows of pixels are the tables that scikit-learn feeds, in any number of columns and any range.
ROWS = CNNFeatures(TINY, image_shape=(1, -1), value_range=(-1e4, 1e4))


@parametrize_with_checks([ROWS])
def test_scikit_learn_check(estimator, check):
    check(estimator)


def test_no_check_is_lost():
    names = [check.func.__name__ for _, check in estimator_checks_generator(ROWS, mark=None)]
    assert len(names) >= 45
    # Those that say most about a transformer of a table.
    assert set(names) >= {
        "check_dict_unchanged",
        "check_dont_overwrite_parameters",
        "check_estimators_nan_inf",
        "check_estimators_pickle",
        "check_fit_idempotent",
        "check_methods_sample_order_invariance",
        "check_methods_subset_invariance",
        "check_n_features_in",
        "check_transformer_general",
        "check_transformers_unfitted_stateless",
    }


def test_nothing_is_skipped_but_what_needs_a_setting():
    """The array API check runs, and passes, only with SCIPY_ARRAY_API=1 in the environment."""
    results = check_estimator(ROWS, on_skip=None, on_fail=None)
    others = {result["check_name"]: result["status"] for result in results}
    others.pop("check_array_api_input", None)
    assert set(others.values()) == {"passed"}


def test_of_pictures_scikit_learn_checks_next_to_nothing():
    """And says so. What pictures need is in test_image_checks.py."""
    with pytest.warns(SkipTestWarning, match="Can't test estimator CNNFeatures"):
        results = check_estimator(CNNFeatures(TINY))
    assert [result["check_name"] for result in results] == ["check_estimator_cloneable"]
    assert results[0]["status"] == "passed"
