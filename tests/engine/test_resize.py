"""Resizing on a device, and by compiled loops, gives the bits of Pillow."""

import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from sktl.backbones import Preprocessing
from sktl.engine import (
    _prepare,
    _resize_compiled,
    _resize_like_pillow,
    _resize_on_device,
    prepare,
)
from sktl.engine._prepare import prepare_on
from sktl.engine._resize_compiled import CompiledResize
from sktl.engine._resize_like_pillow import goes_across_first
from sktl.engine._resize_on_device import resize_part, resizes_like_pillow

CPU = torch.device("cpu")
SIZES = [(640, 427), (500, 375), (333, 500), (90, 120), (31, 20), (224, 301), (1100, 900)]


def noise(width, height, *, levels=256, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.integers(0, levels, (height, width, 3)) * (255 // (levels - 1))).astype(np.uint8)


def by_pillow(pixels, size, box, interpolation):
    image = Image.fromarray(pixels).resize(size, Image.Resampling[interpolation.upper()])
    return np.asarray(image.crop(box))


@pytest.fixture
def compiled(monkeypatch):
    """What prepares pictures resizes by compiled loops from the first one on."""
    monkeypatch.setattr(_resize_compiled, "_WORTH_LOADING", 0)
    resize = CompiledResize()
    monkeypatch.setattr(_prepare, "resize_compiled", resize)
    return resize


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("levels", [2, 256])  # two levels: where the cubic kernel overshoots most
def test_parts_equal_pillows_to_the_bit(compiled, size, interpolation, levels):
    pixels = noise(*size, levels=levels)
    for resized in [(256, 256), (341, 256), (120, 333), size]:
        box = (resized[0] // 9, resized[1] // 7, resized[0] - 5, resized[1])
        expected = by_pillow(pixels, resized, box, interpolation)
        by_device = resize_part(pixels, resized, box, interpolation, CPU)
        by_loops = compiled(Image.fromarray(pixels), resized, box, interpolation)
        from_array = compiled(pixels, resized, box, interpolation)
        assert (from_array is None) == (by_loops is None)
        assert from_array is None or np.array_equal(from_array, by_loops)
        assert len(compiled._loops.signatures) == 1
        assert (by_loops is None) == (not goes_across_first(size, resized))
        for part in (by_device, by_loops):
            if part is not None:
                np.testing.assert_array_equal(part, expected)


def test_what_does_not_fit_or_pillow_does_the_other_way_round_is_left_to_it():
    box = (0, 0, 20, 20)
    assert resize_part(noise(640, 427), (341, 256), box, "bicubic", CPU) is not None
    assert resize_part(noise(9000, 60), (40, 60), box, "bicubic", CPU) is None  # 225 times
    wide = np.zeros((1500, 2000, 3), np.uint8)
    assert resize_part(wide, (341, 256), (0, 0, 341, 256), "bicubic", CPU) is None
    assert resize_part(noise(40, 300), (40, 100), box, "bicubic", CPU) is None


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("keep_aspect", [True, False])
@pytest.mark.parametrize("crops", ["center", "ten"])
def test_prepared_pixels_are_those_of_pillow(
    monkeypatch, compiled, interpolation, keep_aspect, crops
):
    preprocessing = Preprocessing(
        size=96, resize=110, keep_aspect=keep_aspect, interpolation=interpolation
    )
    shapes = [(40, 30), (110, 110), (30, 700), (700, 30)]
    pictures = [*load_sample_images().images, *(noise(*shape) for shape in shapes)]
    for picture in map(Image.fromarray, pictures):
        found = prepare(picture, preprocessing, crops)
        with monkeypatch.context() as patch:
            patch.setattr(_prepare, "resize_compiled", lambda *_: None)
            expected = prepare(picture, preprocessing, crops)
        np.testing.assert_array_equal(found, expected)
        if crops == "center":
            np.testing.assert_array_equal(prepare_on(CPU, picture, preprocessing), expected)


def test_a_device_that_gives_other_pixels_is_not_used(monkeypatch):
    assert resizes_like_pillow("bicubic", CPU)
    assert not resizes_like_pillow("lanczos", CPU)
    monkeypatch.setattr(
        _resize_like_pillow, "BITS", 14
    )  # rounded weights, as PyTorch's own resizing has them
    resizes_like_pillow.cache_clear()
    _resize_on_device._weights.cache_clear()
    try:
        assert not resizes_like_pillow("bicubic", CPU)
        picture = Image.fromarray(load_sample_images().images[0])
        preprocessing = Preprocessing(interpolation="bicubic")
        pixels = prepare_on(CPU, picture, preprocessing)
        np.testing.assert_array_equal(pixels, prepare(picture, preprocessing))
    finally:
        resizes_like_pillow.cache_clear()
        _resize_on_device._weights.cache_clear()


def test_a_device_without_room_leaves_it_to_pillow(monkeypatch):
    def no_room(*args):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(_prepare, "resize_part", no_room)
    picture = Image.fromarray(load_sample_images().images[0])
    pixels = prepare_on(CPU, picture, Preprocessing())
    np.testing.assert_array_equal(pixels, prepare(picture, Preprocessing()))


SMALLER = ((60, 40), (0, 0, 20, 20), "bicubic")


def test_loops_are_compiled_for_many_pictures_only(monkeypatch):
    monkeypatch.setattr(_resize_compiled, "_WORTH_LOADING", 2)
    resize, picture = CompiledResize(), Image.fromarray(noise(90, 60))
    assert [resize(picture, *SMALLER) is None for _ in range(4)] == [True, True, False, False]


def test_large_pictures_and_other_interpolations_are_left_to_pillow(monkeypatch, compiled):
    picture = Image.fromarray(noise(90, 60))
    assert compiled(picture, *SMALLER) is not None
    assert compiled(picture, *SMALLER[:2], "lanczos") is None
    monkeypatch.setattr(_resize_compiled, "_MOST_PIXELS", 90 * 60 - 1)
    assert compiled(picture, *SMALLER) is None


def test_others_go_on_with_pillow_while_one_compiles(monkeypatch, compiled):
    begun, done = threading.Event(), threading.Event()
    by_numba = _resize_compiled._compiled

    def slowly():
        begun.set()
        assert done.wait(60)
        return by_numba()

    monkeypatch.setattr(_resize_compiled, "_compiled", slowly)
    picture, found = Image.fromarray(noise(90, 60)), []
    thread = threading.Thread(target=lambda: found.append(compiled(picture, *SMALLER)))
    thread.start()
    assert begun.wait(60)
    assert compiled(picture, *SMALLER) is None
    done.set()
    thread.join()
    np.testing.assert_array_equal(found[0], compiled(picture, *SMALLER))


def no_numba(patch):
    patch.setitem(sys.modules, "numba", None)  # whose import is an error


def no_compiler(patch):
    patch.setattr("numba.njit", lambda **_: lambda loops: loops)  # as with NUMBA_DISABLE_JIT=1


def other_weights(patch):
    patch.setattr(_resize_like_pillow, "BITS", 14)


@pytest.mark.parametrize("trouble", [no_numba, no_compiler, other_weights])
def test_loops_that_cannot_be_had_or_give_other_pixels_are_not_used(monkeypatch, compiled, trouble):
    _resize_compiled._weights.cache_clear()
    trouble(monkeypatch)
    assert compiled(Image.fromarray(noise(90, 60)), *SMALLER) is None
    _resize_compiled._weights.cache_clear()


def test_loops_are_compiled_where_nothing_can_be_kept(monkeypatch, compiled):
    import numba

    def njit(*, cache, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile_(**options)

    compile_ = numba.njit
    monkeypatch.setattr(numba, "njit", njit)
    assert compiled(Image.fromarray(noise(90, 60)), *SMALLER) is not None
