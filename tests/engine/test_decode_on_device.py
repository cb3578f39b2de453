"""JPEG files decoded where the network is; here by what TorchCodec does on a CPU."""

import io
import sys

import numpy as np
import pytest
import torch
import torchcodec.decoders
from PIL import ExifTags, Image
from torch import nn

from sktl.backbones import Backbone, Preprocessing
from sktl.engine import Network, Recipe, _decode_on_device, _forward, _runtime
from sktl.engine._decode_on_device import decode_on, decodes_jpeg
from sktl.images import as_images

CPU = torch.device("cpu")


@pytest.fixture
def asked(monkeypatch):
    """A list that grows with the number of files in each call."""
    decode_jpeg, asked = torchcodec.decoders.decode_jpeg, []

    def decode(files, **options):
        asked.append(len(files))
        return decode_jpeg(files, **options)

    monkeypatch.setattr(torchcodec.decoders, "decode_jpeg", decode)
    monkeypatch.setattr(_forward, "_RESIZING", ("cpu",))
    _decode_on_device._decoder.cache_clear()
    assert decodes_jpeg(CPU)
    asked.clear()
    yield asked
    _decode_on_device._decoder.cache_clear()


@pytest.fixture
def features():
    """What is done in front of a GPU, without one: rows, and which pictures are bad."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU6(), nn.Conv2d(8, 16, 3, 2)).eval()

    def features(images, precision="bf16", crops="center", resize=28):
        backbone = Backbone(module, preprocessing=Preprocessing(size=24, resize=resize))
        recipe = Recipe(precision=precision, crops=crops)
        images = as_images(images)
        runner = _runtime.ready_runner(
            *(Network(backbone, "default", None), recipe, CPU, "torch"),
            n_images=len(images),
            step=1 << 30,
        )
        (batch,) = _forward._on_device(images, runner, iter([range(len(images))]), 2)
        return batch.positions, batch.layers[0], [failure.index for failure in batch.bad]

    return features


def jpeg(i, size=(90, 60), **options):
    levels = np.random.default_rng(i).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", **options)
    return file.getvalue()


def test_a_device_that_decodes_gives_what_the_cores_give(monkeypatch, asked, features):
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    images = [jpeg(i) for i in range(20)]
    images[3:3] = [jpeg(30, exif=turned), jpeg(31)[:-50], b"broken", Image.new("RGB", (40, 50))]
    images[9:9] = [jpeg(32, (10, 300)), jpeg(33, (28, 28)), jpeg(34, keep_rgb=True)]
    positions, rows, bad = features(images)
    assert asked == [11, 11]
    assert bad == [4, 5]
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    _decode_on_device._decoder.cache_clear()
    assert not decodes_jpeg(CPU)
    expected = features(images)
    assert sum(asked) == 22
    assert (positions, bad) == (expected[0], expected[2])
    np.testing.assert_array_equal(rows, expected[1])


@pytest.mark.parametrize(
    "recipe", [{"precision": "auto"}, {"precision": "exact"}, {"crops": "ten"}]
)
def test_only_the_centre_in_bf16_is_decoded_there(asked, features, recipe):
    features([jpeg(i) for i in range(3)], **recipe)
    assert asked == []


def test_large_pictures_are_left_to_the_cores(monkeypatch, asked, features):
    monkeypatch.setattr(_forward, "MOST_LEVELS", 90 * 60 * 3)
    features([jpeg(0), jpeg(1, (91, 60)), jpeg(2)])
    assert asked == [2]


def test_a_file_that_fails_there_stands_in_no_others_way(monkeypatch, asked, features):
    images = [jpeg(i) for i in range(5)]
    expected = features(images)
    asked.clear()
    decode = torchcodec.decoders.decode_jpeg

    def picky(files, **options):
        if images[2] in files:
            asked.append(len(files))
            raise RuntimeError("nvJPEG status 5")
        return decode(files, **options)

    monkeypatch.setattr(torchcodec.decoders, "decode_jpeg", picky)
    _decode_on_device._decoder.cache_clear()
    assert decodes_jpeg(CPU)
    asked.clear()
    positions, rows, bad = features(images)
    assert asked == [5, 1, 1, 1, 1, 1]
    assert (positions, bad) == ([0, 1, 2, 3, 4], [])
    np.testing.assert_array_equal(rows, expected[1])


def blue_first(pictures):
    return [picture.flip(0) for picture in pictures]


def cut(pictures):
    return [picture[:, 1:] for picture in pictures]


def darker(pictures):
    return [picture // 4 for picture in pictures]


def fails(pictures):
    raise NotImplementedError("built without nvJPEG")


@pytest.mark.parametrize("spoil", [blue_first, cut, darker, fails])
def test_a_decoder_with_other_pictures_is_not_used(monkeypatch, asked, features, spoil):
    decode = torchcodec.decoders.decode_jpeg
    monkeypatch.setattr(
        torchcodec.decoders, "decode_jpeg", lambda *args, **options: spoil(decode(*args, **options))
    )
    _decode_on_device._decoder.cache_clear()
    assert not decodes_jpeg(CPU)
    assert decode_on(CPU, [jpeg(0)]) == [None]


def test_colours_that_are_repeated_are_near_enough(monkeypatch, asked):
    """As nvJPEG does, where they are stored at half the size."""
    import simplejpeg

    def repeat(files, **options):
        fast = {"fastupsample": True, "fastdct": True}
        arrays = [simplejpeg.decode_jpeg(file, "RGB", **fast) for file in files]
        return [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]

    monkeypatch.setattr(torchcodec.decoders, "decode_jpeg", repeat)
    _decode_on_device._decoder.cache_clear()
    assert decodes_jpeg(CPU)
    (picture,) = decode_on(CPU, [jpeg(0, subsampling="4:2:0")])
    assert picture.shape == (60, 90, 3)


def test_real_pictures(monkeypatch, asked, features, shared_data):
    paths = sorted(map(str, shared_data.glob("imagenet-samples/*.JPEG")))[::8]
    positions, rows, _ = features(paths, resize=200)
    assert positions == list(range(len(paths)))
    assert sum(asked) > 0.9 * len(paths) > 20
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    _decode_on_device._decoder.cache_clear()
    np.testing.assert_array_equal(rows, features(paths, resize=200)[1])
