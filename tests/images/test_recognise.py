"""Everything that is taken for pictures, by the values that come out."""

import io
import pathlib

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from sktl.exceptions import ImageDecodeError
from sktl.images import ImageCollection, as_images
from sktl.images._arrays import ArrayFormat

N, H, W = 4, 6, 9
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (N, H, W, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (N, H, W), dtype=np.uint8)


def decoded(X, **options):
    images = as_images(X, **options)
    assert len(images) == len(X)
    return np.stack([images.decode(i) for i in range(len(images))])


def as_rgb(gray):
    return np.repeat(np.asarray(gray)[..., None], 3, axis=-1)


def encode(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def paths(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(N)]
    for path, pixels in zip(paths, COLOUR, strict=True):
        path.write_bytes(encode(pixels))
    return paths


PATH_CONTAINERS = {
    "list of Path": list,
    "list of str": lambda paths: [str(path) for path in paths],
    "tuple": tuple,
    "array of str": lambda paths: np.array([str(path) for path in paths]),
    "object array": lambda paths: np.array(paths, dtype=object),
    "column array": lambda paths: np.array([[str(path)] for path in paths], dtype=object),
    "list of rows": lambda paths: [[str(path)] for path in paths],
    "Series of str": lambda paths: pd.Series([str(path) for path in paths], index=[7, 3, 9, 1]),
    "Series of Path": lambda paths: pd.Series(paths),
    "Series of category": lambda paths: pd.Series([str(p) for p in paths], dtype="category"),
    "Index": lambda paths: pd.Index([str(path) for path in paths]),
    "DataFrame": lambda paths: pd.DataFrame({"path": [str(path) for path in paths]}),
}


@pytest.mark.parametrize("container", PATH_CONTAINERS)
def test_paths(container, paths):
    X = PATH_CONTAINERS[container](paths)
    images = as_images(X)
    assert repr(images) == "ImageCollection(4 paths)"
    assert images.kind == "paths"
    assert isinstance(images[2], (str, pathlib.Path))
    assert images.describe(2) == str(paths[2])
    np.testing.assert_array_equal(decoded(X), COLOUR)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("bytes", encode),
        ("bytes", lambda pixels: bytearray(encode(pixels))),
        ("PIL", Image.fromarray),
        ("PIL", lambda pixels: Image.open(io.BytesIO(encode(pixels)))),
        ("ragged arrays", lambda pixels: pixels),
        ("ragged arrays", lambda pixels: torch.from_numpy(pixels).permute(2, 0, 1)),
    ],
    ids=["bytes", "bytearray", "PIL", "lazy PIL", "arrays", "CHW tensors"],
)
@pytest.mark.parametrize("container", [list, pd.Series, lambda items: pd.DataFrame({"x": items})])
def test_pictures_in_memory(kind, make, container):
    X = container([make(pixels) for pixels in COLOUR])
    assert as_images(X).kind == kind
    np.testing.assert_array_equal(decoded(X), COLOUR)


def test_object_array_of_pil_images():
    X = np.empty(N, dtype=object)
    X[:] = [Image.fromarray(pixels) for pixels in COLOUR]
    np.testing.assert_array_equal(decoded(X), COLOUR)


def test_a_mixed_list(paths):
    X = [paths[0], encode(COLOUR[1]), Image.fromarray(COLOUR[2]), COLOUR[3] / 255]
    assert as_images(X).kind == "mixed"
    np.testing.assert_array_equal(decoded(X), COLOUR)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy, np.ndarray.tolist])
def test_stacks_of_every_layout(convert):
    options = {"value_range": (0, 255)} if convert is np.ndarray.tolist else {}
    for stack, expected in [
        (COLOUR, COLOUR),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR),
        (GRAY, as_rgb(GRAY)),
        (GRAY[..., None], as_rgb(GRAY)),
        (GRAY[:, None], as_rgb(GRAY)),
    ]:
        np.testing.assert_array_equal(decoded(convert(stack.copy()), **options), expected)


def test_a_single_picture_with_a_first_axis():
    np.testing.assert_array_equal(decoded(GRAY[:1]), as_rgb(GRAY[:1]))
    np.testing.assert_array_equal(decoded(COLOUR[:1]), COLOUR[:1])


