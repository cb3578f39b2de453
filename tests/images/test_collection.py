"""A collection is sliced like an array, decodes on demand and travels light."""

import io
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import h5py
import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.model_selection import KFold, train_test_split
from sklearn.utils import _safe_indexing, resample

from sktl.exceptions import ImageDecodeError
from sktl.images import ImageCollection, as_images

N = 6
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 8, 9, 3), dtype=np.uint8)


def encode(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def decode_all(images):
    return [images.decode(i) for i in range(len(images))]


@pytest.fixture
def h5_path(tmp_path):
    path = tmp_path / "pictures.h5"
    with h5py.File(path, "w") as file:
        file["group/pictures"] = PIXELS
    return path


@pytest.fixture(
    params=["paths", "bytes", "PIL", "lazy PIL", "array", "list", "tensor", "rows", "h5"]
)
def images(request, tmp_path, h5_path):
    """The same pictures, held in every way."""
    if request.param == "h5":
        with h5py.File(h5_path) as file:
            yield as_images(file["group/pictures"])
        return
    if request.param == "paths":
        for i in range(N):
            (tmp_path / f"{i}.png").write_bytes(encode(PIXELS[i]))
    make = {
        "paths": lambda: as_images([tmp_path / f"{i}.png" for i in range(N)]),
        "bytes": lambda: as_images([encode(pixels) for pixels in PIXELS]),
        "PIL": lambda: as_images([Image.fromarray(pixels) for pixels in PIXELS]),
        "lazy PIL": lambda: as_images([Image.open(io.BytesIO(encode(p))) for p in PIXELS]),
        "array": lambda: as_images(PIXELS),
        "list": lambda: as_images(list(PIXELS)),
        "tensor": lambda: as_images(torch.from_numpy(PIXELS)),
        "rows": lambda: as_images(PIXELS.reshape(N, -1).astype(float), image_shape=(8, 9, 3)),
    }
    yield make[request.param]()


MASK = np.array([True, False, True, True, False, False])
KEYS = {
    "slice": slice(1, 5, 2),
    "all": slice(None),
    "reversed": slice(None, None, -1),
    "empty slice": slice(3, 3),
    "mask": MASK,
    "list of bools": MASK.tolist(),
    "Series mask": pd.Series(MASK),
    "integers": np.array([4, 0, -1]),
    "repeated": [2, 2, 5],
    "int32": np.array([1, 3], dtype=np.int32),
    "Series": pd.Series([3, 1]),
    "tensor": torch.tensor([3, 1]),
    "range": range(2, 4),
    "empty list": [],
}


@pytest.mark.parametrize("key", KEYS)
def test_slicing_agrees_with_arrays(images, key):
    key = KEYS[key]
    expected = PIXELS[[] if isinstance(key, list) and not key else np.arange(N)[key]]
    part = images[key]
    assert isinstance(part, ImageCollection)
    assert len(part) == len(expected)
    assert part.shape == (len(expected),)
    assert repr(part) == f"ImageCollection({len(expected)} {images.kind})"
    for i, pixels in enumerate(expected):
        np.testing.assert_array_equal(part.decode(i), pixels)
    np.testing.assert_array_equal(images[key, ...].shape, part.shape)


@pytest.mark.parametrize("key", [1, -1, np.int64(1), np.array(1), torch.tensor(1)])
def test_an_integer_gives_the_raw_picture(images, key):
    raw = images[key]
    assert not isinstance(raw, ImageCollection)
    np.testing.assert_array_equal(as_images(images[[key]]).decode(0), PIXELS[int(key)])
    np.testing.assert_array_equal(images.decode(key), PIXELS[int(key)])


def test_slices_of_slices(images):
    part = images[2:][[3, 0, 1]][MASK[:3]]
    np.testing.assert_array_equal(decode_all(part), PIXELS[[5, 3]])


@pytest.mark.parametrize(
    "key", [N, -N - 1, [0, N], MASK[:3], [[0, 1]], MASK[:, None], [0.5], np.s_[:, 0]]
)
def test_keys_out_of_bounds_or_of_another_kind(key):
    with pytest.raises(IndexError):
        as_images(PIXELS)[key]


@pytest.mark.parametrize("key", ["a", None, 1.0])
def test_keys_that_are_none(key):
    with pytest.raises(TypeError):
        as_images(PIXELS)[key]


def test_iteration_gives_the_raw_pictures():
    paths = [f"{i}.png" for i in range(N)]
    assert list(as_images(paths)) == paths
    assert list(as_images(paths)[::2]) == paths[::2]


def test_slicing_copies_nothing():
    images = as_images(PIXELS)
    for part in (images[1:3], images[[2, 1]], images[MASK]):
        assert np.shares_memory(part[0], PIXELS)
    content = [encode(pixels) for pixels in PIXELS]
    assert as_images(content)[::-1][0] is content[-1]


def test_safe_indexing(images):
    for key in ([3, 0], np.array([3, 0]), MASK, slice(1, 4), MASK.tolist()):
        part = _safe_indexing(images, key)
        assert isinstance(part, ImageCollection)
        np.testing.assert_array_equal(decode_all(part), PIXELS[key])


def test_train_test_split(images):
    y = np.arange(N)
    parts = train_test_split(images, y, test_size=2, random_state=0, stratify=y % 2)
    train, test, y_train, y_test = parts
    assert (len(train), len(test)) == (4, 2)
    np.testing.assert_array_equal(decode_all(train), PIXELS[y_train])
    np.testing.assert_array_equal(decode_all(test), PIXELS[y_test])


def test_folds_and_resampling(images):
    for train, test in KFold(3).split(images):
        np.testing.assert_array_equal(decode_all(images[test]), PIXELS[test])
        assert len(images[train]) == 4
    boot = resample(images, random_state=0)
    np.testing.assert_array_equal(decode_all(boot), resample(PIXELS, random_state=0))


def test_nothing_is_decoded_until_asked(monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        raise AssertionError("decoded")

    items = [tmp_path / "missing.png", encode(PIXELS[0]), Image.open(io.BytesIO(encode(PIXELS[0])))]
    monkeypatch.setattr(Image, "open", fail)
    monkeypatch.setattr(Image.Image, "load", fail)
    images = as_images(items)
    train_test_split(images[[0, 1, 2, 1]], random_state=0)
    assert len(list(images)) == 3
    assert images.describe(2) == "<PIL image RGB 9x8>"
    pickle.dumps(images[:2])
    with pytest.raises((AssertionError, ImageDecodeError), match="decoded"):
        images.decode(1)


def test_hdf5_is_read_one_picture_at_a_time(h5_path):
    with h5py.File(h5_path) as file:
        images = as_images(file["group/pictures"])[::2]
    # The file is closed: what was not read is read now, from the file opened again.
    with h5py.File(h5_path, "r+") as file:
        file["group/pictures"][2] = 7
    assert (images.decode(1) == 7).all()
    np.testing.assert_array_equal(images.decode(2), PIXELS[4])


def test_pickle_round_trip(images):
    for part in (images, images[[4, 1]], images[::-1], images[:0]):
        copy = pickle.loads(pickle.dumps(part))
        assert repr(copy) == repr(part)
        assert copy.array_format == part.array_format
        for i in range(len(part)):
            np.testing.assert_array_equal(copy.decode(i), part.decode(i))


@pytest.mark.parametrize(
    "hold",
    [
        np.asarray,
        list,
        torch.from_numpy,
        lambda stack: [Image.fromarray(pixels) for pixels in stack],
        lambda stack: [encode(pixels) for pixels in stack],
    ],
    ids=["array", "list", "tensor", "PIL", "bytes"],
)
def test_a_pickled_slice_takes_only_its_own_pictures_along(hold):
    noise = np.random.default_rng(0).integers(0, 256, (10, 50, 50, 3), dtype=np.uint8)
    images = as_images(hold(noise))
    one = noise[0].nbytes
    assert len(pickle.dumps(images)) > 10 * one
    for part in (images[3:5], images[[9, 0]], images[2:][MASK[:4].tolist() + [False] * 4][:2]):
        assert 2 * one < len(pickle.dumps(part)) < 3 * one


def test_of_an_hdf5_data_set_only_the_place_is_pickled(h5_path):
    with h5py.File(h5_path) as file:
        images = as_images(file["group/pictures"])
        assert len(pickle.dumps(images)) < 1000 < PIXELS.nbytes


def test_the_pickled_slice_leaves_the_original_alone(images):
    part = images[1:3]
    pickle.dumps(part)
    np.testing.assert_array_equal(decode_all(part), PIXELS[1:3])
    np.testing.assert_array_equal(decode_all(images), PIXELS)


def test_a_pickled_bootstrap_sample():
    images = as_images(PIXELS)[[5, 5, 0, 0, 1, 1, 2, 5]]
    copy = pickle.loads(pickle.dumps(images))
    np.testing.assert_array_equal(decode_all(copy), PIXELS[[5, 5, 0, 0, 1, 1, 2, 5]])


def test_options_survive_pickling_and_slicing():
    clear = np.zeros((3, 4, 4, 4), dtype=np.uint8)
    images = as_images(clear, background="red", layout="HWC")
    for copy in (images[1:], pickle.loads(pickle.dumps(images[1:]))):
        assert copy.background == (255, 0, 0)
        np.testing.assert_array_equal(copy.decode(0)[0, 0], [255, 0, 0])


def test_loky(images):
    work = [joblib.delayed(images[[i, 0]].decode)(0) for i in range(N)]
    *pixels, process = joblib.Parallel(n_jobs=2)([*work, joblib.delayed(os.getpid)()])
    np.testing.assert_array_equal(pixels, PIXELS)
    assert process != os.getpid()


def test_hdf5_under_a_relative_name_in_another_folder(h5_path, monkeypatch):
    monkeypatch.chdir(h5_path.parent)
    with h5py.File(h5_path.name) as file:
        content = pickle.dumps(as_images(file["group/pictures"]))
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(decode_all(pickle.loads(content)), PIXELS)


def test_many_threads(images):
    order = np.random.default_rng(0).integers(0, N, 200)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(images.decode, order))
    np.testing.assert_array_equal(results, PIXELS[order])


def test_decode_and_read_rgb_agree(images):
    for i in range(N):
        image = images.read_rgb(i)
        assert image.mode == "RGB"
        assert image.size == (9, 8)
        np.testing.assert_array_equal(np.array(image), images.decode(i))
        np.testing.assert_array_equal(np.asarray(images.read(i)), images.decode(i))


def test_arrays_are_read_without_a_copy_where_nothing_has_to_change():
    read = as_images(PIXELS).read(2)
    assert np.shares_memory(read, PIXELS)
    gray, clear = np.zeros((2, 9, 8), np.uint8), np.zeros((2, 9, 8, 4), np.uint8)
    for array in (gray, clear):
        read = as_images(array).read(1)
        assert np.asarray(read).shape == (9, 8, 3)


def test_decoded_pixels_belong_to_the_caller(images):
    images.decode(0)[:] = 0
    images.read_rgb(1).paste((0, 0, 0), (0, 0, 9, 8))
    np.testing.assert_array_equal(decode_all(images), PIXELS)


def test_descriptions():
    images = as_images(["a/b.jpg", b"1234", Image.new("L", (3, 2)), PIXELS[0], None])
    described = [images.describe(i) for i in range(5)]
    assert described == [
        "a/b.jpg",
        "<4 bytes>",
        "<PIL image L 3x2>",
        "<array (8, 9, 3)>",
        "<NoneType>",
    ]


def test_failures_count_positions_in_the_collection_that_was_asked(tmp_path):
    images = as_images([encode(PIXELS[0]), tmp_path / "no.png", encode(PIXELS[1])])[::-1][1:]
    with pytest.raises(ImageDecodeError, match="1 of 2 pictures") as caught:
        images.decode(0)
    assert caught.value.failures == images.check()
    assert (caught.value.failures[0].index, caught.value.n_images) == (0, 2)
