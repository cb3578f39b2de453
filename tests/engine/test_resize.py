"""Resizing on a device gives the bits of Pillow, which does the same here."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from sktl.backbones import Preprocessing
from sktl.engine import _prepare, _resize, prepare
from sktl.engine._prepare import prepare_on
from sktl.engine._resize import resize_part, resizes_like_pillow

CPU = torch.device("cpu")
SIZES = [(640, 427), (500, 375), (333, 500), (90, 120), (31, 20), (224, 301), (1100, 900)]


def noise(width, height, *, levels=256, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.integers(0, levels, (height, width, 3)) * (255 // (levels - 1))).astype(np.uint8)


def by_pillow(pixels, size, box, interpolation):
    image = Image.fromarray(pixels).resize(size, Image.Resampling[interpolation.upper()])
    return np.asarray(image.crop(box))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("levels", [2, 256])  # two levels: where the cubic kernel overshoots most
def test_parts_equal_pillows_to_the_bit(size, interpolation, levels):
    pixels = noise(*size, levels=levels)
    for resized in [(256, 256), (341, 256), (120, 333), size]:
        box = (resized[0] // 9, resized[1] // 7, resized[0] - 5, resized[1])
        part = resize_part(pixels, resized, box, interpolation, CPU)
        if part is not None:
            expected = by_pillow(pixels, resized, box, interpolation)
            np.testing.assert_array_equal(part.numpy(), expected)


def test_what_does_not_fit_or_pillow_does_the_other_way_round_is_left_to_it():
    box = (0, 0, 20, 20)
    assert resize_part(noise(640, 427), (341, 256), box, "bicubic", CPU) is not None
    assert resize_part(noise(9000, 60), (40, 60), box, "bicubic", CPU) is None  # 225 times
    wide = np.zeros((1500, 2000, 3), np.uint8)
    assert resize_part(wide, (341, 256), (0, 0, 341, 256), "bicubic", CPU) is None
    assert resize_part(noise(40, 300), (40, 100), box, "bicubic", CPU) is None


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("keep_aspect", [True, False])
def test_prepared_pixels_are_those_of_pillow(interpolation, keep_aspect):
    preprocessing = Preprocessing(
        size=96, resize=110, keep_aspect=keep_aspect, interpolation=interpolation
    )
    shapes = [(40, 30), (110, 110), (30, 700), (700, 30)]
    pictures = [*load_sample_images().images, *(noise(*shape) for shape in shapes)]
    for picture in map(Image.fromarray, pictures):
        pixels = prepare_on(CPU, picture, preprocessing)
        np.testing.assert_array_equal(pixels, prepare(picture, preprocessing))


def test_a_device_that_gives_other_pixels_is_not_used(monkeypatch):
    assert resizes_like_pillow("bicubic", CPU)
    assert not resizes_like_pillow("lanczos", CPU)
    monkeypatch.setattr(_resize, "_BITS", 14)  # rounded weights, as PyTorch's own resizing has them
    resizes_like_pillow.cache_clear()
    _resize._weights.cache_clear()
    try:
        assert not resizes_like_pillow("bicubic", CPU)
        picture = Image.fromarray(load_sample_images().images[0])
        preprocessing = Preprocessing(interpolation="bicubic")
        pixels = prepare_on(CPU, picture, preprocessing)
        np.testing.assert_array_equal(pixels, prepare(picture, preprocessing))
    finally:
        resizes_like_pillow.cache_clear()
        _resize._weights.cache_clear()


def test_a_device_without_room_leaves_it_to_pillow(monkeypatch):
    def no_room(*args):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(_prepare, "resize_part", no_room)
    picture = Image.fromarray(load_sample_images().images[0])
    pixels = prepare_on(CPU, picture, Preprocessing())
    np.testing.assert_array_equal(pixels, prepare(picture, Preprocessing()))
