"""What estimators make of X: the same pictures in fit and afterwards."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.datasets import load_digits

from sktl.exceptions import ImageDecodeError, ImageFormatError
from sktl.images import ImageEstimatorMixin, as_images

DIGITS = load_digits().data


class Reader(ImageEstimatorMixin, BaseEstimator):
    def __init__(self, image_shape=None, value_range=None, background="white"):
        self.image_shape = image_shape
        self.value_range = value_range
        self.background = background

    def fit(self, X, y=None):
        self.images_ = self._read_images(X, reset=True)
        return self

    def read(self, X):
        return self._read_images(X, reset=False)


@pytest.mark.parametrize("convert", [np.asarray, pd.DataFrame, np.ndarray.tolist])
def test_a_dark_batch_is_scaled_like_the_pictures_of_fit(convert):
    reader = Reader((8, 8)).fit(convert(DIGITS))
    assert reader.value_range_ == (0, 16)
    dark = np.minimum(DIGITS[:3], 1)  # whose own white would be 1
    pixels = reader.read(convert(dark)).decode(0)
    np.testing.assert_array_equal(np.unique(pixels), [0, 16])  # 255 / 16 rounded
    np.testing.assert_array_equal(reader.read(convert(DIGITS)).decode(5), reader.images_.decode(5))


def test_a_bright_batch_is_an_error_rather_than_white():
    reader = Reader((8, 8)).fit(DIGITS)
    with pytest.raises(ImageDecodeError, match=r"outside of value_range=\(0, 16\)"):
        reader.read(DIGITS * 2).decode(0)


def test_the_given_value_range_rules():
    reader = Reader((8, 8), value_range=(0, 255)).fit(DIGITS)
    assert reader.value_range_ == (0, 255)
    assert reader.read(DIGITS).decode(0).max() == DIGITS[0].max()


def test_fit_forgets_the_range_of_rows():
    reader = Reader((8, 8)).fit(DIGITS)
    reader.fit(np.zeros((2, 5, 5)))
    assert not hasattr(reader, "value_range_")
    assert not hasattr(reader, "n_features_in_")
    black_and_white = reader.read(np.minimum(DIGITS, 1)).decode(0)
    np.testing.assert_array_equal(np.unique(black_and_white), [0, 255])


def test_columns_are_recorded_and_compared():
    rows = pd.DataFrame(DIGITS[:5]).add_prefix("pixel")
    reader = Reader((8, 8)).fit(rows)
    assert reader.n_features_in_ == 64
    assert list(reader.feature_names_in_) == list(rows.columns)
    with pytest.raises(ValueError, match="feature names should match"):
        reader.read(rows.add_suffix("x"))
    with pytest.raises(ValueError, match="X has 63 features"):
        Reader((8, 8)).fit(DIGITS).read(DIGITS[:, 1:])
    frame = pd.DataFrame({"path": ["a.jpg"]})
    assert list(Reader().fit(frame).feature_names_in_) == ["path"]


def test_options_reach_the_pictures():
    clear = np.zeros((2, 5, 5, 4), dtype=np.uint8)
    for reader, X in [
        (Reader(background="blue"), clear),
        (Reader((5, 5, 4), background="blue"), clear.reshape(2, -1)),
    ]:
        np.testing.assert_array_equal(reader.fit(X).images_.decode(0)[0, 0], [0, 0, 255])
    levels = np.array([[[0.0, 8, 16]] * 5])
    pixels = Reader(value_range=(0, 16)).fit(levels.transpose(0, 2, 1)).images_.decode(0)
    np.testing.assert_array_equal(pixels[:, 0, 0], [0, 128, 255])


def test_a_collection_is_taken_as_it_is():
    images = as_images(DIGITS, image_shape=(8, 8))
    assert Reader().fit(images).images_ is images


def test_options_of_an_estimator_hold_for_collections_too():
    clear = as_images(np.zeros((2, 5, 5, 4), dtype=np.uint8), background="red")
    blue = Reader(background="blue").fit(clear).images_.decode(0)
    np.testing.assert_array_equal(blue[0, 0], [0, 0, 255])
    red = Reader().fit(clear).images_.decode(0)  # of whose colour nothing is said
    np.testing.assert_array_equal(red[0, 0], [255, 0, 0])
    grey = as_images([np.full((5, 5, 3), 51.0)])
    pixels = Reader(value_range=(0, 102)).fit(grey).images_.decode(0)
    np.testing.assert_array_equal(pixels[0, 0], [128, 128, 128])


def test_no_pictures():
    for X in ([], np.empty((0, 8, 8)), as_images(DIGITS, image_shape=(8, 8))[:0]):
        with pytest.raises(ImageFormatError, match="X has 0 pictures; a minimum of 1 is required"):
            Reader().fit(X)
