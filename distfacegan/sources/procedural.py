"""Procedural faces: a source of varied, shaded faces with their exact landmarks, made from (seed, row)."""

from __future__ import annotations

import cv2
import numpy as np

from distfacegan.errors import SourceError
from distfacegan.sources.procedural_hair import build_hair
from distfacegan.sources.procedural_head import build_head, chart_of, place_features
from distfacegan.sources.procedural_paint import paint_face
from distfacegan.sources.procedural_raster import Camera, Surface, draw
from distfacegan.sources.procedural_scene import build_body, paint_background
from distfacegan.sources.procedural_traits import sample_traits
from distfacegan.sources.source import listing_fingerprint

SHEET = (300, 320)  # rows, columns of the painted head


class ProceduralFaces:
    """A source of `count` rendered faces; row i is a pure function of (seed, i).

    Raises SourceError for a count below 1.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise SourceError(
                f"procedural faces: count is {count!r}; give a whole number of 1 or more"
            )
        self.count, self.seed = count, seed

    @property
    def keys(self) -> list[str]:
        """The names of the photos: their rows."""
        return [f"{row:06d}" for row in range(self.count)]

    def read(self, row: int) -> np.ndarray:
        """Return the photo of a row, u8 RGB [192, 192, 3]."""
        return render_face(self.seed, self._known(row))[0]

    def annotation(self, row: int) -> np.ndarray:
        """Return the exact landmarks of a row, f32 [49, 2]; (0, 0) is the centre of a pixel."""
        return render_face(self.seed, self._known(row))[1] - np.float32(0.5)

    def fingerprint(self) -> str:
        """Return a digest of what makes the faces: their number and the seed."""
        return listing_fingerprint(f"procedural {self.seed}", self.keys, [0] * self.count)

    def _known(self, row: int) -> int:
        if not 0 <= row < self.count:
            raise IndexError(f"row {row} of {self.count} procedural faces")
        return row


def render_face(seed: int, row: int, size: int = 192) -> tuple[np.ndarray, np.ndarray]:
    """Return one face, u8 RGB [size, size, 3], and its landmarks, f32 [49, 2], x and y in pixels.

    The centre of pixel (column, row) is at (column, row).
    """
    traits = sample_traits(seed, row)
    shape, expression, look = traits.shape, traits.expression, traits.look
    chart, features = chart_of(shape, expression), place_features(shape, expression)
    camera = Camera(traits.pose, size)
    head = build_head(chart, shape, expression, features, look)
    albedo = paint_face(chart, shape, expression, features, look, SHEET)
    picture = paint_background(look, size)
    behind, before = build_hair(shape, look)
    for surface in (*behind, build_body(traits)):
        draw(picture, surface, camera, traits.light)
    screen = draw(picture, Surface(head, albedo), camera, traits.light)
    for surface in before:
        draw(picture, surface, camera, traits.light)
    u, v = (chart.locate(features.landmarks) * [head.shape[1], head.shape[0]] - 0.5).T
    landmarks = cv2.remap(screen, u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR)
    return np.round(picture).astype(np.uint8), landmarks[:, 0, :2] - np.float32(0.5)
