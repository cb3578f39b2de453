import pytest

from sktl.backbones import Preprocessing
from sktl.exceptions import ParameterError


@pytest.mark.parametrize(
    ("size", "resize", "other", "expected"),
    [
        (224, 256, 112, 128),
        (224, 232, 160, 166),
        (299, 342, 128, 146),
        (224, 224, 96, 96),
        (260, 292, 300, 337),
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
        ({"interpolation": "cubic"}, "nearest, bilinear, bicubic, .* got 'cubic'"),
    ],
)
def test_what_no_picture_can_be_made_into_is_named(parameters, words):
    with pytest.raises(ParameterError, match=words):
        Preprocessing(**parameters)
