"""A picture of the page: the pixels as a data URI, the landmarks as SVG paths above the pixels."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from distfacegan.core.grids import encode
from distfacegan.errors import RunDirectoryError
from distfacegan.store.location import Location

MAX_SIDE = 128  # pixels; larger faces are shrunk to this side


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture of the page.

    `marks` are pairs of a kind of landmarks and an SVG path in a 100 x 100 box.
    """

    uri: str
    alt: str
    label: str = ""
    marks: Sequence[tuple[str, str]] = ()
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)  # those in the label


def picture(
    face: np.ndarray,
    alt: str,
    label: str = "",
    numbers: Mapping[str, float] | None = None,
    **marks: np.ndarray,
) -> Picture:
    """Make a picture of a face u8 [R, R, 3].

    `marks` are landmarks [49, 2] by kind, in units of the face.
    """
    paths = [(kind, dots(points)) for kind, points in marks.items()]
    return Picture(webp(shrink(face, MAX_SIDE)), alt, label, paths, numbers or {})


def shrink(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return a picture u8 [H, W, 3] with its longer side at most `side`."""
    scale = side / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    height, width = (max(1, round(length * scale)) for length in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def dots(points: np.ndarray) -> str:
    """Return an SVG path with a tiny line at every finite point [P, 2]: a dot with round caps."""
    return "".join(f"M{100 * x:.1f} {100 * y:.1f}h.01" for x, y in points if np.isfinite(x + y))


def webp(pixels: np.ndarray) -> str:
    """Encode pixels as lossless WebP, which is a third smaller than PNG."""
    return data_uri(encode(pixels, ".webp"), "webp")


def data_uri(data: bytes, kind: str) -> str:
    """Return an encoded image as a data URI, which holds the image itself."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def read_picture(path: Location) -> np.ndarray:
    """Return the pixels u8 [H, W, 3] of a picture file; raises RunDirectoryError for damage."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if pixels is None:
        raise RunDirectoryError(
            f"{path} is damaged: it is no picture; delete it. `distfacegan verify` checks "
            "everything else"
        )
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