def test_every_slice_of_a_stack_is_read_as_the_stack_is():
    for n in range(1, N + 1):
        np.testing.assert_array_equal(decoded(GRAY[:n]), as_rgb(GRAY[:n]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats_run_from_0_to_1(dtype):
    # float16 has 11 bits: all 256 levels survive.
    np.testing.assert_array_equal(decoded((COLOUR / 255).astype(dtype)), COLOUR)


def test_every_level_of_a_float_picture():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    np.testing.assert_array_equal(decoded((levels / 255).astype("f4")), as_rgb(levels))
    np.testing.assert_array_equal(decoded(torch.from_numpy(levels) / 255), as_rgb(levels))


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_16_bit_stacks_are_scaled(dtype):
    wide = (GRAY.astype(np.uint16) * 257).astype(dtype)
    wide[0, 0, :2] = 128, 129  # either side of the first rounding
    expected = as_rgb(GRAY)
    expected[0, 0, :2] = [[0] * 3, [1] * 3]
    np.testing.assert_array_equal(decoded(wide), expected)


def test_bool_stacks():
    np.testing.assert_array_equal(decoded(GRAY > 99), as_rgb((GRAY > 99) * 255))


@pytest.mark.parametrize("dtype", [int, float, np.int16])
def test_value_range_of_stacks(dtype):
    shifted = GRAY.astype(dtype) - 100
    np.testing.assert_array_equal(decoded(shifted, value_range=(-100, 155)), as_rgb(GRAY))
    dark = GRAY // 16
    np.testing.assert_array_equal(
        decoded(dark.astype(dtype), value_range=(0, 15)), as_rgb(dark * 17)
    )


def test_rgba_arrays_are_laid_on_the_background():
    alpha = np.zeros((N, H, W, 1), dtype=np.uint8)
    alpha[:, 0] = 255
    expected = np.broadcast_to(np.uint8([1, 2, 3]), COLOUR.shape).copy()
    expected[:, 0] = COLOUR[:, 0]
    X = np.concatenate([COLOUR, alpha], axis=3)
    for stack in (X, X.transpose(0, 3, 1, 2), list(X), X / 255):
        np.testing.assert_array_equal(decoded(stack, background=(1, 2, 3)), expected)


def test_ragged_lists():
    pictures = [COLOUR[0], GRAY[1], COLOUR[2].transpose(2, 0, 1)[:, :5], COLOUR[3, 1:] / 255]
    images = as_images(pictures)
    expected = [COLOUR[0], as_rgb(GRAY[1]), COLOUR[2, :5], COLOUR[3, 1:]]
    for i in range(4):
        np.testing.assert_array_equal(images.decode(i), expected[i])


def test_layout_settles_what_the_shape_leaves_open():
    narrow = RNG.integers(0, 256, (2, 3, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decoded(narrow, layout="HWC"), narrow)
    np.testing.assert_array_equal(decoded(narrow, layout="CHW"), narrow.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(decoded(list(narrow), layout="HWC"), narrow)
    strips = GRAY[:, :, :3]
    np.testing.assert_array_equal(decoded(strips, layout="HW"), as_rgb(strips))


DIGITS = load_digits()
# 16 is white; halves are rounded to even.
DIGITS_RGB = as_rgb(np.round(DIGITS.images[:20] * 255 / 16).astype(np.uint8))


@pytest.mark.parametrize("dtype", [float, np.float32, int])
@pytest.mark.parametrize("container", [np.asarray, pd.DataFrame, np.ndarray.tolist, list])
def test_digits_work_as_they_come(dtype, container):
    X = container(DIGITS.data[:20].astype(dtype))
    np.testing.assert_array_equal(decoded(X, image_shape=(8, 8)), DIGITS_RGB)
    assert DIGITS_RGB.max() == 255


def test_digits_as_a_stack_of_floats():
    np.testing.assert_array_equal(decoded(DIGITS.images[:20], value_range=(0, 16)), DIGITS_RGB)


@pytest.mark.parametrize("dtype", [np.int64, float, np.uint8, "Int64", "float32"])
def test_mnist_works_as_it_comes(dtype):
    pixels = RNG.integers(0, 256, (3, 784))
    pixels[0, 0] = 255
    frame = pd.DataFrame(pixels, columns=[f"pixel{i}" for i in range(1, 785)]).astype(dtype)
    expected = as_rgb(pixels.reshape(3, 28, 28))
    np.testing.assert_array_equal(decoded(frame, image_shape=(28, 28)), expected)
    np.testing.assert_array_equal(decoded(frame, image_shape=(28, -1)), expected)
    np.testing.assert_array_equal(decoded(frame, image_shape=[28, 28, 1]), expected)


@pytest.mark.parametrize("order", ["HWC", "CHW"])
def test_colour_rows(order):
    pictures = COLOUR if order == "HWC" else COLOUR.transpose(0, 3, 1, 2)
    X = pictures.reshape(N, -1)
    np.testing.assert_array_equal(decoded(X, image_shape=pictures.shape[1:]), COLOUR)
    np.testing.assert_array_equal(decoded(X / 255, image_shape=pictures.shape[1:]), COLOUR)


def test_ambiguous_image_shape_with_layout():
    narrow = RNG.integers(0, 256, (2, 3, 8, 3), dtype=np.uint8)
    X = narrow.reshape(2, -1)
    np.testing.assert_array_equal(decoded(X, image_shape=(3, 8, 3), layout="HWC"), narrow)


@pytest.mark.parametrize("white", [1, 16, 255, 65535])
@pytest.mark.parametrize("dtype", [int, float, np.int32])
def test_a_dark_row_is_scaled_like_the_others(white, dtype):
    bright, dark = [white, 0, white, 0], [0, 1, 0, 0]
    rows = np.array([bright, dark], dtype=dtype)
    images = as_images(rows, image_shape=(2, 2))
    assert images.array_format == ArrayFormat("HW", (0, white), (2, 2))
    np.testing.assert_array_equal(images.decode(0)[..., 0], [[255, 0], [255, 0]])
    assert images.decode(1)[0, 1, 0] == round(255 / white)
    # The range is found once, so that a slice is read as the whole is.
    np.testing.assert_array_equal(images[1:].decode(0), images.decode(1))


def test_a_dark_row_of_fractions():
    images = as_images(np.array([[1, 0.5, 0, 0], [0, 0.1, 0, 0]]), image_shape=(2, 2))
    np.testing.assert_array_equal(images.decode(1)[..., 0], [[0, 26], [0, 0]])


def test_value_range_is_not_guessed_where_it_is_given():
    rows = np.array([[0, 1, 2, 3]])
    pixels = decoded(rows, image_shape=(2, 2), value_range=(0, 255))
    np.testing.assert_array_equal(pixels[0, ..., 0], [[0, 1], [2, 3]])


def test_uint8_rows_keep_the_range_of_their_dtype():
    rows = np.array([[0, 1, 2, 16]], dtype=np.uint8)
    np.testing.assert_array_equal(decoded(rows, image_shape=(2, 2))[0, ..., 0], rows.reshape(2, 2))


def test_values_outside_of_the_range_are_met_in_decoding():
    images = as_images(np.array([[[0, 16]], [[0, 17]], [[-1, 16]]]), value_range=(0, 16))
    assert images.decode(0).max() == 255
    with pytest.raises(ImageDecodeError, match=r"values run from 0 to 17, outside of value_range"):
        images.decode(1)
    with pytest.raises(ImageDecodeError, match=r"from -1 to 16, outside of value_range=\(0, 16\)"):
        images.decode(2)


@pytest.fixture
def h5(tmp_path):
    with h5py.File(tmp_path / "pictures.h5", "w") as file:
        file["colour"] = COLOUR
        file["first"] = COLOUR.transpose(0, 3, 1, 2) / np.float32(255)
        file["gray"] = GRAY.astype(">u2") * 257
        file["rows"] = GRAY.reshape(N, -1)
        file["wide rows"] = GRAY.reshape(N, -1).astype(int)
    with h5py.File(tmp_path / "pictures.h5") as file:
        yield file


def test_hdf5_data_sets(h5):
    np.testing.assert_array_equal(decoded(h5["colour"]), COLOUR)
    np.testing.assert_array_equal(decoded(h5["first"]), COLOUR)
    np.testing.assert_array_equal(decoded(h5["gray"]), as_rgb(GRAY))
    np.testing.assert_array_equal(decoded(h5["rows"], image_shape=(H, -1)), as_rgb(GRAY))
    wide = decoded(h5["wide rows"], image_shape=(H, W), value_range=(0, 255))
    np.testing.assert_array_equal(wide, as_rgb(GRAY))
    assert as_images(h5["colour"]).kind == "arrays"


def test_nothing_empty_is_refused_before_its_time():
    for X in (
        [],
        np.empty((0, 8, 8), np.uint8),
        np.empty((0, 3, 8, 8)),
        pd.Series([], dtype=object),
    ):
        images = as_images(X)
        assert len(images) == 0
        assert images.check() == []
    assert len(as_images(np.empty((0, 64)), image_shape=(8, 8))) == 0


def test_a_collection_is_returned_as_it_is():
    images = as_images(COLOUR)
    assert as_images(images) is images


def test_options_of_a_collection_can_be_changed():
    rows = as_images(DIGITS.data[:20], image_shape=(8, 8))
    dimmed = as_images(rows, value_range=(0, 255))
    assert isinstance(dimmed, ImageCollection)
    np.testing.assert_array_equal(dimmed.decode(0)[..., 0], DIGITS.images[0])
    np.testing.assert_array_equal(rows.decode(0), DIGITS_RGB[0])
    clear = as_images(np.zeros((1, 5, 5, 4), dtype=np.uint8))
    np.testing.assert_array_equal(as_images(clear, background="red").decode(0)[0, 0], [255, 0, 0])
    np.testing.assert_array_equal(clear.decode(0)[0, 0], [255, 255, 255])


def test_image_shape_is_for_rows_only(paths):
    np.testing.assert_array_equal(decoded(paths, image_shape=(2, 2)), COLOUR)
    np.testing.assert_array_equal(decoded(COLOUR, image_shape=(2, 2)), COLOUR)
    np.testing.assert_array_equal(decoded(list(COLOUR), image_shape=(2, 2)), COLOUR)


def test_arrays_are_not_copied():
    for X in (COLOUR, torch.from_numpy(COLOUR)):
        assert np.shares_memory(as_images(X)[1], COLOUR)
    assert np.shares_memory(as_images(DIGITS.data, image_shape=(8, 8))[3], DIGITS.data)
