"""Decode one photo to an upright RGB picture, or raise an error with the reason.

Points are in pixels, and the centre of pixel (column, row) is at (column, row), as in OpenCV.
"""

import io
import math
import warnings
from types import TracebackType

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from distfacegan.errors import UnreadablePhotoError

# The accepted formats. Pillow opens more formats, and runs other programs for some, such as EPS.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
_NAMES = "jpg jpeg jfif mpo png webp bmp tif tiff gif ppm pgm"
SUFFIXES = frozenset("." + name for name in _NAMES.split())
MAX_PIXELS = 89_000_000  # 267 MB of RGB; Pillow warns of decompression bombs from 89.5 million
DRAFT_SIDE = 2048  # a large JPEG is decoded smaller, but not below this longest side
BACKGROUND = (255, 255, 255)  # white, the colour behind transparent pixels


def decode(data: bytes) -> np.ndarray:
    """Return the first picture of an image file, u8 [H, W, 3], upright, RGB.

    EXIF orientation is applied. Grey, palette, 16 bit and CMYK pixels become 8 bit RGB. Transparent
    pixels are laid on white. Colour profiles are ignored. A JPEG whose longest side is at least 2,
    4 or 8 times `DRAFT_SIDE` is decoded at a half, a quarter or an eighth of its size.

    Raises UnreadablePhotoError for a file that is truncated, damaged, no image or larger than
    `MAX_PIXELS`.
    """
    with _Strict():
        image, _ = _open(data)
        ImageOps.exif_transpose(image, in_place=True)
        return np.array(_to_rgb(image))


def upright_points(data: bytes, points: np.ndarray) -> np.ndarray:
    """Convert points [P, 2] from the stored pixels of an image file to the pixels of `decode`.

    The EXIF orientation and the scale of a large JPEG are applied. Only the header is read.
    Raises UnreadablePhotoError for a header that cannot be read.
    """
    with _Strict():
        image, scale = _open(data)
        width, height = image.size
        if isinstance(
            image, TiffImagePlugin.TiffImageFile
        ):  # for a TIFF, Pillow's `size` is already that of the upright picture
            width, height = image.tag_v2[256], image.tag_v2[257]
        x, y = ((points.astype(np.float64) + 0.5) / scale - 0.5).T
        right, bottom = width - 1 - x, height - 1 - y
        turned = {
            2: (right, y),
            3: (right, bottom),
            4: (x, bottom),
            5: (y, x),
            6: (bottom, x),
            7: (bottom, right),
            8: (y, right),
        }.get(image.getexif().get(ExifTags.Base.Orientation, 1), (x, y))
        return np.stack(turned, axis=1).astype(np.float32)


class _Strict(warnings.catch_warnings):
    """Turn every error of a decoder into UnreadablePhotoError, and hide Pillow's warnings."""

    def __enter__(self) -> None:
        super().__enter__()
        # Only Pillow's warnings are ignored: if two threads leave this context in the wrong order,
        # the filter stays, and must not hide other warnings.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)

    def __exit__(
        self, kind: type | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        # Damaged files raise many kinds of errors, from SyntaxError to struct.error. A MemoryError
        # is not the photo's fault: marked as unreadable, the photo would be lost for good.
        if isinstance(error, MemoryError | UnreadablePhotoError):
            return
        if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
            raise UnreadablePhotoError(f"more than {MAX_PIXELS:,} pixels") from error
        if isinstance(error, Image.UnidentifiedImageError):
            raise UnreadablePhotoError(f"not an image of {', '.join(FORMATS)}") from error
        if isinstance(error, Exception):
            reason = f"damaged image: {error}" if str(error) else "damaged image"
            raise UnreadablePhotoError(reason) from error


def _open(data: bytes) -> tuple[Image.Image, int]:
    """Read the header; return the image and the factor (1, 2, 4, 8) by which it is scaled down."""
    if not data:
        raise UnreadablePhotoError("the file is empty")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    stored = image.size
    if math.prod(stored) > MAX_PIXELS:
        raise UnreadablePhotoError(f"{stored[0]} x {stored[1]} is more than {MAX_PIXELS:,} pixels")
    if max(stored) >= 2 * DRAFT_SIDE:  # draft() has no effect on other formats than JPEG
        width, height = (max(1, DRAFT_SIDE * side // max(stored)) for side in stored)
        image.draft(None, (width, height))
    return image, round(max(stored) / max(image.size))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow would clip 16 bit values at 255
        values = np.array(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadablePhotoError("integer pixels of more than 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise UnreadablePhotoError("floating-point pixels, whose range is not known")
    elif image.has_transparency_data:
        background = Image.new("RGBA", image.size, BACKGROUND)
        image = Image.alpha_composite(background, image.convert("RGBA"))
    return image.convert("RGB")
