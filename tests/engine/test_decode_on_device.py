"""JPEG files decoded where the network is; here by what TorchCodec does on a CPU."""

import io
import sys
import threading
import time

import numpy as np
import pytest
import torch
import torchcodec.decoders
from PIL import ExifTags, Image
from torch import nn

from sktl import FeatureStore
from sktl.backbones import Backbone, Preprocessing, load_backbone
from sktl.engine import Network, Recipe, _decode_on_device, _features, _forward, _runtime
from sktl.engine._decode_on_device import decode_on, decodes_jpeg
from sktl.exceptions import MissingDependencyError
from sktl.images import ImageCollection, as_images

CPU = torch.device("cpu")


@pytest.fixture
def asked(monkeypatch):
    """A list that grows with the number of files in each call."""
    decode_jpeg, asked = torchcodec.decoders.decode_jpeg, []
    forget = _decode_on_device._decoder.cache_clear

    def decode(files, **options):
        asked.append(len(files))
        return decode_jpeg(files, **options)

    monkeypatch.setattr(torchcodec.decoders, "decode_jpeg", decode)
    monkeypatch.setattr(_forward, "_RESIZING", ("cpu",))
    forget()
    assert decodes_jpeg(CPU)
    asked.clear()
    yield asked
    forget()


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
        there = _forward.is_decoded_there(recipe, CPU)
        chunks = iter([range(len(images))])
        (batch,) = _forward._on_device(images, runner, chunks, 2, decoded_there=there)
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
        if any(bytes(file.numpy()) == images[2] for file in files):
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


def test_a_device_without_room_for_a_picture_does_not_leave_it_to_the_cores(monkeypatch, asked):
    def full(files, **options):
        raise torch.OutOfMemoryError("no room")

    pictures = decode_on(CPU, [jpeg(0)])
    assert pictures[0].shape == (60, 90, 3)
    decoder = _decode_on_device._decoder(CPU)
    monkeypatch.setattr(_decode_on_device, "_decoder", lambda device: full)
    with pytest.raises(torch.OutOfMemoryError):
        decode_on(CPU, [jpeg(0), jpeg(1)])
    for error in (RuntimeError, ValueError):

        def refuse(files, error=error):
            if len(files) > 1 or files[0] == jpeg(1):
                raise error("no such JPEG")
            return decoder(files)

        monkeypatch.setattr(_decode_on_device, "_decoder", lambda device, refuse=refuse: refuse)
        first, second = decode_on(CPU, [jpeg(0), jpeg(1)])
        assert second is None
        assert torch.equal(first, pictures[0])


def test_rows_of_other_decoders_have_other_keys(monkeypatch, asked, tmp_path):
    """Who decodes is found out once, and workers are told."""
    images = as_images([jpeg(i) for i in range(3)])
    network = Network(load_backbone("lenet", None), "default", None)
    store = FeatureStore(tmp_path / "store")

    def rows(precision):
        recipe = Recipe(precision=precision)
        return _features.compute_features(images, network, recipe, store, device=CPU)[0][0]

    for precision in ("auto", "bf16"):
        rows(precision)
    monkeypatch.setattr(_forward, "_RESIZING", ())
    for precision in ("auto", "bf16"):
        rows(precision)
    assert store.info()["precision"].tolist() == ["auto", "bf16", "bf16"]
    assert store.info()["rows"].tolist() == [3, 3, 3]


def test_a_worker_that_cannot_decode_as_the_others_do_says_so(monkeypatch):
    monkeypatch.setattr(_forward, "decodes_jpeg", lambda device: False)
    network = Network(load_backbone("lenet", None), "default", None)
    images = as_images([jpeg(0)])
    arguments = (images, network, Recipe(precision="bf16"), iter([[0]]))
    with pytest.raises(MissingDependencyError, match="on all machines"):
        _forward.forward(*arguments, n_images=1, device=torch.device("meta"), decoded_there=True)


@pytest.mark.parametrize("batch_size", [16, 64])
def test_pictures_that_are_left_to_the_cores_keep_all_of_them_at_work(
    monkeypatch, asked, batch_size
):
    at_work, most = 0, 0
    lock = threading.Lock()
    read = ImageCollection.read

    def counted(self, i, **options):
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.005)
        image = read(self, i, **options)
        with lock:
            at_work -= 1
        return image

    monkeypatch.setattr(ImageCollection, "read", counted)
    images = as_images([Image.new("RGB", (40, 40))] * 256)
    chunks = (range(start, start + batch_size) for start in range(0, 256, batch_size))
    runner = _runtime.ready_runner(
        Network(load_backbone("lenet", None), "default", None),
        *(Recipe(precision="bf16"), CPU, "torch"),
        n_images=256,
        step=1 << 30,
    )
    list(_forward._on_device(images, runner, chunks, 12, decoded_there=True))
    assert most == 12


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
        arrays = [simplejpeg.decode_jpeg(bytes(file.numpy()), "RGB", **fast) for file in files]
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
