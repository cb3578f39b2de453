"""What cannot be read: found early by its header, or met in decoding, and always named."""

import io
import os
import pickle
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from PIL import Image, features

from sktl.exceptions import BadImage, ImageDecodeError, SktlError
from sktl.images import as_images, decode_image
from sktl.images._decode import BadImageError
from sktl.utils._quiet import PILLOW_QUIET

NOISE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
OPTIONS = {"TIFF-LZW": {"compression": "tiff_lzw"}, "WEBP-lossless": {"lossless": True}}
FORMATS = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "TIFF-LZW", "WEBP", "WEBP-lossless"]
FORMATS += ["AVIF"] if features.check("avif") else []


def encode(name="PNG", pixels=NOISE, **options):
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    image.save(buffer, name.split("-")[0], **OPTIONS.get(name, {}), **options)
    return buffer.getvalue()


def reason(item):
    """Why `item` cannot be decoded."""
    with pytest.raises(ImageDecodeError) as caught:
        as_images([item]).decode(0)
    (failure,) = caught.value.failures
    return failure.reason


def test_check_names_index_path_and_reason(tmp_path):
    good, empty, text, missing = (
        tmp_path / name for name in ("good.png", "empty.jpg", "text.jpg", "no")
    )
    good.write_bytes(encode())
    empty.touch()
    text.write_text("no picture at all\n" * 100)
    paths = [good, empty, text, missing, tmp_path, good]

    bad = as_images(paths).check()

    assert bad == [
        BadImage(1, str(empty), "empty (0 bytes)"),
        BadImage(2, str(text), "not a picture in a format that Pillow recognises"),
        BadImage(3, str(missing), "file not found"),
        BadImage(4, str(tmp_path), "a folder, not a picture; see load_image_folder"),
    ]
    for failure in bad:
        assert reason(paths[failure.index]) == failure.reason


def test_check_of_bytes():
    bad = as_images([b"", encode(), b"nonsense"]).check()
    assert bad == [
        BadImage(0, "<0 bytes>", "empty (0 bytes)"),
        BadImage(2, "<8 bytes>", "not a picture in a format that Pillow recognises"),
    ]


@pytest.mark.parametrize("entry", [None, np.nan, pd.NA, pd.NaT])
@pytest.mark.parametrize("container", [list, pd.Series, pd.DataFrame])
def test_check_finds_missing_entries(entry, container, tmp_path):
    (tmp_path / "good.png").write_bytes(encode())
    path = str(tmp_path / "good.png")
    entries = [path, entry, path]
    images = as_images(entries if container is list else container(entries, dtype=object))
    (bad,) = images.check()
    assert bad.index == 1
    assert bad.reason == f"not a picture but {entry!r}"
    with pytest.raises(ImageDecodeError, match="not a picture but"):
        images.decode(1)


def test_check_of_a_string_column_with_gaps(tmp_path):
    (tmp_path / "good.png").write_bytes(encode())
    images = as_images(pd.Series([str(tmp_path / "good.png"), None], dtype="str"))
    assert [failure.index for failure in images.check()] == [1]


def test_check_of_what_is_no_picture():
    reasons = [bad.reason for bad in as_images([{"a": 1}, object, NOISE, pd.Timestamp(0)]).check()]
    assert reasons[0] == "not a picture but {'a': 1}"
    assert len(reasons) == 3


def test_check_of_arrays_looks_at_shape_and_dtype():
    pictures = [NOISE, NOISE[0, 0], np.zeros((3, 9, 3)), NOISE.astype(int), NOISE[:0], NOISE * 1j]
    bad = as_images([*pictures, np.full((4, 5), 7.0)]).check()
    assert [failure.index for failure in bad] == [1, 2, 3, 4, 5]
    assert bad[0].source == "<array (3,)>"
    assert "must be (height, width), (height, width, C) or" in bad[0].reason
    assert 'layout="HWC"' in bad[1].reason
    assert "dtype int64 do not say which value is white" in bad[2].reason
    assert bad[3].reason == "has no pixels"
    ranged = as_images(pictures, value_range=(0, 255)).check()
    assert [failure.index for failure in ranged] == [1, 2, 4, 5]
    assert "real numbers; got dtype complex128" in ranged[-1].reason


def test_check_of_some_positions_only():
    images = as_images([b"", encode(), b"", b""])
    assert [failure.index for failure in images.check([1, 3])] == [3]
    assert [failure.index for failure in images[1:].check()] == [1, 2]


