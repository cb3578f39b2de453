"""The reference transforms are torchvision's own, applied to PIL images."""

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from sktl.backbones import Preprocessing
from sktl.engine import prepare

SIZES = [
    *[(640, 480), (333, 500), (57, 301), (224, 224), (20, 31), (1000, 256), (300, 900)],
    *[(231, 240), (500, 1400), (1400, 500), (4000, 3000)],
]


def picture(width, height):
    rng = np.random.default_rng(width * height)
    small = rng.integers(0, 256, (height // 4 + 2, width // 4 + 2, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", [224, 232, 256])
def test_center_crop_equals_torchvision_to_the_pixel(size, interpolation, resize):
    image = picture(*size)
    reference = v2.Compose(
        [v2.Resize(resize, v2.InterpolationMode(interpolation)), v2.CenterCrop(224)]
    )
    pixels = prepare(image, Preprocessing(224, resize, interpolation=interpolation))
    assert pixels.shape == (1, 224, 224, 3)
    np.testing.assert_array_equal(pixels[0], np.asarray(reference(image)))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_squash_equals_torchvision(size):
    image = picture(*size)
    reference = v2.Compose(
        [v2.Resize((256, 256), v2.InterpolationMode.BICUBIC), v2.CenterCrop(224)]
    )
    pixels = prepare(image, Preprocessing(keep_aspect=False, interpolation="bicubic"))
    np.testing.assert_array_equal(pixels[0], np.asarray(reference(image)))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_ten_crops_are_torchvisions(size):
    image = picture(*size)
    reference = v2.Compose([v2.Resize(256), v2.TenCrop(224)])(image)
    pixels = prepare(image, Preprocessing(), "ten")
    assert {crop.tobytes() for crop in pixels} == {np.asarray(r).tobytes() for r in reference}


@pytest.mark.parametrize("size", [*SIZES, (300, 256)], ids=str)
@pytest.mark.parametrize("crops", ["center", "ten"])
def test_arrays_are_prepared_as_pil_images_are(size, crops):
    image = picture(*size)
    pixels = prepare(np.asarray(image), Preprocessing(), crops)
    np.testing.assert_array_equal(pixels, prepare(image, Preprocessing(), crops))


def test_an_array_of_the_right_size_is_not_copied():
    array = np.asarray(picture(300, 256))
    assert np.shares_memory(prepare(array, Preprocessing()), array)


def test_a_picture_of_extreme_shape_stays_small_in_memory():
    image = Image.new("RGB", (4, 30_000), "red")
    pixels = prepare(image, Preprocessing())
    assert pixels.shape == (1, 224, 224, 3)
    assert (pixels == (255, 0, 0)).all()


def test_other_sizes_keep_the_share_of_the_crop():
    assert Preprocessing(224, 256).at_size(112).resize == 128
    assert Preprocessing(224, 224).at_size(100).resize == 100
    assert Preprocessing().at_size(None) == Preprocessing()


@pytest.mark.parametrize("size", [(2, 701), (9, 4001), (3001, 4), (5000, 3)], ids=str)
def test_narrow_pictures_are_resized_as_if_whole(size):
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    reference = v2.Compose([v2.Resize(256, v2.InterpolationMode.BICUBIC), v2.CenterCrop(224)])
    pixels = prepare(image, Preprocessing(224, 256, interpolation="bicubic"))
    away = np.abs(pixels[0].astype(int) - np.asarray(reference(image)))
    assert away.max() <= 1
    assert away.mean() < 1e-3
