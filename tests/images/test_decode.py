"""Every mode and format to the RGB values that it stands for."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from sktl.exceptions import ParameterError
from sktl.images import as_images, decode_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
LOSSLESS = ["PNG", "WEBP", "BMP", "TIFF", "GIF"]
OPTIONS = {"WEBP": {"lossless": True}}
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")


def encode(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **OPTIONS.get(format, {}), **options)
    return buffer.getvalue()


def chunk(name, content):
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def png(samples, colour_type, depth=8, extra=b""):
    """A PNG written by hand: Pillow writes neither 16-bit colour nor most uses of tRNS."""
    samples = np.asarray(samples)
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in samples.astype(">u2" if depth == 16 else "u1"))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def as_rgb(gray):
    return np.repeat(np.asarray(gray, dtype=np.uint8)[:, :, None], 3, axis=2)


def over(rgb, alpha, background):
    """Alpha composition in exact arithmetic."""
    alpha = np.asarray(alpha, dtype=float)[:, :, None] / 255
    return rgb * alpha + np.asarray(background, dtype=float) * (1 - alpha)


@pytest.mark.parametrize("format", [*LOSSLESS, "JPEG"])
def test_path_bytes_pil_and_array_give_equal_pixels(format, tmp_path):
    image = Image.fromarray(RGB).quantize(8) if format == "GIF" else Image.fromarray(RGB)
    content = encode(image, format)
    path = tmp_path / f"picture.{format.lower()}"
    path.write_bytes(content)
    reference = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    if format != "JPEG":
        np.testing.assert_array_equal(reference, np.array(image.convert("RGB")))

    decoded = [decode_image(x) for x in (path, str(path), content, bytearray(content))]
    decoded += [decode_image(memoryview(content)), decode_image(Image.open(io.BytesIO(content)))]
    decoded.append(as_images(reference[None]).decode(0))

    for pixels in decoded:
        assert pixels.dtype == np.uint8
        assert pixels.flags.writeable
        np.testing.assert_array_equal(pixels, reference)


@needs_avif
def test_avif():
    flat = np.full((16, 16, 3), (200, 40, 90), dtype=np.uint8)
    content = encode(Image.fromarray(flat), "AVIF", quality=95)
    np.testing.assert_allclose(decode_image(content).astype(int), flat, atol=4)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "JPEG", "GIF"])
def test_grayscale(format):
    pixels = decode_image(encode(Image.fromarray(GRAY), format, quality=100))
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])
    np.testing.assert_allclose(pixels.astype(int), as_rgb(GRAY), atol=2 if format == "JPEG" else 0)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF"])
def test_one_bit(format):
    bits = GRAY > 127
    pixels = decode_image(encode(Image.fromarray(bits), format))
    np.testing.assert_array_equal(pixels, as_rgb(bits * 255))


def test_palette():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([2, 0, 1])
    expected = [[[70, 80, 90], [10, 20, 30], [40, 50, 60]]]
    for format in ("PNG", "GIF", "BMP", "TIFF"):
        np.testing.assert_array_equal(decode_image(encode(image, format)), expected)


@pytest.mark.parametrize("transparency", [1, b"\xff\x00\x80"], ids=["one index", "alpha table"])
def test_palette_with_transparency(transparency):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    content = encode(image, "PNG", transparency=transparency)

    pixels = decode_image(content, background=(200, 0, 100))

    last = (70, 80, 90) if transparency == 1 else (135, 40, 95)
    np.testing.assert_allclose(pixels.astype(int), [[(10, 20, 30), (200, 0, 100), last]], atol=1)


def test_gif_with_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    pixels = decode_image(encode(image, "GIF", transparency=1), background="lime")
    np.testing.assert_array_equal(pixels, [[(10, 20, 30), (0, 255, 0)]])


@pytest.mark.parametrize(
    ("background", "colour"),
    [("white", (255, 255, 255)), ("#ff8000", (255, 128, 0)), ((1, 2, 3), (1, 2, 3))],
)
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_rgba_is_laid_on_the_background(format, background, colour):
    alpha = RNG.integers(0, 256, GRAY.shape, dtype=np.uint8)
    alpha[0, :3] = 0, 255, 128
    content = encode(Image.fromarray(np.dstack([RGB, alpha])), format, exact=True)
    pixels = decode_image(content, background=background)
    np.testing.assert_array_equal(pixels[0, 0], colour)
    np.testing.assert_array_equal(pixels[0, 1], RGB[0, 1])
    np.testing.assert_allclose(pixels, over(RGB, alpha, colour), atol=1)


@pytest.mark.parametrize("premultiplied", [False, True])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_modes_of_pil_images(mode, premultiplied):
    alpha = np.array([[0, 255, 128]], dtype=np.uint8)
    colour = np.full((1, 3, 3), 200, dtype=np.uint8)
    image = Image.fromarray(np.dstack([colour, alpha])).convert(mode)
    if premultiplied:
        image = image.convert({"LA": "La", "RGBA": "RGBa"}[mode])
    pixels = decode_image(image, background=(0, 100, 255))
    np.testing.assert_allclose(pixels, over(colour, alpha, (0, 100, 255)), atol=2)


def test_palette_image_with_alpha():
    image = Image.fromarray(np.dstack([RGB, GRAY])).convert("PA")
    expected = over(np.array(image.convert("RGB")), GRAY, (9, 9, 9))
    np.testing.assert_allclose(decode_image(image, background=(9, 9, 9)), expected, atol=1)


@pytest.mark.parametrize(
    ("samples", "colour_type", "depth", "key", "expected"),
    [
        ([[(1, 2, 3), (4, 5, 6)]], 2, 8, (1, 2, 3), [[(10, 20, 30), (4, 5, 6)]]),
        ([[7, 8]], 0, 8, (8,), [[(7, 7, 7), (10, 20, 30)]]),
        ([[257 * 7, 257 * 8]], 0, 16, (257 * 8,), [[(7, 7, 7), (10, 20, 30)]]),
        ([[257 * 7, 257 * 7 + 1]], 0, 16, (257 * 7,), [[(10, 20, 30), (7, 7, 7)]]),
    ],
    ids=["RGB", "gray", "16-bit gray", "16-bit gray, one level apart"],
)
def test_transparent_colour_of_png(samples, colour_type, depth, key, expected):
    extra = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    content = png(samples, colour_type, depth, extra)
    np.testing.assert_array_equal(decode_image(content, background=(10, 20, 30)), expected)


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk(format):
    ink = np.zeros((8, 24, 4), dtype=np.uint8)
    ink[:, 8:16] = 0, 255, 255, 0  # red
    ink[:, 16:] = 0, 0, 0, 255  # black
    options = {"quality": 100} if format == "JPEG" else {}
    pixels = decode_image(encode(Image.fromarray(ink, "CMYK"), format, **options)).astype(int)
    np.testing.assert_allclose(pixels[:, 2], 255, atol=3)
    np.testing.assert_allclose(pixels[:, 12], [(255, 0, 0)] * 8, atol=3)
    np.testing.assert_allclose(pixels[:, 22], 0, atol=3)


def test_ycbcr():
    colours = np.array([[(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 99, 199)]], dtype=np.uint8)
    image = Image.fromarray(colours).convert("YCbCr")
    for item in (image, encode(image, "TIFF")):
        np.testing.assert_allclose(decode_image(item).astype(int), colours, atol=3)


def test_lab():
    colours = np.array([[(250, 10, 10), (20, 130, 60), (90, 90, 90)]], dtype=np.uint8)
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(Image.fromarray(colours), srgb, lab, outputMode="LAB")
    for item in (image, encode(image, "TIFF")):
        np.testing.assert_allclose(decode_image(item).astype(int), colours, atol=6)


WIDE = np.array([[0, 1, 257, 32768, 40000, 65535]])
NARROW = [[0, 0, 1, 128, 156, 255]]


def test_16_bit_gray_png_is_scaled():
    np.testing.assert_array_equal(decode_image(png(WIDE, 0, 16)), as_rgb(NARROW))


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_gray_tiff_is_scaled(order):
    image = Image.fromarray(WIDE.astype("<u2"))
    if order == ">":
        image = Image.frombytes("I;16B", (6, 1), WIDE.astype(">u2").tobytes())
    content = encode(image, "TIFF")
    assert content[:2] == (b"II" if order == "<" else b"MM")
    for item in (image, content):
        np.testing.assert_array_equal(decode_image(item), as_rgb(NARROW))


def test_a_dark_16_bit_picture_stays_dark():
    np.testing.assert_array_equal(decode_image(png([[0, 257, 514]], 0, 16)), as_rgb([[0, 1, 2]]))


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (6, 4)])
def test_16_bit_colour_png_is_scaled(colour_type, channels):
    samples = RNG.integers(0, 65536, (4, 5, channels))
    samples[0, 0, :3] = 65535, 0, 256
    if channels == 4:
        samples[..., 3] = 65535
    pixels = decode_image(png(samples, colour_type, 16)).astype(int)
    # Pillow keeps the high byte, which is at most one level below rounding.
    np.testing.assert_array_equal(pixels, samples[..., :3] >> 8)
    np.testing.assert_allclose(pixels, samples[..., :3] / 257, atol=1)


def test_32_bit_integer_tiff():
    image = Image.fromarray(WIDE.astype(np.int32))
    assert image.mode == "I"
    for item in (image, encode(image, "TIFF")):
        np.testing.assert_array_equal(decode_image(item), as_rgb(NARROW))


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_float_tiff(white):
    levels = np.array([[0, 0.25, 0.5, 1]], dtype=np.float32)
    image = Image.fromarray(levels * white)
    for item in (image, encode(image, "TIFF")):
        np.testing.assert_array_equal(decode_image(item), as_rgb([[0, 64, 128, 255]]))


@pytest.mark.parametrize("samples", [[[-1.0, 1]], [[0, 70000.0]], [[0, np.nan]], [[0, np.inf]]])
def test_float_samples_without_an_agreed_white_are_refused(samples):
    image = Image.fromarray(np.array(samples, dtype=np.float32))
    with pytest.raises(ValueError, match="no agreed white; rescale them"):
        decode_image(image)


TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
BLOCKS = np.kron(RNG.integers(0, 2, (2, 3, 3), dtype=np.uint8) * 255, np.ones((16, 16, 1), "u1"))
BLOCKS[:16, :16], BLOCKS[16:, 32:] = (255, 0, 0), (0, 0, 255)


def with_orientation(orientation, format, **options):
    image = Image.fromarray(BLOCKS)
    exif = image.getexif()
    exif[0x0112] = orientation
    return encode(image, format, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("WEBP", {}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
    ids=["PNG", "WEBP", "JPEG", "TIFF", "TIFF-LZW"],
)
def test_exif_orientation_is_applied_once(format, options, orientation):
    content = with_orientation(orientation, format, **options)
    lazy = Image.open(io.BytesIO(content))
    for item in (content, lazy, lazy, lazy.copy()):
        np.testing.assert_allclose(
            decode_image(item).astype(int),
            TURNS[orientation](BLOCKS),
            atol=6 if format == "JPEG" else 0,
        )


def test_orientation_of_16_bit_and_palette_pictures():
    gray = Image.fromarray(WIDE.astype("<u2"))
    exif = gray.getexif()
    exif[0x0112] = 6
    pixels = decode_image(encode(gray, "PNG", exif=exif))
    np.testing.assert_array_equal(pixels, as_rgb(np.transpose(NARROW)))
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    content = encode(palette, "PNG", exif=exif, transparency=b"\xff\x00")
    pixels = decode_image(content, background=(7, 8, 9))
    np.testing.assert_array_equal(pixels, [[(10, 20, 30)], [(7, 8, 9)]])


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01", b"Exif\0\0nonsense"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_does_not_lose_the_picture(format, exif):
    content = encode(Image.fromarray(RGB), format, exif=exif)
    plain = encode(Image.fromarray(RGB), format)
    np.testing.assert_array_equal(decode_image(content), decode_image(plain))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation(format):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    content = encode(frames[0], format, save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(content)).n_frames == 3
    expected = np.broadcast_to(np.array([255, 0, 0], dtype=np.uint8), (6, 8, 3))
    np.testing.assert_array_equal(decode_image(content), expected)


def snapshot(image):
    palette = None if image.palette is None else image.getpalette("RGBA")
    return image.mode, image.size, dict(image.info), image.tobytes(), palette


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "F"])
def test_a_pil_image_is_not_modified(mode):
    image = (
        Image.fromarray(GRAY).convert("L").convert(mode) if mode != "F" else Image.new("F", (3, 2))
    )
    if mode == "P":
        image.info["transparency"] = bytes(range(256))
    image.getexif()[0x0112] = 6
    before = snapshot(image)
    pixels = decode_image(image)
    assert pixels.shape[:2] == image.size  # it was turned by a quarter
    pixels[:] = 77
    assert snapshot(image) == before
    assert image.getexif()[0x0112] == 6


def test_the_pixels_of_an_rgb_image_are_not_shared():
    image = Image.fromarray(RGB)
    as_images([image]).read_rgb(0).putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(np.array(image), RGB)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "GIF", "WEBP"])
def test_one_lazy_pil_image_in_many_threads(format):
    size = 160
    pixels = RNG.integers(0, 256, (size, size * 2, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6
    content = encode(image, format, **({} if format == "GIF" else {"exif": exif}))
    expected = decode_image(content)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            lazy = Image.open(io.BytesIO(content))
            for result in pool.map(decode_image, [lazy] * 8):
                np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    "background",
    ["no colour", "", (1, 2), (1, 2, 256), (-1, 0, 0), (0.5, 0, 0), None, 3, (1, 2, 3, 4)],
)
def test_a_background_that_is_no_colour(background):
    with pytest.raises(ParameterError, match=r"background must be the name of a colour"):
        decode_image(encode(Image.fromarray(RGB), "PNG"), background=background)


def test_background_with_alpha_counts_as_its_colour():
    image = Image.new("RGBA", (1, 1), (0, 0, 0, 0))
    np.testing.assert_array_equal(decode_image(image, background="#0a141e80"), [[(10, 20, 30)]])


@pytest.mark.parametrize("white", [1.0, 65535])
def test_tiff_whose_zero_is_white(white):
    dtype = np.float32 if white == 1.0 else np.uint16
    samples = (np.array([[0, 0.25, 1]]) * white).astype(dtype)
    image = Image.fromarray(samples)
    plain, inverted = io.BytesIO(), io.BytesIO()
    image.save(plain, "TIFF")
    image.save(inverted, "TIFF", tiffinfo={262: 0})
    assert Image.open(inverted).tag_v2[262] == 0
    expected = decode_image(plain.getvalue())
    for item in (inverted.getvalue(), Image.open(inverted)):
        np.testing.assert_array_equal(decode_image(item), 255 - expected)


def test_small_whole_numbers_of_32_bits_are_refused():
    """They may be of 8 bits, or dark ones of 16."""
    for high in (1, 200, 255):
        with pytest.raises(ValueError, match=r"from 0 to .*no agreed white"):
            decode_image(Image.fromarray(np.array([[0, high]], dtype=np.int32)))
    black = Image.fromarray(np.zeros((2, 2), dtype=np.int32))
    assert not decode_image(black).any()
    dark = io.BytesIO(b"P5 2 1 65535 " + np.array([0, 257], dtype=">u2").tobytes())
    for item in (dark.getvalue(), Image.open(dark)):
        np.testing.assert_array_equal(decode_image(item), as_rgb([[0, 1]]))