def test_nothing_is_opened_before_check(tmp_path):
    images = as_images([tmp_path / "later.png"])
    assert len(images.check()) == 1
    (tmp_path / "later.png").write_bytes(encode())
    assert images.check() == []


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "BMP"])
def test_check_reads_the_header_and_decode_meets_the_damage(name, tmp_path):
    content = encode(name)
    path = tmp_path / "half.img"
    path.write_bytes(content[: len(content) // 2])
    images = as_images([path])
    assert images.check() == []
    with pytest.raises(ImageDecodeError) as caught:
        images.decode(0)
    (bad,) = caught.value.failures
    why = bad.reason
    assert (bad.index, bad.source) == (0, str(path))
    assert why.startswith("damaged: image file is truncated")
    assert str(path) in str(caught.value)
    assert why in str(caught.value)


@pytest.mark.parametrize("name", FORMATS)
def test_truncation_is_never_taken_for_a_picture(name):
    content = encode(name)
    for part in (0.1, 0.5, 0.9):
        assert reason(content[: int(len(content) * part)])


def corrupted(name):
    content = bytearray(encode(name))
    middle = len(content) // 2
    content[middle : middle + 300] = b"\xff\xd8" * 150  # not even JPEG, the lenient, takes this
    return bytes(content)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "TIFF-LZW"])
def test_corrupted_body(name):
    content = corrupted(name)
    assert as_images([content]).check() == []
    assert reason(content).startswith("damaged: ")


def cut_short(name):
    return encode(name)[:-500]


@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, damage) for name in ("JPEG", "PNG", "GIF") for damage in (corrupted, cut_short)]
    + [("TIFF-LZW", corrupted)],
)
def test_a_damaged_pil_image_fails_every_time(name, damage, tmp_path):
    # Pillow raises at the first load of some, and hands out what is there at the second.
    path = tmp_path / "damaged.img"
    path.write_bytes(damage(name))
    with Image.open(path) as from_file, Image.open(io.BytesIO(path.read_bytes())) as from_memory:
        for image in [from_file, from_memory] * 3:
            assert reason(image)


def test_a_pil_image_whose_file_was_closed(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(encode())
    with Image.open(path) as closed:
        pass
    with Image.open(path) as loaded:
        loaded.load()
    images = as_images([closed, loaded])
    (bad,) = images.check()
    assert bad == BadImage(
        0,
        "<PIL image RGB 56x40>",
        "its file was closed before the pixels were loaded, or is damaged",
    )
    assert reason(closed) == bad.reason
    np.testing.assert_array_equal(images.decode(1), NOISE)


def test_an_exception_without_words_is_named(monkeypatch):
    def fail(self):
        raise AssertionError

    monkeypatch.setattr(Image.Image, "getexif", lambda self: {})
    monkeypatch.setattr(Image.Image, "convert", lambda *args: fail(None))
    assert reason(Image.new("L", (3, 3))) == "damaged: AssertionError"


def test_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "locked.png"
    path.write_bytes(encode())

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refuse)  # chmod does not stop the superuser
    (bad,) = as_images([path]).check()
    assert bad.reason == f"cannot be opened: [Errno 13] Permission denied: '{path}'"


def test_null_byte_in_a_path():
    (bad,) = as_images(["a\0b.png"]).check()
    assert "cannot be opened: embedded null byte" in bad.reason


def test_memory_errors_are_not_blamed_on_the_picture(monkeypatch):
    def fail(self):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(MemoryError):
        decode_image(Image.new("L", (3, 3)))


def test_the_error_pickles():
    with pytest.raises(ImageDecodeError) as caught:
        as_images([encode(), b"nonsense"]).decode(1)
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.failures == caught.value.failures
    assert error.failures[0].index == 1
    assert (error.n_images, str(error)) == (2, str(caught.value))
    assert isinstance(error, (SktlError, ValueError))


@pytest.mark.parametrize("item", [3, None, NOISE, [encode()]])
def test_decode_image_takes_encoded_pictures_only(item):
    with pytest.raises(ImageDecodeError, match="is not a path, bytes or a PIL image"):
        decode_image(item)


LIMIT = NOISE.shape[0] * NOISE.shape[1]


