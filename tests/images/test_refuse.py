"""What is not taken for pictures; each message names the culprit and the remedy."""

import os
import re
import sys
from collections import UserDict

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from PIL import Image

from sktl.exceptions import ImageDecodeError, ImageFormatError, ParameterError, SktlError
from sktl.images import as_images, decode_image

PICTURE = np.zeros((32, 40, 3), dtype=np.uint8)
ROWS = np.zeros((5, 784))

CASES = {
    "one path": ("cat.jpg", {}, "got one str", "Pass a list of them: [x]"),
    "a folder": (os.curdir, {}, "got one str", "load_image_folder lists those of a folder"),
    "one bytes": (b"PNG", {}, "got one bytes", "[x]"),
    "one PIL image": (Image.new("L", (2, 2)), {}, "got one Image", "[x]"),
    "dict": ({"a": "cat.jpg"}, {}, "got dict", "list(X.values())"),
    "mapping": (UserDict(images=[]), {}, "got UserDict", "one of its keys ('images') holds"),
    "pairs": (
        [("cat.jpg", 0)],
        {},
        "X[0] must be one picture; got it beside something else (int)",
        "for picture, _",
    ),
    "pairs of arrays": (
        [(PICTURE, "cat")],
        {},
        "beside something else (str)",
        "for picture, _ in X",
    ),
    "None": (None, {}, "got NoneType", "X must be a list, array, Series, DataFrame"),
    "number": (3, {}, "got int", "X must be a list"),
    "generator": ((p for p in ["a.jpg"]), {}, "got generator", "Pass list(X)"),
    "set": ({"a.jpg"}, {}, "got set", "Pass list(X)"),
    "sparse matrix": (scipy.sparse.csr_matrix(ROWS), {}, "sparse matrix", "X.toarray()"),
    "sparse array": (scipy.sparse.coo_array(ROWS), {}, "sparse matrix", "image_shape="),
    "device": (torch.zeros((2, 8, 8), device="meta"), {}, "on the device meta", "X.cpu()"),
    "rows": (ROWS, {}, "X of shape (5, 784) looks like flattened rows", "image_shape=(28, 28)"),
    "list of rows": (ROWS.tolist(), {}, "X of shape (5, 784)", "image_shape=(28, 28)"),
    "frame of rows": (pd.DataFrame(ROWS), {}, "X of shape (5, 784)", "image_shape=(28, 28)"),
    "rows of unequal length": ([[1, 2, 3, 4], [1, 2]], {"image_shape": (2, 2)}, "differ", "rows"),
    "wrong image_shape": (
        ROWS,
        {"image_shape": (28, 29)},
        "image_shape=(28, 29)",
        "does not fit rows of 784 values",
    ),
    "indivisible image_shape": (ROWS, {"image_shape": (25, -1)}, "(25, -1)", "784"),
    "image_shape of 5 channels": (
        np.zeros((2, 500)),
        {"image_shape": (10, 10, 5)},
        "image_shape (10, 10, 5)",
        "C = 1, 3 or 4 channels",
    ),
    "ambiguous image_shape": (
        np.zeros((2, 72)),
        {"image_shape": (3, 8, 3)},
        "image_shape (3, 8, 3) can be channels-last or channels-first",
        'as_images(X, layout="HWC")',
    ),
    "a vector": (np.zeros(9), {}, "X of shape (9,) does not hold pictures", "(n, H, W)"),
    "no dimension": (np.array(3.0), {}, "X of shape () does not hold pictures", "(n, H, W)"),
    "list of numbers": ([1, 2, 3], {}, "X[0] is the number 1", "image_shape="),
    "Series of numbers": (pd.Series([0.5, 1]), {}, "X[0] is the number 0.5", "image_shape="),
    "one picture": (PICTURE, {}, "looks like one picture", "Pass X[None]"),
    "gray strips": (PICTURE, {}, "32 gray pictures of 40 x 3", 'layout="HW"'),
    "ambiguous stack": (
        np.zeros((1, 3, 9, 3)),
        {},
        "pictures of shape (3, 9, 3) can be channels-last or channels-first",
        'layout="CHW"',
    ),
    "two channels": (np.zeros((2, 9, 9, 2)), {}, "pictures of shape (9, 9, 2)", "C = 1, 3 or 4"),
    "five axes": (
        np.zeros((2, 3, 9, 9, 3)),
        {},
        "(3, 9, 9, 3)",
        "must be (height, width), (height, width, C) or",
    ),
    "layout of another number of axes": (
        np.zeros((2, 9, 9)),
        {"layout": "HWC"},
        "pictures of shape (9, 9)",
        'cannot have layout="HWC"',
    ),
    "layout of five channels": (
        np.zeros((2, 5, 9, 9)),
        {"layout": "CHW"},
        "(5, 9, 9)",
        "C is 1, 3",
    ),
    "floats up to 255": (
        np.full((2, 8, 8), 255.0),
        {},
        "must have values in [0, 1]; got 255 to 255",
        "value_range=(0, 255)",
    ),
    "negative floats": (np.full((2, 8, 8), -0.5), {}, "got -0.5 to -0.5", "value_range="),
    "NaN": (np.full((2, 8, 8), np.nan), {}, "finite", "got NaN or infinity"),
    "infinity": (np.full((2, 8, 8), np.inf), {}, "finite", "got NaN or infinity"),
    "int64": (
        np.zeros((2, 8, 8), int),
        {},
        "dtype int64 do not say which",
        "Convert them to uint8",
    ),
    "int8": (np.zeros((2, 8, 8), np.int8), {}, "dtype int8", "value_range=(0, 255)"),
    "complex": (np.zeros((2, 8, 8), complex), {}, "dtype complex128", "must hold real numbers"),
    "negative rows": (-np.ones((2, 64)), {"image_shape": (8, 8)}, "from -1 to -1", "value_range="),
    "fractions over 1": (
        np.full((2, 64), 1.5),
        {"image_shape": (8, 8)},
        "from 1.5 to 1.5",
        "value_range=",
    ),
    "huge rows": (np.full((2, 64), 70_000), {"image_shape": (8, 8)}, "70000", "value_range="),
    "NaN rows": (np.full((2, 64), np.nan), {"image_shape": (8, 8)}, "finite", "NaN"),
    "frame with gaps": (
        pd.DataFrame({"a": [1, None], "b": [2, 3]}, dtype="Int64"),
        {"image_shape": (1, 2)},
        "finite",
        "NaN",
    ),
    "infinite rows": (np.full((2, 64), np.inf), {"image_shape": (8, 8)}, "finite", "infinity"),
    "frame of several columns of strings": (
        pd.DataFrame({"label": ["cat"], "path": ["cat.jpg"]}),
        {},
        "of its 2 columns these hold no numbers: 'label', 'path'",
        "X['label']",
    ),
    "frame of pixels with its target": (
        pd.DataFrame({"pixel1": [1], "pixel2": [2], "class": ["cat"]}),
        {"image_shape": (1, 2)},
        "these hold no numbers: 'class'. ",
        "drop what is no pixel",
    ),
    "array of pairs": (
        np.array([["a.jpg", "b.jpg"]]),
        {},
        "shape (1, 2)",
        "one path or picture a row",
    ),
    "nested lists of unequal length": (
        [[[1, 2], [3]]],
        {},
        "X[0] must be one picture",
        "got a list",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_message_names_culprit_and_remedy(case):
    X, options, culprit, remedy = CASES[case]
    with pytest.raises(ImageFormatError) as caught:
        as_images(X, **options)
    assert culprit in str(caught.value)
    assert remedy in str(caught.value)
    assert isinstance(caught.value, (SktlError, ValueError))


OPTIONS = [
    ("layout", "hwc", 'layout must be "HW", "HWC" or "CHW"; got \'hwc\''),
    ("layout", "NCHW", "got 'NCHW'"),
    ("value_range", (255, 0), "value_range must be the two values of black and white"),
    ("value_range", (0, 0), "got (0, 0)"),
    ("value_range", (0, 1, 2), "got (0, 1, 2)"),
    ("value_range", (0, np.inf), "got (0, inf)"),
    ("value_range", (np.nan, 1), "got (nan, 1)"),
    ("value_range", "white", "value_range must be"),
    ("value_range", 255, "such as (0, 255); got 255"),
    ("image_shape", 784, "image_shape must be 2 or 3 whole numbers"),
    ("image_shape", (784,), "such as (28, 28) or (32, 32, 3); got (784,)"),
    ("image_shape", (1, 28, 28, 1), "got (1, 28, 28, 1)"),
    ("image_shape", (28.0, 28.0), "2 or 3 whole numbers"),
    ("image_shape", "28", "2 or 3 whole numbers"),
    ("background", "no colour", "background must be the name of a colour"),
    ("background", (0, 0, 256), "got (0, 0, 256)"),
]


@pytest.mark.parametrize(("name", "value", "message"), OPTIONS)
@pytest.mark.parametrize("X", [["a.jpg"], np.zeros((2, 8, 8)), as_images(["a.jpg"])])
def test_wrong_options(name, value, message, X):
    with pytest.raises(ParameterError, match=re.escape(message)):
        as_images(X, **{name: value})


def test_ragged_pictures_fail_one_by_one():
    # Nothing is wrong with the list as a whole, so that the others can still be used.
    good = np.zeros((8, 9))
    images = as_images([good, good + 7, good - 1, good * np.nan, good])
    for i, words in [(1, "got 7 to 7"), (2, "got -1 to -1"), (3, "NaN or infinity")]:
        with pytest.raises(ImageDecodeError, match=words) as caught:
            images.decode(i)
        assert caught.value.failures[0].index == i
    assert images.decode(4).shape == (8, 9, 3)


def test_hdf5_is_refused_without_looking_at_its_values(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "pictures.h5", "w") as file:
        for name, array, options, message in [
            ("rows", ROWS, {}, "image_shape="),
            ("shape", ROWS, {"image_shape": (28, 29)}, "does not fit rows of 784 values"),
            ("dtype", ROWS.astype(int), {"image_shape": (28, 28)}, "value_range="),
            ("vector", np.zeros(5), {}, "X of shape (5,) does not hold pictures"),
        ]:
            with pytest.raises(ImageFormatError, match=re.escape(message)):
                as_images(file.create_dataset(name, data=array), **options)
        bright = as_images(file.create_dataset("bright", data=np.full((2, 4, 5), 9.0)))
        with pytest.raises(ImageDecodeError, match=r"values in \[0, 1\]; got 9 to 9"):
            bright.decode(0)


def test_torch_is_not_needed_to_refuse(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImageFormatError, match="X of shape"):
        as_images(ROWS)
    assert as_images(np.zeros((2, 8, 8))).decode(1).shape == (8, 8, 3)


def test_a_format_that_pillow_reads_by_running_a_program_is_refused():
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n"
    with pytest.raises(ImageDecodeError, match="not a picture"):
        decode_image(content)
