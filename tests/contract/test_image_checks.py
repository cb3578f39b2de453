"""The image-estimator contract, run on every estimator there is."""

import pytest
from torch import nn

from sktl import CNNClassifier, CNNFeatures, Phase
from sktl.backbones import Backbone, Preprocessing
from sktl.utils.estimator_checks import (
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