# One pixel over the limit Pillow warns, and from twice the limit on it raises.
@pytest.mark.parametrize("limit", [LIMIT - 1, LIMIT // 2 - 1])
@pytest.mark.parametrize("name", ["PNG", "JPEG"])
def test_decompression_bombs(name, limit, tmp_path, monkeypatch):
    content = encode(name)
    path = tmp_path / "bomb.img"
    path.write_bytes(content)
    items = [path, content, Image.fromarray(NOISE)]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", LIMIT)
    assert as_images(items).check() == []
    assert decode_image(content).shape == NOISE.shape

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)

    bad = as_images(items).check()
    assert [failure.index for failure in bad] == [0, 1, 2]
    for item, failure in zip(items, bad, strict=True):
        assert failure.reason.startswith("too large: ")
        assert str(limit) in failure.reason
        assert reason(item) == failure.reason

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert as_images(items).check() == []
    assert decode_image(content).shape == NOISE.shape


def test_arrays_in_memory_are_no_bombs(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    rgba = np.dstack([NOISE, NOISE[..., 0]])
    assert as_images(rgba[None]).decode(0).shape == NOISE.shape


def test_a_bomb_met_while_loading(monkeypatch):
    def fail(self):
        raise Image.DecompressionBombError("huge")

    monkeypatch.setattr(Image.Image, "load", fail)
    assert reason(Image.new("L", (3, 3))).startswith("too large: huge (")


def odd_but_good():
    """Pictures that Pillow reads with a warning."""
    plain = encode("JPEG")
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0"  # two entries, cut in the first
    mpo = b"MPF\0II*\0\x08\0\0\0\x01\0\x01\xb0\x04\0\x01\0\0\0\x02\0\0\0\0\0\0\0"
    png = encode("PNG")  # 33 bytes of signature and header, then an animation of 0 frames
    animation = b"acTL" + bytes(8)
    animation = struct.pack(">I", 8) + animation + struct.pack(">I", zlib.crc32(animation))
    return {
        "cut EXIF": encode("JPEG", exif=exif),
        "malformed MPO": plain[:2]
        + b"\xff\xe2"
        + struct.pack(">H", len(mpo) + 2)
        + mpo
        + plain[2:],
        "invalid APNG": png[:33] + animation + png[33:],
    }


@pytest.mark.parametrize("name", odd_but_good())
@pytest.mark.parametrize("action", ["error", "always"])
def test_the_warnings_of_pillow_neither_show_nor_decide(name, action):
    content = odd_but_good()[name]
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter(action)
        with pytest.raises(UserWarning) if action == "error" else warnings.catch_warnings():
            image = Image.open(io.BytesIO(content))  # the premise: Pillow does warn
            image.getexif()
        shown.clear()
        assert as_images([content]).check() == []
        pixels = decode_image(content)
        assert shown == []
    assert pixels.shape == NOISE.shape


def test_the_filters_of_the_user_are_left_alone():
    broken = encode("PNG")[:-100]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        before = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool:
            outcomes = list(
                pool.map(as_images([broken, encode()] * 200).check, [[i] for i in range(400)])
            )
        assert not any(outcomes)
        for _ in range(3):
            reason(broken)
        assert list(warnings.filters) == before


def test_filters_restored_under_our_feet():
    with warnings.catch_warnings():
        PILLOW_QUIET.__enter__()
    PILLOW_QUIET.__exit__()
    assert not any("PIL" in str(entry) for entry in warnings.filters)


@pytest.mark.parametrize("name", FORMATS)
def test_random_damage_raises_nothing_else(name, recwarn):
    rng = np.random.default_rng(FORMATS.index(name))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    options = {} if name in ("GIF", "BMP") else {"exif": exif}
    content = encode(name, NOISE[:12, :16], **options)
    reasons = []
    for trial in range(120):
        damaged = bytearray(content)
        if trial % 3 == 0:
            del damaged[rng.integers(len(damaged)) :]
        else:  # headers are short, so that half of the hits go there
            end = len(damaged) if trial % 3 == 1 else min(len(damaged), 200)
            for position in rng.integers(end, size=rng.integers(1, 6)):
                damaged[position] = rng.integers(256)
        images = as_images([bytes(damaged)])
        images.check()
        for decode in (images.decode, images.read_rgb):
            try:
                decode(0)
            except (BadImageError, ImageDecodeError) as error:
                reasons.append(str(error))
    assert all(reasons)
    assert 40 < len(reasons) < 240  # of 240: the damage is neither always fatal nor never
    assert len(recwarn) == 0


def test_sources_of_foreign_paths(tmp_path):
    entries = {entry.name: entry for entry in os.scandir(tmp_path)}
    assert entries == {}
    (tmp_path / "a.png").write_bytes(encode())
    (entry,) = os.scandir(tmp_path)
    images = as_images([entry])
    assert images.kind == "paths"
    assert images.describe(0) == str(tmp_path / "a.png")
    np.testing.assert_array_equal(images.decode(0), NOISE)
