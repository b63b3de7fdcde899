"""Decoding: every nasty file gets its picture, or the reason why there is none."""

import io
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from distfacegan.errors import UnreadablePhotoError
from distfacegan.sources import images

RED, GREEN = (250, 10, 20), (10, 200, 30)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def red_left(width: int = 48, height: int = 32) -> Image.Image:
    """A green picture whose left quarter is red."""
    image = Image.new("RGB", (width, height), GREEN)
    image.paste(RED, (0, 0, width // 4, height))
    return image


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def photo_jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return encode(Image.fromarray(noise), "JPEG", exif=oriented(6))


GREY_16 = Image.fromarray(np.full((8, 8), 0x8012, np.uint16))
HALF_CLEAR = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
INDEXED = Image.new("P", (8, 8), 1)
INDEXED.putpalette([0, 0, 0, *RED])

# (file, the colour of its middle pixel)
READABLE = {
    "rgb png": (encode(Image.new("RGB", (8, 8), RED)), RED),
    "rgb jpeg": (encode(Image.new("RGB", (8, 8), RED), "JPEG"), RED),
    "progressive jpeg": (encode(Image.new("RGB", (8, 8), RED), "JPEG", progressive=True), RED),
    "rgb webp": (encode(Image.new("RGB", (8, 8), RED), "WEBP", lossless=True), RED),
    "rgb bmp": (encode(Image.new("RGB", (8, 8), RED), "BMP"), RED),
    "rgb tiff": (encode(Image.new("RGB", (8, 8), RED), "TIFF"), RED),
    "grey jpeg": (encode(Image.new("L", (8, 8), 77), "JPEG"), (77, 77, 77)),
    "grey png": (encode(Image.new("L", (8, 8), 77)), (77, 77, 77)),
    "one bit png": (encode(Image.new("1", (8, 8), 1)), (255, 255, 255)),
    # 0x8012 of 0xFFFF is 128 of 255.
    "16 bit grey png": (encode(GREY_16), (128, 128, 128)),
    "16 bit grey tiff": (encode(GREY_16, "TIFF"), (128, 128, 128)),
    "16 bit grey pgm": (b"P5 1 1 65535\n\x80\x12", (128, 128, 128)),
    "palette png": (encode(INDEXED), RED),
    "palette gif": (encode(INDEXED, "GIF"), RED),
    # Half of the red and half of the white: 255, then 255 * (1 - 128/255) = 127.
    "rgba png": (encode(HALF_CLEAR), (255, 127, 127)),
    "grey and alpha png": (encode(Image.new("LA", (8, 8), (0, 128))), (127, 127, 127)),
    "clear palette png": (encode(INDEXED, transparency=1), (255, 255, 255)),
    "clear colour png": (encode(Image.new("RGB", (8, 8), RED), transparency=RED), (255, 255, 255)),
    # Cyan 50%, key 20%: red is 255 * 0.5 * 0.8 = 102, green and blue 255 * 0.8 = 204.
    "cmyk jpeg": (encode(Image.new("CMYK", (8, 8), (128, 0, 0, 51)), "JPEG"), (102, 204, 204)),
    "cmyk tiff": (encode(Image.new("CMYK", (8, 8), (128, 0, 0, 51)), "TIFF"), (102, 204, 204)),
    "animated gif": (
        encode(INDEXED, "GIF", save_all=True, append_images=[Image.new("P", (8, 8), 0)]),
        RED,
    ),
    "one pixel": (encode(Image.new("RGB", (1, 1), RED)), RED),
    "jpeg with rubbish behind": (encode(Image.new("RGB", (8, 8), RED), "JPEG") + b"x" * 99, RED),
}

UNREADABLE = {
    "zero bytes": (b"", "empty"),
    "text": (b"<html>404 not found</html>", "not an image"),
    "a zip": (b"PK\x03\x04" + bytes(100), "not an image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "half a jpeg": (photo_jpeg()[:-1500], "truncated"),
    "a jpeg short of a hundred bytes": (photo_jpeg()[:-100], "truncated"),
    "a jpeg header": (photo_jpeg()[:700], "damaged"),
    "a png cut short": (encode(red_left())[:-60], "damaged"),
    "a png with a wrong pixel byte": (encode(red_left()).replace(b"IDATx", b"IDATy"), "damaged"),
    "a png of 40,000 x 40,000": (png_header(40_000, 40_000), "89,000,000 pixels"),
    "a png where Pillow would only warn": (png_header(10_000, 9_500), "89,000,000 pixels"),
    "a png just above the limit": (png_header(8_901, 10_000), "89,000,000 pixels"),
    "float tiff": (encode(Image.new("F", (8, 8), 0.5), "TIFF"), "floating-point"),
    "32 bit tiff": (encode(Image.new("I", (8, 8), 70_000), "TIFF"), "16 bits"),
}


@pytest.mark.parametrize("name", READABLE)
def test_a_readable_file_becomes_8_bit_rgb(name):
    data, colour = READABLE[name]
    picture = images.decode(data)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    middle = picture[picture.shape[0] // 2, picture.shape[1] // 2].astype(int)
    assert np.abs(middle - colour).max() <= (3 if "jpeg" in name else 1)


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_file_says_why(name):
    data, reason = UNREADABLE[name]
    with pytest.raises(UnreadablePhotoError, match=reason):
        images.decode(data)


def test_a_cmyk_jpeg_is_inverted_as_adobe_writes_it():
    # Adobe stores 255 - ink. Pillow writes that, with Adobe's marker; OpenCV decodes it on its own.
    data = encode(Image.new("CMYK", (16, 16), (200, 30, 60, 40)), "JPEG", quality=95)
    assert b"Adobe" in data
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.abs(images.decode(data).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_photo_and_its_points_together(kind, orientation):
    stored = np.full((40, 60, 3), 30, np.uint8)
    stored[8:12, 44:48] = 250  # a dot whose centre is at x 45.5, y 9.5
    quality = {"quality": 95} if kind == "JPEG" else {}
    data = encode(Image.fromarray(stored), kind, exif=oriented(orientation), **quality)
    picture = images.decode(data)
    # Turned by 90 degrees from 5 on. OpenCV applies the orientation on its own (not of TIFF).
    assert picture.shape == ((60, 40, 3) if orientation > 4 else (40, 60, 3))
    if kind == "JPEG":
        upright = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert np.abs(picture.astype(int) - upright).max() <= 3
    rows, columns = np.nonzero(picture[:, :, 0] > 140)
    point = images.upright_points(data, np.array([[45.5, 9.5]]))
    np.testing.assert_allclose(point, [[columns.mean(), rows.mean()]], atol=0.05)


@pytest.mark.parametrize(("width", "scale"), [(4095, 1), (4096, 2), (5001, 2), (8192, 4)])
def test_a_large_jpeg_is_reduced_and_its_points_stay_on_their_feature(width, scale):
    stored = np.full((240, width, 3), 30, np.uint8)
    stored[96:128, 1600:1632] = 250  # its centre is at x 1615.5, y 111.5
    data = encode(Image.fromarray(stored), "JPEG", quality=95)
    picture = images.decode(data)
    assert picture.shape[:2] == (240 // scale, -(-width // scale))
    rows, columns = np.nonzero(picture[:, :, 0] > 140)
    point = images.upright_points(data, np.array([[1615.5, 111.5]]))
    np.testing.assert_allclose(point, [[columns.mean(), rows.mean()]], atol=0.05)


def test_no_damage_raises_anything_but_unreadable():
    random = np.random.default_rng(1)
    for good in (
        photo_jpeg(),
        encode(red_left()),
        encode(red_left(), "TIFF"),
        encode(INDEXED, "GIF"),
    ):
        for _ in range(100):
            bad = bytearray(good)
            for place in random.integers(0, len(bad), 5):
                bad[place] = random.integers(0, 256)
            try:
                assert images.decode(bytes(bad)).dtype == np.uint8
            except UnreadablePhotoError:
                continue


def test_decoding_leaves_the_warning_filters_and_pillow_alone():
    before = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    images.decode(photo_jpeg())
    with pytest.raises(UnreadablePhotoError):
        images.decode(png_header(10_000, 9_500))
    assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS) == before
