"""The source of procedural faces, and the function that draws a face."""

import hashlib
from collections.abc import Sequence
from typing import Literal, overload

import numpy as np

from distfacegan.errors import SourceError
from distfacegan.settings import Rows
from distfacegan.sources.procedural.hair import build_hair
from distfacegan.sources.procedural.head import Head, build_head
from distfacegan.sources.procedural.paint import paint_face
from distfacegan.sources.procedural.raster import Camera, Surface, draw
from distfacegan.sources.procedural.scene import build_body, paint_background
from distfacegan.sources.procedural.traits import sample_traits
from distfacegan.sources.source import SourceSection

SIZE = 192  # the side of a photo, in pixels
VERSION = 1  # raise this number with every change to the look of a face


class ProceduralSection(SourceSection):
    """Faces drawn by the project itself, with exact landmarks; nothing to download."""

    kind: Literal["procedural"]
    count: Rows
    """How many faces to draw."""

    def open(self, seed: int) -> "ProceduralFaces":
        """Return the faces of a seed."""
        return ProceduralFaces(self.count, seed)

    def num_photos(self, seed: int) -> int:
        """Return the count, without making the keys."""
        return self.count

    def describe(self, count: int) -> str:
        """Return the number of faces, and that nothing is on disk."""
        return f"{count:,} procedural faces, drawn as they are read"


class ProceduralFaces:
    """A source of `count` rendered faces; row i is a pure function of (seed, i).

    Raises SourceError for a count or a seed that cannot be used.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count = _whole("count", count, at_least=1)
        self.seed = _whole("seed", seed, at_least=0)

    @property
    def keys(self) -> Sequence[str]:
        """The names of the photos: their rows."""
        return _Names(range(self.count))

    def read(self, row: int) -> np.ndarray:
        """Return the photo of a row, u8 RGB [192, 192, 3]."""
        return render_face(self.seed, self._known(row))[0]

    def annotation(self, row: int) -> np.ndarray:
        """Return the exact landmarks of a row, f32 [49, 2], pixels of its photo."""
        traits = sample_traits(self.seed, self._known(row))
        return _see_landmarks(build_head(traits), Camera(traits.pose, SIZE))

    def fingerprint(self) -> str:
        """Return a digest of everything that the photos depend on."""
        return hashlib.sha256(f"procedural {VERSION} {self.seed} {self.count}".encode()).hexdigest()

    def _known(self, row: int) -> int:
        if not 0 <= row < self.count:
            raise IndexError(f"row {row} of {self.count} procedural faces")
        return row


class _Names(Sequence[str]):
    """Row numbers as texts, each made when it is asked for."""

    def __init__(self, rows: range) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...

    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        found = self._rows[place]
        return _Names(found) if isinstance(found, range) else f"{found:06d}"


def render_face(seed: int, row: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Return a face, u8 RGB [size, size, 3], and its landmarks, f32 [49, 2], x and y in pixels.

    The centre of pixel (column, row) is at (column, row). `size` is at most 512.
    """
    traits = sample_traits(seed, row)
    camera = Camera(traits.pose, size)
    head = build_head(traits)
    behind, before = build_hair(traits)
    face = Surface(head.sheet(), paint_face(head, traits))
    picture = paint_background(traits.look, size)
    for surface in (*behind, build_body(traits.look), face, *before):
        draw(picture, surface, camera, traits.light)
    return np.round(picture).astype(np.uint8), _see_landmarks(head, camera)


def _see_landmarks(head: Head, camera: Camera) -> np.ndarray:
    """Return where the camera sees the landmarks, f32 [49, 2], pixels."""
    x, y, _ = camera.project(camera.turn(head.landmarks()))
    return np.stack([x - 0.5, y - 0.5], axis=-1).astype(np.float32)


def _whole(name: str, value: int, at_least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise SourceError(
            f"procedural faces: {name} is {value!r}; give a whole number of {at_least} or more"
        )
    return value
