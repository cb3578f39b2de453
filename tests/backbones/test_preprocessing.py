import numpy as np
import pytest

from sktl.backbones import Preprocessing
from sktl.exceptions import ParameterError


@pytest.mark.parametrize(
    ("size", "resize", "other", "expected"),
    [
        (224, 256, 112, 128),
        (224, 232, 160, 165),
        (224, 256, 96, 109),
        (224, 256, 160, 182),
        (224, 256, 300, 342),
        (299, 342, 128, 146),
        (224, 224, 96, 96),
        (260, 292, 300, 336),
        (224, 225, 8, 8),
    ],
)
def test_the_crop_keeps_its_share_at_another_size(size, resize, other, expected):
    scaled = Preprocessing(size=size, resize=resize, interpolation="bicubic").at_size(other)
    assert scaled == Preprocessing(size=other, resize=expected, interpolation="bicubic")


def test_its_own_size_changes_nothing():
    preprocessing = Preprocessing(size=224, resize=230)
    assert preprocessing.at_size(None) is preprocessing
    assert preprocessing.at_size(224) is preprocessing


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"size": 300}, r"got size=300, resize=256.*at_size"),
        ({"size": 0}, "size must be a whole number from 1"),
        ({"size": 224.0}, "size must be a whole number"),
        ({"mean": 0.5}, "mean must be three finite numbers; got 0.5"),
        ({"mean": (0.5,)}, "mean must be three finite numbers"),
        ({"mean": (0, np.nan, 0)}, "mean must be three finite numbers"),
        ({"std": (0, 0.2, 0.2)}, "std must be three finite numbers above 0"),
        ({"std": "one"}, "std must be three finite numbers above 0; got 'one'"),
        ({"interpolation": "cubic"}, "nearest, bilinear, bicubic, .* got 'cubic'"),
    ],
)
def test_what_no_picture_can_be_made_into_is_named(parameters, words):
    with pytest.raises(ParameterError, match=words):
        Preprocessing(**parameters)


def test_lists_of_means_become_tuples():
    listed = Preprocessing(mean=[0.5, 0.5, 0.5], std=np.array([1, 1, 1]).tolist())
    assert listed == Preprocessing(mean=(0.5,) * 3, std=(1.0,) * 3)
    assert hash(listed)
