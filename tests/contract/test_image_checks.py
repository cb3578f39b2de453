"""The image-estimator contract, run on every estimator there is."""

import pytest
from torch import nn

from sktl import CNNClassifier, CNNFeatures, CPCFeatures, LinearProbe, Phase
from sktl.backbones import Backbone, Preprocessing
from sktl.exceptions import ParameterError
from sktl.utils.estimator_checks import (
    check_image_estimator,
    image_checks,
    parametrize_with_image_checks,
)

TINY = Backbone(
    nn.Sequential(nn.Conv2d(3, 6, 5, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 12, 3)),
    preprocessing=Preprocessing(size=32, resize=36),
    name="tiny",
)
ESTIMATORS = [
    CNNFeatures(image_size=64),
    CNNFeatures("resnet18", weights=None, image_size=32, layer=[-2, "bottleneck"], pooling="max"),
    CNNFeatures(TINY, pooling="flatten", precision="exact", crops="ten"),
]
CLASSIFIERS = [
    CNNClassifier(
        TINY,
        weights="default",
        pooling="flatten",
        phases=[
            ("warm_up", Phase("head", 15, optimizer="adam", lr=0.01)),
            ("fine_tune", Phase("all", 2, lr=1e-4)),
        ],
        validation=None,
        random_state=0,
    ),
    CNNClassifier(
        "lenet",
        weights=None,
        phases=[("train", Phase("all", 15, optimizer="adam", lr=0.005))],
        augment="light",
        random_state=0,
    ),
]


SELF_SUPERVISED = CPCFeatures(
    image_size=24, n_features=16, epochs=1, batch_size=16, directions=2, random_state=0
)


@parametrize_with_image_checks(ESTIMATORS)
def test_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_no_check_is_lost(estimator):
    assert len(list(image_checks(estimator))) == 25


@parametrize_with_image_checks(CLASSIFIERS)
def test_contract_of_classifiers(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=["fine-tuned", "from scratch"])
def test_no_check_of_classifiers_is_lost(estimator):
    assert len(list(image_checks(estimator))) == 19


@parametrize_with_image_checks([SELF_SUPERVISED])
def test_contract_of_self_supervised(estimator, check):
    check(estimator)


@parametrize_with_image_checks([LinearProbe(SELF_SUPERVISED)])
def test_contract_of_probes(estimator, check):
    check(estimator)


def test_no_check_of_self_supervised_is_lost():
    assert len(list(image_checks(SELF_SUPERVISED))) == 23
    assert len(list(image_checks(LinearProbe(SELF_SUPERVISED)))) == 15


def test_a_class_is_no_estimator():
    with pytest.raises(ParameterError, match=r"got the class. Pass CNNFeatures\(\.\.\.\)"):
        check_image_estimator(CNNFeatures)
