"""JPEG files decoded past Pillow: the same pixels, and Pillow's word for what is damaged."""

import io
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from sktl.images import _decode, _jpeg, as_images

KINDS = {
    "4:4:4": ("RGB", {"subsampling": "4:4:4"}),
    "4:2:2": ("RGB", {"subsampling": "4:2:2"}),
    "4:2:0": ("RGB", {"subsampling": "4:2:0", "quality": 30}),
    "progressive": ("RGB", {"progressive": True}),
    "restarts": ("RGB", {"restart_marker_rows": 1}),
    "no YCbCr": ("RGB", {"keep_rgb": True}),
    "gray": ("L", {}),
    "CMYK": ("CMYK", {}),
}


@pytest.fixture
def fast():
    """The test environment has simplejpeg, and it serves."""
    assert _jpeg._like_pillow() is not None


@pytest.fixture
def n_fast(monkeypatch, fast):
    """A list that grows with each picture that was decoded past Pillow."""
    decoded = []

    def count(encoded):
        pixels = _jpeg.decode_jpeg(encoded)
        decoded.extend([] if pixels is None else [pixels.shape])
        return pixels

    monkeypatch.setattr(_decode, "decode_jpeg", count)
    return decoded


def picture(mode="RGB", size=(83, 61)):
    levels = np.random.default_rng(3).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(mode="RGB", **options):
    file = io.BytesIO()
    picture(mode).save(file, "JPEG", **options)
    return file.getvalue()


def by_pillow(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def outcome(read):
    """Pixels as bytes, or why there are none."""
    try:
        return np.asarray(read()).tobytes()
    except _decode.BadImageError as error:
        return str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_pillows_from_files_and_from_bytes(n_fast, tmp_path, kind):
    mode, options = KINDS[kind]
    content = encoded(mode, **options)
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    for i, item in enumerate([path, content, bytearray(content), memoryview(content)], 1):
        images = as_images([item])
        assert np.array_equal(images.read(0), by_pillow(content))
        assert np.array_equal(images.read(0), images.read_rgb(0))
        assert len(n_fast) == (0 if mode == "CMYK" else 2 * i)


def test_turned_pictures_profiles_and_other_formats(n_fast):
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    as_it_is = encoded(icc_profile=srgb)
    upright = as_images([encoded(exif=turned)])
    assert np.array_equal(upright.read(0), upright.read_rgb(0))
    assert upright.read_rgb(0).size == (61, 83)
    assert n_fast == []
    assert np.array_equal(as_images([as_it_is]).read(0), by_pillow(as_it_is))
    assert n_fast == [(61, 83, 3)]
    file = io.BytesIO()
    picture().save(file, "PNG")
    assert np.array_equal(as_images([file.getvalue()]).read(0), picture())
    assert len(n_fast) == 1


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_are_judged_by_pillow(fast, seed):
    random = np.random.default_rng(seed)
    content = bytearray(encoded(progressive=seed % 2 == 1))
    for place in random.integers(200, len(content), 3):
        content[place] = random.integers(256)
    content = bytes(content[: random.integers(300, len(content) + 1)] if seed % 4 == 0 else content)
    images = as_images([content])
    assert outcome(lambda: images.read(0)) == outcome(lambda: images.read_rgb(0))


def test_a_decoder_with_other_pixels_or_none_at_all_is_not_used(monkeypatch):
    import simplejpeg

    honest, content = simplejpeg.decode_jpeg, encoded()

    def brighter(data, *args, **options):
        pixels = honest(data, *args, **options)
        return pixels if len(pixels) != 43 else np.maximum(pixels, 1)

    def old(data, colorspace):
        raise AssertionError("it takes no `strict`")

    for decoder in (brighter, old, None):
        if decoder is None:
            monkeypatch.setitem(sys.modules, "simplejpeg", None)
        else:
            monkeypatch.setattr(simplejpeg, "decode_jpeg", decoder)
        _jpeg._like_pillow.cache_clear()
        try:
            assert _jpeg.decode_jpeg(content) is None
            assert np.array_equal(as_images([content]).read(0), by_pillow(content))
        finally:
            _jpeg._like_pillow.cache_clear()


def test_real_pictures(n_fast, shared_data):
    paths = sorted(map(str, shared_data.glob("imagenet-samples/*.JPEG")))[::8]
    images = as_images(paths)
    for i in range(len(images)):
        assert np.array_equal(images.read(i), images.read_rgb(i))
    assert len(n_fast) > 0.9 * len(paths) > 20


def test_which_files_other_decoders_are_trusted_with(tmp_path):
    turned, upright = Image.Exif(), Image.Exif()
    turned[ExifTags.Base.Orientation], upright[ExifTags.Base.Orientation] = 6, 1
    png = io.BytesIO()
    picture().save(png, "PNG")
    no_ycbcr = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"  # a marker that says so
    plain = {kind: encoded(mode, **options) for kind, (mode, options) in KINDS.items()}
    others = [
        *(plain.pop("no YCbCr"), plain.pop("CMYK"), encoded(exif=turned), png.getvalue()),
        encoded()[:2] + no_ycbcr + encoded()[2:],
        *(encoded()[:-40], encoded()[:-2], encoded() + b"\0", b"", picture(), tmp_path),
        np.zeros((4, 4, 3), np.uint8),
    ]
    plain["upright"] = encoded(exif=upright)
    path = tmp_path / "picture.jpg"
    path.write_bytes(plain["4:2:0"])
    trusted = as_images([*plain.values(), bytearray(encoded()), memoryview(encoded()), path])
    expected = [*plain.values(), encoded(), encoded(), plain["4:2:0"]]
    assert [trusted.plain_jpeg(i) for i in range(len(trusted))] == expected
    rest = as_images(others)
    assert [rest.plain_jpeg(i) for i in range(len(rest))] == [None] * len(others)
    assert trusted.plain_jpeg(0, most=83 * 61) == expected[0]
    assert trusted.plain_jpeg(0, most=83 * 61 - 1) is None
